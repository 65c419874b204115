"""Fuzz everything for some time: ``python -m tests.fuzz --seconds 60 [TARGET ...]``, or ``make fuzz SECONDS=60``.

Each target runs by itself for the given time, from its corpus; with clang the native modules are instrumented too. What
breaks a promise is written to ``results/fuzz`` and belongs into the corpus once it is mended. ``--keep`` brings the
corpora up to date: some inputs that reach what those with names do not.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import native
from tests.fuzz.targets import TARGETS, Target
from tests.torture.figures import Figure, report

RESULTS = native.ROOT / "results" / "fuzz"
BUILT = native.ROOT / "build" / "fuzz"
COVERAGE = ("-fsanitize-coverage=inline-8bit-counters,pc-table,trace-cmp", "-g0")
KEPT = 8
"""Inputs of a fuzzer that a corpus takes beside those with names, at most."""


@dataclass(frozen=True, slots=True)
class Run:
    executions: int
    edges: int
    found: list[Path]
    said: str


def instrumented() -> bool:
    """Build the native modules for the fuzzer; False without clang."""
    if shutil.which("clang") is None:
        return False
    import atheris

    [core] = Path(atheris.__file__).parent.glob("core_with_libfuzzer*.so")
    # The modules report to the fuzzer's core, which Python loads privately: so they name it as a library of theirs.
    native.build(BUILT, compiler="clang", optimization="-O1", flags=COVERAGE, linked=[str(core)])
    return True


def fuzz(target: Target, seconds: int, with_native: bool, keep: bool) -> Run:
    RESULTS.mkdir(parents=True, exist_ok=True)
    before = set(RESULTS.iterdir())
    with tempfile.TemporaryDirectory() as folder:
        grown, words = Path(folder, "corpus"), Path(folder, "words")
        grown.mkdir()
        words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in target.words))
        said = _libfuzzer(
            target,
            with_native,
            seconds + 120,
            f"-max_total_time={seconds}",
            f"-max_len={target.longest}",
            f"-dict={words}",
            f"-artifact_prefix={RESULTS / target.name}-",
            "-timeout=20",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
            str(grown),
            str(target.corpus[0].parent),
        )
        if keep:
            _keep(target, grown, with_native, seconds)
    executions = re.findall(r"stat::number_of_executed_units:\s*(\d+)", said) or re.findall(r"^#(\d+)", said, re.M)
    edges = re.findall(r"cov: (\d+)", said)
    return Run(
        executions=int(executions[-1]) if executions else 0,
        edges=int(edges[-1]) if edges else 0,
        found=sorted(set(RESULTS.iterdir()) - before),
        said=said,
    )


def _libfuzzer(target: Target, with_native: bool, timeout: float, *options: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.one", target.name, *options],
        cwd=native.ROOT,
        env=native.environment(BUILT) if with_native else None,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
    )
    return run.stdout + run.stderr


def _keep(target: Target, grown: Path, with_native: bool, seconds: int) -> None:
    """Some of the inputs that reach what those with names do not, found by libFuzzer's own set cover."""
    corpus = target.corpus[0].parent
    with tempfile.TemporaryDirectory() as folder:
        cover = Path(folder)
        for path in target.corpus:
            if not _is_found(path):
                shutil.copy(path, cover)
        found = [path for path in target.corpus if _is_found(path)]
        for path in found:
            path.rename(grown / path.name)
        _libfuzzer(target, with_native, seconds + 300, "-set_cover_merge=1", "-use_counters=0", folder, str(grown))
        fresh = [path for path in cover.iterdir() if not (corpus / path.name).exists()]
        for path in sorted(fresh, key=lambda path: -path.stat().st_size)[:KEPT]:  # the small ones say little
            data = path.read_bytes()
            shutil.copy(path, corpus / (hashlib.sha256(data).hexdigest()[:12] + Path(target.corpus[0]).suffix))


def _is_found(path: Path) -> bool:
    return re.fullmatch(r"[0-9a-f]{12}", path.stem) is not None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--keep", action="store_true", help="take inputs that reach something new into the corpora")
    parser.add_argument("--record", action="store_true", help="keep the figures for the table of docs/reliability.md")
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET", help=", ".join(TARGETS))
    arguments = parser.parse_args()
    with_native = instrumented()
    broken = 0
    for name in arguments.targets or TARGETS:
        target = TARGETS[name]
        run = fuzz(target, arguments.seconds, with_native, arguments.keep)
        broken += len(run.found) or run.executions == 0
        if run.found or not run.executions:
            print(run.said[-4000:])
        report(
            Figure(
                test="T25",
                promise=f"fuzzed input: {target.promise}",
                goal="0 crashes, 0 hangs > 1 s",
                found=f"{len(run.found)} crashes or hangs; {run.edges:,} edges reached "
                f"({'native and Python' if with_native else 'Python'})",
                n=run.executions,
                command=f"make fuzz SECONDS={arguments.seconds}",
            ),
            keep=arguments.record and not run.found,
        )
        for path in run.found:
            print(f"breaks a promise: {path.relative_to(native.ROOT)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
