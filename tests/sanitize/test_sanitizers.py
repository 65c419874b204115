"""The native modules under AddressSanitizer and UndefinedBehaviorSanitizer: no byte is read or written beyond what is
theirs, whatever comes.

They are built once more for it (``build/sanitize``), and other Python processes use them: for the corpora of the fuzzer
in every run, for all tests of theirs in a campaign (``make sanitize``). Leaks are not looked for: the interpreter keeps
what it likes. What the sanitizers would miss is tried too: the same modules without one of their checks.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.fuzz import native
from tests.fuzz.targets import TARGETS
from tests.support.peers import require
from tests.torture.figures import Figure, report

pytestmark = pytest.mark.timeout(600)

FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1")
BUILT = native.ROOT / "build" / "sanitize"
NATIVE_TARGETS = ("pdu", "association", "command", "message", "dataset", "values")
OWN_TESTS = (
    "tests/fuzz",
    "tests/fastpdu",
    "tests/dimse",
    "tests/spool",
    "tests/test_walker.py",
    "tests/test_blocks.py",
    "tests/test_wire.py",
    "tests/delivery/test_pure.py",
    "tests/delivery/test_stock.py",
    "tests/observe/test_metrics.py",
)
FAULT = 99
"""Exit code of a process in which a sanitizer found something."""
REPLAY = """
import sys
from tests.fuzz.targets import TARGETS
import router._fastpdu, router._fastdimse, router._walker
assert all(sys.argv[1] in module.__file__ for module in (router._fastpdu, router._fastdimse, router._walker))
failed = 0
for name in sys.argv[2:]:
    for path in TARGETS[name].corpus:
        try:
            TARGETS[name].run(path.read_bytes())
        except Exception as error:
            print(name, path.name, repr(error), file=sys.stderr)
            failed = 1
sys.exit(failed)
"""
BEYOND = "import ctypes; ctypes.string_at(ctypes.create_string_buffer(100), 200)"


def build(folder: Path, source: Path = native.ROOT, like: Path | None = None) -> None:
    native.build(folder, compiler=require("gcc"), optimization="-O0", flags=FLAGS, source=source, like=like)


@pytest.fixture(scope="module")
def built() -> Path:
    build(BUILT)
    return BUILT


def sanitized(folder: Path, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """A Python program with the sanitizers in it, which uses the native modules of ``folder``."""
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    options = f"exitcode={FAULT}:abort_on_error=0:handle_segv=1"
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=native.ROOT,
        env=native.environment(folder)
        | {
            "LD_PRELOAD": runtime.stdout.strip(),
            # Blocks of the interpreter's own allocator have no borders that could be watched.
            "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": f"{options}:detect_leaks=0",
            "UBSAN_OPTIONS": f"{options}:halt_on_error=1:print_stacktrace=1",
        },
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )


def replayed(folder: Path, targets: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return sanitized(folder, "-c", REPLAY, str(folder), *targets)


def test_reading_beyond_a_buffer_is_noticed(built: Path) -> None:
    run = sanitized(built, "-c", BEYOND)
    assert run.returncode == FAULT
    assert "heap-buffer-overflow" in run.stderr


def test_no_input_of_the_corpora_makes_a_native_module_leave_its_memory(built: Path) -> None:
    run = replayed(built, NATIVE_TARGETS)
    assert run.returncode == 0, run.stderr[-6000:]


@pytest.mark.timeout(1800)
def test_no_test_of_the_native_modules_makes_them_leave_their_memory(built: Path, campaign: bool) -> None:
    if not campaign:
        pytest.skip("takes two minutes: make sanitize")
    run = sanitized(built, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=600", *OWN_TESTS, timeout=1700)
    inputs = sum(len(target.corpus) for target in TARGETS.values())
    passed = re.search(r"(\d+) passed", run.stdout)
    assert run.returncode == 0 and passed, (run.stdout + run.stderr)[-8000:]
    report(
        Figure(
            test="T25",
            promise="native modules under AddressSanitizer and UndefinedBehaviorSanitizer",
            goal="0 faults",
            found=f"0 faults in {passed[1]} tests, {inputs} inputs of the corpora among them",
            n=int(passed[1]),
            command="make sanitize",
        ),
        keep=campaign,
    )


CHECKS = {
    "an element of a command set within it": (
        "_fastdimse.pyx",
        "        if length > end - value:\n",
        "        if length > (1 << 31):\n",
    ),
    "a whole element header in a command set": (
        "_fastdimse.pyx",
        "        if end - data < 8:\n",
        "        if False:\n",
    ),
    "six bytes of a PDV header": ("_fastpdu.pyx", "        if take > available:\n", "        if False:\n"),
    "eight bytes of an element header": ("_walker.pyx", "        if available < 8:\n", "        if False:\n"),
    "twelve bytes of a long element header": (
        "_walker.pyx",
        "                if available < 12:\n",
        "                if False:\n",
    ),
    "no more than a header held back": (
        "_walker.pyx",
        "                if take > LONGEST_HEADER - self._have:\n",
        "                if False:\n",
    ),
    "a frame for each level of nesting": (
        "_walker.pyx",
        "PyMem_Malloc((2 * max_depth + 2) * sizeof(Frame))",
        "PyMem_Malloc((max_depth + 2) * sizeof(Frame))",
    ),
}
"""Checks that keep the native modules within their memory: file, how it is written, and as if it were not."""


@pytest.mark.timeout(1200)
def test_without_one_of_its_checks_a_module_is_found_out(
    built: Path, tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    count = amount("checks", 0, len(CHECKS))
    if not count:
        pytest.skip("builds the modules anew for each: make sanitize")
    missed = []
    for number, (name, (file, written, gone)) in enumerate(list(CHECKS.items())[:count]):
        source = tmp_path / str(number)
        shutil.copytree(native.ROOT / "router", source / "router", ignore=shutil.ignore_patterns("*.so"))
        for needed in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(native.ROOT / needed, source)
        changed = source / "router" / file
        text = changed.read_text()
        assert text.count(written) >= 1, f"{name}: not written so any more"
        changed.write_text(text.replace(written, gone))
        build(source / "built", source, built)
        run = replayed(source / "built", NATIVE_TARGETS)
        print(f"{name}: exit code {run.returncode}")
        if run.returncode != FAULT:
            missed.append(name)
    assert not missed
    report(
        Figure(
            test="T25",
            promise="native modules without one of their checks are found out",
            goal="all",
            found=f"{count} of {count} found by the sanitizers over the corpora",
            n=count,
            command="make sanitize",
        ),
        keep=campaign,
    )
