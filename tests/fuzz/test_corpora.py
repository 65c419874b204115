"""What fuzzing has brought to light stays so: every input of the corpora, and changes of them, break no promise.

The fuzzer itself is ``make fuzz``; this is what every run of the tests does without it.
"""

from __future__ import annotations

import pkgutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.mutate import mutations, single_changes
from tests.fuzz.targets import TARGETS, Target
from tests.torture.figures import Figure, report

FILES = [path for target in TARGETS.values() for path in target.corpus]
SHARES = {
    "pdu": 1000,
    "association": 400,
    "command": 1500,
    "message": 1500,
    "dataset": 800,
    "values": 3000,
    "part10": 1500,
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_an_input_of_the_corpora_breaks_no_promise(path: Path) -> None:
    TARGETS[path.parent.name].run(path.read_bytes())


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_no_change_of_an_input_breaks_a_promise(
    target: Target, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    count = amount("mutations", SHARES.get(target.name, 60), 20_000)
    corpus = [path.read_bytes() for path in target.corpus]
    for data in mutations(corpus, target.words, count, target.longest, seed=zlib.crc32(target.name.encode())):
        try:
            target.run(data)
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}\n{target.name}: bytes.fromhex({data.hex()!r})")
    report(
        Figure(
            test="T25",
            promise=f"mutated input: {target.promise}",
            goal="0 crashes, 0 hangs > 1 s",
            found="0 crashes, 0 hangs",
            n=count,
            command=f"make torture (tests/fuzz/test_corpora.py, --amount mutations={count})",
        ),
        keep=campaign,
    )


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_no_byte_of_an_input_is_one_that_everything_hangs_on(
    target: Target, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    """Each byte in turn: lowest, highest, beside what it was, missing, doubled."""
    share = {"rules": 50, "association": 200}.get(target.name, 700)
    limit = amount("bytes", share, 1 << 30)
    changed = list(single_changes([path.read_bytes() for path in target.corpus]))
    step = max(1, len(changed) // limit)
    for data in changed[::step]:
        try:
            target.run(data)
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}\n{target.name}: bytes.fromhex({data.hex()!r})")
    report(
        Figure(
            test="T25",
            promise=f"every byte changed: {target.promise}",
            goal="0 crashes, 0 hangs > 1 s",
            found="0 crashes, 0 hangs",
            n=len(changed[::step]),
            command="make torture (tests/fuzz/test_corpora.py)",
        ),
        keep=campaign,
    )


BREAKS = {
    "pdu": ("tests.support.plain_pdu.PduReader.feed", lambda was: lambda self, data: was(self, data)[:1]),
    "association": ("router.ul.association.Association._hold", lambda was: lambda self, items, data: None),
    "command": ("tests.support.plain_command._number", lambda was: lambda value: int.from_bytes(value, "little")),
    "message": ("tests.support.plain_assembler.parse_command", lambda was: lambda data: was(data[:-1])),
    "dataset": ("tests.support.plain_walk.UNDEFINED", lambda was: 0xFFFFFFFE),
    "values": ("router.dicom.attributes.decode", lambda was: lambda value, vr, terms: value.decode("utf-8")),
    "part10": ("router.dicom.part10._LONG", lambda was: frozenset()),
    "rules": ("router.routing.rules.failing", lambda was: lambda conditions, view: 1 / 0),
}
"""One fault for each target, in what it compares or in the router itself."""


@pytest.mark.parametrize("name", TARGETS)
def test_a_fault_is_found_by_the_corpus(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, broken = BREAKS[name]
    monkeypatch.setattr(where, broken(pkgutil.resolve_name(where)))
    failed = 0
    for path in TARGETS[name].corpus:
        try:
            TARGETS[name].run(path.read_bytes())
        except Exception:
            failed += 1
    assert failed


def test_the_corpora_are_small() -> None:
    assert len(FILES) <= 200
    assert all(path.stat().st_size <= 4096 for path in FILES)
