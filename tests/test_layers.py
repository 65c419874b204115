"""Which package may import which: the arrows of docs/architecture.md, held by reading every import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "router"

# Lower layers first. A package imports what stands before it, never a sibling on its own line.
LAYERS: list[set[str]] = [
    {"errors", "secret", "model", "_fastpdu", "_fastdimse", "_disk", "_blocks", "toml_positions", "folders", ""},
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
BASE = {
    "errors",
    "secret",
    "model",
    "_fastpdu",
    "_fastdimse",
    "_disk",
    "_blocks",
    "toml_positions",
    "folders",
    "",
    "ports",
}
OBSERVE_MAY_IMPORT = {"errors", "model", "ports", ""}
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
