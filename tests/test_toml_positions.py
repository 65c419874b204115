"""Where keys stand in a TOML text: every path that tomllib knows has a position, and it is the right one."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.toml_positions import KeyPath, nearest, positions

TEXT = '''\
# a comment with [brackets] and = signs
title = "x # not a comment"
"quoted key" = 1
'literal key' = 2
a.b.c = 3
"esc\\u0061ped" = 4

[table]
  indented = true
list = [1, [2, 3], {x = 4}]
many = [
  "one", # first
  "two",
]
inline = { x = 1, "y z" = [ { deep = 2 } ] }
multi = """
[not.a.table]
key = "no"
""\\"
"""
literal = \'\'\'
x = 'y' \'\'\'\'
after = 2026-01-31 10:00:00

[[rule]]
name = "one"
  [rule.match]
  Modality = "CT"

[[rule]]
name = "two"
[[rule.part]]
x = 1
[[rule.part]]
y = 2
'''

EXPECTED: dict[KeyPath, tuple[int, int]] = {
    ("title",): (2, 1),
    ("quoted key",): (3, 1),
    ("literal key",): (4, 1),
    ("a",): (5, 1),
    ("a", "b", "c"): (5, 1),
    ("escaped",): (6, 1),
    ("table",): (8, 1),
    ("table", "indented"): (9, 3),
    ("table", "list", 0): (10, 9),
    ("table", "list", 1, 1): (10, 16),
    ("table", "list", 2, "x"): (10, 21),
    ("table", "many", 1): (13, 3),
    ("table", "inline", "x"): (15, 12),
    ("table", "inline", "y z", 0, "deep"): (15, 31),
    ("table", "multi"): (16, 1),
    ("table", "literal"): (21, 1),
    ("table", "after"): (23, 1),
    ("rule",): (25, 1),
    ("rule", 0): (25, 1),
    ("rule", 0, "match"): (27, 3),
    ("rule", 0, "match", "Modality"): (28, 3),
    ("rule", 1): (30, 1),
    ("rule", 1, "name"): (31, 1),
    ("rule", 1, "part", 0, "x"): (33, 1),
    ("rule", 1, "part", 1, "y"): (35, 1),
}


def paths(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from paths(item, (*path, key))


@pytest.mark.parametrize("path", EXPECTED, ids=lambda path: ".".join(map(str, path)))
def test_a_key_stands_where_a_person_would_look(path: KeyPath) -> None:
    assert positions(TEXT)[path] == EXPECTED[path]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_key_of_the_text_has_a_position_and_nothing_else_has(newline: str) -> None:
    text = TEXT.replace("\n", newline)
    assert set(positions(text)) == set(paths(tomllib.loads(text)))


def test_what_has_no_position_takes_that_of_what_holds_it() -> None:
    found = positions(TEXT)
    assert nearest(found, ("rule", 1, "match", "Modality")) == (30, 1)
    assert nearest(found, ("nowhere",)) == (1, 1)


KEYS = st.one_of(
    st.from_regex(r"\A[A-Za-z0-9_-]{1,6}\Z"),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=6),
)


def key_text(key: str, *, bare: bool) -> str:
    if bare and key and key.isascii() and key.replace("_", "").replace("-", "").isalnum():
        return key
    return '"' + "".join(f"\\u{ord(c):04x}" if c in '"\\' else c for c in key) + '"'


VALUES = st.recursive(
    st.one_of(
        st.integers(-9, 9).map(str),
        st.booleans().map(lambda value: str(value).lower()),
        st.sampled_from(
            ['"a"', "'b'", '"#]}"', '"""x\n"""', "'''y\n]'''", '"\\""', '""', "1.5", "1979-05-27", '"""a"""""']
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
        st.lists(inner, max_size=3).map(lambda items: "[\n" + ",  # next ]\n".join(items) + "\n]"),
        st.dictionaries(KEYS, inner, max_size=3).map(
            lambda table: "{" + ", ".join(f"{key_text(k, bare=True)} = {v}" for k, v in table.items()) + "}"
        ),
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(KEYS, VALUES, max_size=5),
    st.booleans(),
    st.sampled_from(["", "[t]\n", "[[t]]\n[[t]]\n", "[t.'u v']\n"]),
)
def test_whatever_tomllib_reads_has_positions(table: dict[str, str], bare: bool, header: str) -> None:
    text = header + "".join(f"{key_text(key, bare=bare)} = {value}\n" for key, value in table.items())
    values = tomllib.loads(text)
    assert set(positions(text)) == set(paths(values))
