"""``config show``: one router.toml that says what files, environment and defaults come to, and no secret."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from router.app.cli.config import as_toml
from router.app.cli.root import cli
from router.app.config import load_config

SECRET = "hunter2"
FULL = """
[node]
name = "site-7"
[[listen]]
bind = "127.0.0.1:2762"
tls = { certificate = "a.pem", key = "a.key", ca = "ca.pem", key_password = { env = "KEY_PW" } }
[[listen]]
bind = "127.0.0.1:104"
ae_titles = ["A", "B"]
tls = "off"
[peers.ct1]
ae_title = "CT \\"1"
addresses = ["10.1.0.0/16"]
certificate = { san = ["ct1.hospital"] }
[destinations.pacs]
url = "dicoms://PACS@10.1.2.3:2762"
tls = { certificate = "b.pem", key = "b.key", key_password = { file = "b.pw" } }
[destinations."vna.2"]
url = "file:archive"
transfer_syntaxes = ["ExplicitVRLittleEndian"]
[limits]
object_size = "2GiB"
"""


def shown(path: Path, *more: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, ["config", "show", "-c", str(path), *more], env=env)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "router.toml"
    path.write_text(FULL)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "10-more.toml").write_text("[spool]\nspare_segments = 7\n")
    (tmp_path / "b.pw").write_text(SECRET)
    return path


def test_what_is_shown_configures_the_same_router(site: Path) -> None:
    env = {"DICOM_ROUTER__LOG__LEVEL": "debug", "KEY_PW": SECRET}
    result = shown(site, env=env)
    assert result.exit_code == 0, result.output
    before = load_config(site, env)
    (site.parent / "conf.d" / "10-more.toml").unlink()
    site.write_text(result.stdout)
    after = load_config(site, {})
    assert (after.log_level, after.spool.spare_segments, len(after.listeners)) == ("debug", 7, 2)
    places = [replace(one, tls=one.tls and replace(one.tls, place="")) for one in after.listeners + after.destinations]
    assert places == [
        replace(one, tls=one.tls and replace(one.tls, place="")) for one in before.listeners + before.destinations
    ]
    assert replace(after, listeners=(), destinations=()) == replace(before, listeners=(), destinations=())


def test_secrets_are_shown_as_what_refers_to_them(site: Path) -> None:
    for more in ((), ("--json",)):
        result = shown(site, *more, env={"KEY_PW": SECRET})
        assert SECRET not in result.output
        values = json.loads(result.stdout) if more else tomllib.loads(result.stdout)
        assert values["listen"][0]["tls"]["key_password"] == {"env": "KEY_PW"}
        assert values["destinations"]["pacs"]["tls"]["key_password"] == {"file": "b.pw"}


def test_a_wrong_configuration_is_told_as_everywhere(site: Path) -> None:
    result = shown(site, env={"DICOM_ROUTER__LISTEN__0__TLS__KEY_PASSWORD": SECRET, "DICOM_ROUTER__NODE__NAM": "x"})
    assert result.exit_code == 78
    assert "DICOM_ROUTER__LISTEN__0__TLS__KEY_PASSWORD: listen.0.tls.key_password: must be a reference" in result.stderr
    assert SECRET not in result.output


def test_without_a_file_the_defaults_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DICOM_ROUTER")]:
        monkeypatch.delenv(name)
    result = CliRunner().invoke(cli, ["config", "show"])
    if not Path("/etc/dicom-router/router.toml").exists():
        assert "# embedded defaults" in result.stdout
        assert tomllib.loads(result.stdout)["listen"][0]["bind"] == "127.0.0.1:11112"


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = texts | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
tables = st.recursive(
    st.dictionaries(texts, scalars | st.lists(scalars, max_size=3), max_size=4),
    lambda inner: st.dictionaries(texts, scalars | inner | st.lists(inner, min_size=1, max_size=3), max_size=4),
    max_leaves=12,
)


@given(tables)
def test_any_table_is_read_back_as_it_was(table: dict[str, object]) -> None:
    assert tomllib.loads("\n".join(as_toml(table))) == table
