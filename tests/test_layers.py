"""Which package may import which: the arrows of docs/architecture.md, held by reading every import."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.app.cli.doctor import NATIVE

ROOT = Path(__file__).resolve().parent.parent / "router"

# Lower layers first. A package imports what stands before it, never a sibling on its own line.
LAYERS: list[set[str]] = [
    {
        "errors",
        "secret",
        "model",
        "_fastpdu",
        "_fastdimse",
        "_walker",
        "_wire",
        "_disk",
        "_blocks",
        "_lanes",
        "_record",
        "_histogram",
        "toml_positions",
        "folders",
        "threads",
        "",
    },
    {"ports"},
    {"dicom"},
    {"ul"},
    {"dimse"},
    {"net"},
    {"services"},
    {"spool", "ledger", "routing", "delivery", "audit"},
    {"web"},
    {"app"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
BASE = LAYERS[0] | LAYERS[1]
OBSERVE_MAY_IMPORT = {"errors", "model", "ports", "_histogram", ""}
PURE = {"ul", "dimse", "dicom", "routing"}
FORBIDDEN_IN_PURE = {"asyncio", "socket", "ssl", "threading", "time", "uvloop"}

CODECS_AND_SHELLS = (
    *("pydicom.pixel", "pydicom.encaps", "PIL", "numpy", "gdcm", "openjpeg", "pylibjpeg"),
    *("subprocess", "pty", "shelve", "marshal", "yaml", "zipfile", "tarfile"),
)

MODULES = sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            yield node.lineno, module
            if module == "router":
                for alias in node.names:
                    yield node.lineno, f"router.{alias.name}"


def package_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    if len(relative.parts) > 1:
        return relative.parts[0]
    return "" if relative.stem == "__init__" else relative.stem


def allowed(importer: str, imported: str) -> bool:
    if importer == imported:
        return True
    if importer == "observe":
        return imported in OBSERVE_MAY_IMPORT
    if imported == "observe":
        return RANK[importer] >= RANK["web"]
    if importer in BASE:
        return imported in BASE and RANK[imported] <= RANK[importer]
    return RANK[imported] < RANK[importer]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    importer = package_of(path)
    constants = {"IMPLEMENTATION_CLASS_UID", "IMPLEMENTATION_VERSION_NAME", "__version__"}
    wrong = []
    for line, module in imports(path):
        parts = module.split(".")
        if parts[0] != "router":
            continue
        imported = parts[1] if len(parts) > 1 else ""
        if imported in constants:
            continue
        if not allowed(importer, imported):
            wrong.append(f"{path}:{line}: {importer or 'router'} imports {imported}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "path", [path for path in MODULES if package_of(path) in PURE], ids=lambda path: str(path.relative_to(ROOT))
)
def test_the_pure_packages_know_no_socket_and_no_clock(path: Path) -> None:
    wrong = [f"{path}:{line}: {module}" for line, module in imports(path) if module.split(".")[0] in FORBIDDEN_IN_PURE]
    assert not wrong, "\n".join(wrong)


def test_every_package_has_its_place() -> None:
    packages = {package_of(path) for path in MODULES}
    assert packages <= set(RANK) | {"observe"}


def test_nothing_decodes_pixels_or_runs_other_programs() -> None:
    """Codecs and shells are where others were broken into."""
    modules = {module for path in MODULES for _, module in imports(path)}
    assert not [module for module in modules if module.startswith(CODECS_AND_SHELLS)]


STARTS = re.compile(
    r"create_subprocess_\w+|system|popen|posix_spawnp?|spawn[lv]p?e?|exec[lv]p?e?|fork|forkpty|eval|exec"
)


def test_only_the_parent_starts_programs_and_only_its_workers() -> None:
    found = {
        f"{path.relative_to(ROOT)} {name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and STARTS.fullmatch(name := getattr(node.func, "attr", getattr(node.func, "id", "")))
    }
    assert found == {"app/workers/parent.py create_subprocess_exec"}
    modules = {str(path.relative_to(ROOT)) for path in MODULES for _, module in imports(path) if module == "pickle"}
    assert modules == {"app/workers/errand.py"}, "a pipe from the parent, and nothing that came from outside"


def test_the_doctor_looks_for_every_native_module() -> None:
    assert sorted(NATIVE) == sorted(path.stem for path in ROOT.glob("_*.pyx"))


MAY_SYNC = {
    "spool/durable.py": "everything of the spool: after a failed sync nothing is acknowledged",
    "folders.py": "names of folders",
    "delivery/folder_sender.py": "files of a folder destination: a failed sync is a failed delivery",
    "audit/sinks.py": "the audit file: a failed sync leaves the messages in the ledger",
    "app/cli/doctor.py": "measures how long one takes",
}
SYNCS = {"fsync", "fdatasync", "sync", "syncfs", "F_FULLFSYNC", "O_SYNC", "O_DSYNC"}


def test_few_modules_ask_the_system_to_sync() -> None:
    """And each says what a failure means. The spool's other modules and the commands go by ``durable``; the native
    commit thread has a call of its own, and the ledger's are SQLite's."""
    found = {
        str(path.relative_to(ROOT))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (
            isinstance(node, ast.Attribute)
            and node.attr in SYNCS
            and isinstance(node.value, ast.Name)
            and node.value.id in ("os", "fcntl")
        )
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and SYNCS & {name.name for name in node.names})
    }
    assert "spool/durable.py" in found, "nothing was looked for"
    assert found <= MAY_SYNC.keys()
    native = {path.name: path.read_text("utf-8").count("fdatasync(") for path in ROOT.glob("*.pyx")}
    assert {name for name, count in native.items() if count} == {"_disk.pyx"}
