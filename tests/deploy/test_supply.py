"""The lock file, the bill of materials and the licences are those of what is installed by default."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy.supply import LOCK, ROOT, SBOM, canonical, judge, licence, locked, needs

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {package.name: package for package in locked()}


def test_the_lock_satisfies_what_the_project_asks_for() -> None:
    for text in PROJECT["dependencies"]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(PINS[canonical(wanted.name)].version), text


def test_the_lock_is_closed() -> None:
    for name in PINS:
        missing = {needed for needed in needs(name) if needed not in PINS and needed in INSTALLED_HERE}
        assert not missing, f"{name} needs {missing}"


INSTALLED_HERE = frozenset({"anyio", "annotated-types", "h11", "idna", "pydantic-core", "typing-inspection"})
"""What comes with others, on the platforms that we are tested on."""


def test_every_package_has_its_hashes_and_no_line_says_where_it_comes_from() -> None:
    assert all(package.hashes for package in PINS.values())
    assert not re.search(r"https?://|--(index|find|extra|trusted)", LOCK.read_text())


@pytest.mark.parametrize("name", sorted(PINS))
def test_the_default_install_has_no_gpl(name: str) -> None:
    text = licence(name)
    assert text != "unknown"
    assert not re.search(r"\bA?GPL|GNU (Affero )?General Public", text), text


def test_the_bill_of_materials_is_that_of_the_lock() -> None:
    document = json.loads(SBOM.read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    listed = {part["name"]: part for part in document["components"]}
    assert {name: part["version"] for name, part in listed.items()} == {
        name: package.version for name, package in PINS.items()
    }
    for name, part in listed.items():
        (reference,) = part["externalReferences"]
        assert [item["content"] for item in reference["hashes"]] == list(PINS[name].hashes)
        assert part["licenses"][0]["license"]["name"]
    refs = {part["bom-ref"] for part in document["components"]} | {document["metadata"]["component"]["bom-ref"]}
    assert {item["ref"] for item in document["dependencies"]} == refs
    assert all(set(item["dependsOn"]) <= refs for item in document["dependencies"])


def test_a_lock_that_is_not_understood_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "lock"
    broken.write_text("pydicom>=3\n")
    with pytest.raises(ValueError, match="not understood"):
        locked(broken)


def test_what_could_not_be_asked_is_said_and_what_is_vulnerable_fails(capsys: pytest.CaptureFixture[str]) -> None:
    fine: list[dict[str, object]] = [
        {"name": name, "version": package.version, "vulns": []} for name, package in PINS.items()
    ]
    assert judge(fine, required=True) == 0
    skipped: list[dict[str, object]] = [{"name": name, "skip_reason": "no answer"} for name in PINS]
    assert (judge(skipped, required=False), judge(skipped, required=True)) == (0, 1)
    assert "NOT CHECKED" in capsys.readouterr().out
    bad = [{**fine[0], "vulns": [{"id": "CVE-2099-1"}]}, *fine[1:]]
    assert judge(bad, required=False) == 1
    assert "CVE-2099-1" in capsys.readouterr().out
