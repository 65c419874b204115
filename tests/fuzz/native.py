"""The native modules once more, built into a folder of their own with other flags, and put in place of the usual ones.

``build`` compiles with what a fuzzer or a sanitizer needs. ``in_place_of`` makes this process import them; a program
started with ``environment`` does so from its beginning, and so do the Python programs that it starts.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (ROOT / "router").glob("_*.pyx"))
SUFFIX = EXTENSION_SUFFIXES[0]
SITE = """# Python programs started with this folder in PYTHONPATH use the native modules that are in it.
import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, {root!r})
from tests.fuzz.native import in_place_of

in_place_of(Path(__file__).parent)
"""


def build(
    folder: Path,
    *,
    compiler: str,
    optimization: str,
    flags: Sequence[str],
    linked: Sequence[str] = (),
    source: Path = ROOT,
    like: Path | None = None,
) -> None:
    """Compile the native modules of ``source`` into ``folder``, unless they are there and newer.

    What is not newer than in ``like``, an earlier build with the same flags, is taken from there.
    Raises CalledProcessError with what the compiler said.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several workers that want it, one builds
        if not _is_newer(folder, source):
            _compile(folder, compiler, optimization, flags, linked, source, like)


def _is_newer(folder: Path, source: Path) -> bool:
    newest = max(path.stat().st_mtime for path in (source / "setup.py", *(source / "router").glob("_*.p[yx][xdi]")))
    made = [*(folder / "router" / f"{name}{SUFFIX}" for name in MODULES), folder / "sitecustomize.py"]
    return all(path.exists() and path.stat().st_mtime > newest for path in made)


def _compile(
    folder: Path,
    compiler: str,
    optimization: str,
    flags: Sequence[str],
    linked: Sequence[str],
    source: Path,
    like: Path | None,
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if like is not None:
        shutil.copytree(like / "router", folder / "router")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", folder, "--build-temp", folder / "o"],
        cwd=source,
        env=os.environ
        | {
            "CC": compiler,
            "NATIVE_OPTIMIZATION": optimization,
            "CFLAGS": " ".join(flags),
            "LDSHARED": " ".join((compiler, "-shared", *flags, *linked)),
        },
        check=True,
        capture_output=True,
        text=True,
    )
    shutil.rmtree(folder / "o")
    (folder / "sitecustomize.py").write_text(SITE.format(root=str(ROOT)))


def environment(folder: Path) -> dict[str, str]:
    """For a Python program that shall use the modules of ``folder``."""
    return os.environ | {"PYTHONPATH": str(folder)}


class _Finder(MetaPathFinder):
    def __init__(self, folder: Path) -> None:
        self.paths = {f"router.{name}": folder / "router" / f"{name}{SUFFIX}" for name in MODULES}

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        found = self.paths.get(name)
        return None if found is None else importlib.util.spec_from_file_location(name, found)


def in_place_of(folder: Path) -> None:
    """From now on the native modules are those of ``folder``."""
    sys.meta_path.insert(0, _Finder(folder))
