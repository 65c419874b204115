"""The audit file: a line for each message, whatever happened to the run before."""

from __future__ import annotations

from pathlib import Path

from router.audit.sinks import FileSink


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("audit-*.log")
    return path


async def test_half_a_line_of_a_killed_run_takes_nothing_with_it(tmp_path: Path) -> None:
    await FileSink(tmp_path / "audit", 0).write([b"first", b"second"])
    path = only_file(tmp_path / "audit")
    path.write_bytes(path.read_bytes()[:-3])
    again = FileSink(tmp_path / "audit", 0)
    await again.write([b"second"])
    await again.write([b"third"])
    assert path.read_bytes() == b"first\nseco\nsecond\nthird\n"


async def test_a_whole_file_gets_no_empty_line(tmp_path: Path) -> None:
    for message in (b"first", b"second"):
        await FileSink(tmp_path / "audit", 0).write([message])
    assert only_file(tmp_path / "audit").read_bytes() == b"first\nsecond\n"
