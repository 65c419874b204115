"""The benchmarks run: a small share of each, so that none rots."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import flow
from benchmarks.picture import draw
from benchmarks.where import calls_in, shares_in
from tests.support.peers import require

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.peer
@pytest.mark.timeout(300)
def test_the_flow_benchmark_delivers_everything_byte_identical(tmp_path: Path) -> None:
    for program in ("storescp", "dcmsend", "Orthanc", "cc"):
        require(program)
    every = ["limit", "router", "router-recycled", "storescp", "orthanc-tuned", "orthanc", "pynetdicom"]
    for size, destinations, systems in (("16KiB", "1", every), ("512KiB", "0,3", ["limit", "router", "storescp"])):
        result = subprocess.run(
            [sys.executable, "-m", "benchmarks.flow", "--quick", "--scale", "0.05", "--sizes", size,
             "--destinations", destinations, "--systems", ",".join(systems), "--folder", str(tmp_path)],
            cwd=ROOT, capture_output=True, text=True, timeout=140,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
        assert {line.split()[2] for line in result.stdout.splitlines() if line.startswith(size)} == set(systems)


@contextlib.contextmanager
def refuses(work: flow.Work) -> Iterator[tuple[int, str, list[int]]]:
    """Nobody listens any more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield port, "NOBODY", []


@contextlib.contextmanager
def forgets(work: flow.Work) -> Iterator[tuple[int, str, list[int]]]:
    """It answers 0x0000, and sends nothing on."""
    with flow.limit(replace(work, sinks=[])) as found:
        yield found


@pytest.mark.parametrize(("system", "wrong"), [(refuses, "failures"), (forgets, "lost")])
def test_a_round_in_which_something_is_missing_is_in_no_median(
    system: flow.System, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require("cc")
    monkeypatch.setitem(flow.SYSTEMS, "storescp", system)
    monkeypatch.setattr(flow, "PATIENCE", 0.5)
    arguments = ["--systems", "storescp", "--sizes", "16KiB", "--destinations", "1", "--scale", "0.01", "--rounds", "2"]
    code = flow.main([*arguments, "--folder", str(tmp_path), "--json", str(tmp_path / "flow.json")])
    (row,) = json.loads((tmp_path / "flow.json").read_text())["rows"]
    assert (code, row["rate"], row["rounds"], row["whole"], row[wrong]) == (1, 0.0, 2, 0, 80)
    assert "40 x 0 of 2" in capsys.readouterr().out
    assert "<rect x=" not in draw({"machine": {"cpus": 2, "date": "2026-01-31"}, "rows": [row]})


def test_rules_are_measured_by_themselves() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.micro_rules"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "us per decision" in result.stdout


def test_spool_and_ledger_are_measured_by_themselves(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.micro_storage", "--scale", "0.01", "--folder", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("/s") == 6


@pytest.mark.peer
def test_cut_through_is_measured_both_ways(tmp_path: Path) -> None:
    require("cc")
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.cut_through", "--size", "16MiB", "--rounds", "1", "--folder", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()[2:]] == ["on", "off"]


@pytest.mark.peer
def test_processor_time_is_told_by_thread() -> None:
    require("cc")
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.where", "--rounds", "1", "--objects", "3000"],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    rows = {line.split()[0]: [float(word) for word in line.split()[1:]] for line in result.stdout.splitlines()[2:]}
    assert list(rows) == ["loop", "ledger", "disk", "others"]
    assert sum(rows["loop"]) > sum(rows["ledger"]) > 0
    assert sum(rows["disk"]) > 0


def test_system_calls_are_read_from_what_strace_says() -> None:
    report = """strace: Process 7 attached with 2 threads
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.020000          10      2000        12 futex
 40.00    0.010000           5      1000           writev
------ ----------- ----------- --------- --------- ----------------
100.00    0.030000           8      3000        12 total
"""
    assert calls_in(report) == {"futex": 2000, "writev": 1000}


def test_a_profile_is_of_one_thread_by_library() -> None:
    script = """   11         ffffffff81 copy_to_user ([kernel.kallsyms])
   11             55aa _PyEval_EvalFrameDefault (/usr/bin/python3.11)
   11             55ab [unknown] (/usr/bin/python3.11)
   11             7f00 walk (/somewhere/router/_walker.cpython-311-x86_64-linux-gnu.so)
   12             55ab [unknown] (/usr/bin/python3.11)
"""
    assert shares_in(script, 11) == {"python3.11": 0.5, "kernel": 0.25, "_walker": 0.25}


def test_the_picture_shows_every_row() -> None:
    row = {"size": "512KiB", "destinations": 1, "rate": 100.0, "mb_s": 52.0, "cpu_s_per_gb": 1.5}
    rows = [{**row, "system": "router"}, {**row, "system": "limit", "rate": 200.0}]
    picture = draw({"machine": {"cpus": 2, "date": "2026-01-31"}, "rows": rows})
    assert picture.index("limit of the machine") < picture.index("dicom-router")
    assert "100 objects/s" in picture
    assert "delivered to 1 destination" in picture


@pytest.mark.timeout(200)
def test_scale_and_latency_are_measured_and_nothing_is_lost(tmp_path: Path) -> None:
    require("cc")
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "--rounds", "1", "--scale", "0.01", "--associations", "1,4",
         "--destinations", "1,2", "--folder", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count(" router ") == 7


def test_tls_is_measured_beside_plain_dicom(tmp_path: Path) -> None:
    require("openssl")
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.tls", "--bytes", "8MiB", "--objects", "4", "--rounds", "1",
         "--folder", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert [line.split("  ")[0] for line in result.stdout.splitlines() if line[0] in "pt"] == [
        "plain", "tls", "tls of the loop", "tls, data_received", "the router, 4 objects of 512 KiB, 1 destination",
        "plain", "tls",
    ]  # fmt: skip


def test_our_own_code_is_measured_alone() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.micro_path", "--rounds", "1", "--count", "40"],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("together") == 2
