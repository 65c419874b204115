"""Every place of the router's source that syncs, and the router with one of them left out.

A place is a call of one of ``SYNCS`` within a function, the n-th there: ``router.spool.stream SpoolStream._end
sync_data 2``. It is left out as the module is compiled; what stands in its place tells that it was reached.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

ROOT = Path(__file__).resolve().parents[2]
SYNCS = frozenset(("sync_data", "sync_directory", "sync_folder", "fdatasync", "fsync", "sync", "syncfs"))
PRIMITIVES = frozenset(
    (
        "router.spool.durable sync_data fdatasync 1",
        "router.spool.durable sync_directory fsync 1",
        "router.folders sync_folder fsync 1",
    )
)
"""What the calls of the others come down to."""
REACHED = "SYNC_SITE_REACHED"
"""Of the environment: a file that is there once the place was reached."""


class _Walk(ast.NodeTransformer):
    """Finds the places of a module; those of ``leave_out`` are taken out."""

    def __init__(self, module: str, leave_out: Collection[str] = ()) -> None:
        self.found: list[str] = []
        self._module = module
        self._leave_out = leave_out
        self._within: list[str] = []
        self._count: Counter[tuple[str, str]] = Counter()

    def _scope(self, node: ast.AST) -> ast.AST:
        self._within.append(node.name)  # type: ignore[attr-defined]
        self.generic_visit(node)
        self._within.pop()
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _scope

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name not in SYNCS:
            return node
        function = ".".join(self._within)
        self._count[function, name] += 1
        site = f"{self._module} {function} {name} {self._count[function, name]}"
        self.found.append(site)
        if site not in self._leave_out:
            return node
        instead = ast.parse(f"__import__({__name__!r}, fromlist=['reached']).reached()", mode="eval").body
        return ast.copy_location(instead, node)


def sites() -> list[str]:
    """Of the whole package, but for the primitives."""
    return [site for path in sorted((ROOT / "router").rglob("*.py")) for site in _sites_of(path)]


def _sites_of(path: Path) -> Iterator[str]:
    walk = _Walk(".".join(path.relative_to(ROOT).with_suffix("").parts))
    walk.visit(ast.parse(path.read_text()))
    yield from (site for site in walk.found if site not in PRIMITIVES)


def reached() -> None:
    """Stands in the place of the call that was left out."""
    if place := os.environ.get(REACHED):
        Path(place).touch()


class _Without(SourceFileLoader):
    def __init__(self, module: str, path: str, places: Collection[str]) -> None:
        super().__init__(module, path)
        self._places = places

    def get_code(self, fullname: str) -> CodeType:
        """From the source, never from a file of byte code."""
        tree = _Walk(fullname, self._places).visit(ast.parse(self.get_data(self.path)))
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, module: str, places: Collection[str]) -> None:
        self._module = module
        self._places = places

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._module:
            return None
        file = ROOT.joinpath(*fullname.split(".")).with_suffix(".py")
        return importlib.util.spec_from_file_location(
            fullname, file, loader=_Without(fullname, str(file), self._places)
        )


def leave_out(*places: str) -> None:
    """Of one module, before it is imported. Raises LookupError for a place that there is not."""
    (module,) = {place.split()[0] for place in places}
    if module in sys.modules:
        raise RuntimeError(f"{module} is imported already")
    if gone := set(places) - set(sites()):
        raise LookupError(f"there is no {', '.join(gone)}")
    sys.meta_path.insert(0, _Finder(module, places))
