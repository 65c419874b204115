"""What the default install is made of: the lock file read, as a bill of materials, and checked against advisories.

    python -m deploy.supply sbom     # writes sbom.cdx.json (CycloneDX 1.6) of requirements.lock, where it is installed
    python -m deploy.supply audit    # asks pip-audit; ends with 1 if a vulnerability is known

Where the advisories cannot be reached, ``audit`` says so for every package and ends with 0: nothing was found because
nothing was asked. With AUDIT=required that ends with 1 too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
SBOM = ROOT / "sbom.cdx.json"
_PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+)( ; [^\\]+?)?\s*\\?$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Locked:
    """One line of the lock file."""

    name: str
    version: str
    hashes: tuple[str, ...]

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(path: Path = LOCK) -> list[Locked]:
    """Raises ValueError for a line that is neither a pin, a hash nor a comment."""
    found: list[tuple[str, str, list[str]]] = []
    for line in path.read_text().splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if pin := _PIN.fullmatch(text):
            found.append((canonical(pin[1]), pin[2], []))
        elif (hashed := _HASH.match(text)) and found:
            found[-1][2].append(hashed[1])
        else:
            raise ValueError(f"{path.name}: not understood: {text}")
    return [Locked(name, version, tuple(hashes)) for name, version, hashes in found]


def licence(name: str) -> str:
    """As the package states it: its SPDX expression, or its classifiers, or its own words."""
    about = metadata.metadata(name)
    if expression := about.get("License-Expression"):
        return expression
    classified = [text.split(" :: ")[-1] for text in about.get_all("Classifier") or [] if text.startswith("License ::")]
    return (
        " OR ".join(text for text in classified if text != "OSI Approved")
        or (about.get("License") or "unknown").splitlines()[0]
    )


def needs(name: str) -> list[str]:
    """Direct dependencies without extras."""
    required = [text for text in metadata.requires(name) or [] if "extra ==" not in text]
    return [canonical(re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0]) for text in required]


def sbom() -> str:
    """Reproducible: no time, no machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages = {package.name: package for package in locked()}
    root = f"pkg:pypi/{project['name']}@{project['version']}"

    def refs(names: list[str]) -> list[str]:
        return sorted(packages[name].purl for name in set(names) if name in packages)

    own = [canonical(re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0]) for text in project["dependencies"]]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application", "bom-ref": root, "name": project["name"], "version": project["version"],
                "purl": root, "licenses": [{"license": {"id": project["license"]}}],
            }
        },
        "components": [
            {
                "type": "library", "bom-ref": package.purl, "name": package.name, "version": package.version,
                "purl": package.purl, "licenses": [{"license": {"name": licence(package.name)}}],
                "externalReferences": [
                    {
                        "type": "distribution", "url": package.purl,
                        "hashes": [{"alg": "SHA-256", "content": text} for text in package.hashes],
                    }
                ],
            }
            for package in packages.values()
        ],
        "dependencies": [
            {"ref": root, "dependsOn": refs(own)},
            *({"ref": package.purl, "dependsOn": refs(needs(package.name))} for package in packages.values()),
        ],
    }  # fmt: skip
    return json.dumps(document, indent=1) + "\n"


def audit() -> int:
    command = [sys.executable, "-m", "pip_audit", "-r", str(LOCK), "--require-hashes", "--disable-pip", "-f", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    try:
        answers = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        answers = []
    return judge(answers, required=os.environ.get("AUDIT") == "required")


def judge(answers: list[dict[str, object]], *, required: bool) -> int:
    """Print what pip-audit answered; gives the exit code."""
    asked = [answer for answer in answers if "skip_reason" not in answer]
    unsafe = [answer for answer in asked if answer.get("vulns")]
    for answer in unsafe:
        ids = ", ".join(str(vulnerability["id"]) for vulnerability in answer["vulns"])  # type: ignore[attr-defined]
        print(f"VULNERABLE: {answer['name']} {answer['version']}: {ids}")
    missing = sorted({package.name for package in locked()} - {canonical(str(answer["name"])) for answer in asked})
    if missing:
        print(f"NOT CHECKED against advisories (they could not be reached): {', '.join(missing)}")
    else:
        print(f"checked against advisories: {len(asked)} packages, {len(unsafe)} vulnerable")
    return 1 if unsafe or (missing and required) else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["sbom"]:
        SBOM.write_text(sbom())
    elif sys.argv[1:] == ["audit"]:
        sys.exit(audit())
    else:
        sys.exit("usage: python -m deploy.supply sbom|audit")
