"""``spool verify`` and ``spool export`` on real segments, whole and damaged, beside the router and without it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
import xxhash
from click.testing import CliRunner, Result

from router.app.cli.console_log import QUIET, ConsoleLog
from router.app.cli.root import cli
from router.model import Decision, InstanceInfo, Location, Origin, SpoolSettings, Verdict, format_id
from router.spool import Spool, durable
from router.spool.segment import BLOCK, FIRST_RECORD, MARK_OFFSET
from tests.support.objects import encode, synthetic

ORIGIN = Origin(listener="127.0.0.1:11112", peer="ct1", calling_ae="CT1", called_ae="ROUTER", address="127.0.0.1")


@dataclass
class Entry:
    info: InstanceInfo
    decision: Decision
    chunks: list[bytes] | None
    location: Location | None = None


def entry(number: int, study: str = "2.25.1") -> Entry:
    uid = f"2.25.77{number:04d}"
    data = encode(synthetic(size=5000, sop_instance=uid, study=study, seed=number))
    info = InstanceInfo(
        id=1000 + number,
        sop_class="1.2.840.10008.5.1.4.1.1.2",
        sop_instance=uid,
        transfer_syntax="1.2.840.10008.1.2.1",
        origin=ORIGIN,
        received=1_700_000_000.0,
        size=len(data),
        checksum=xxhash.xxh3_128(data).digest(),
        study=study,
        accession=f"A{number}",
    )
    return Entry(info, Decision(verdict=Verdict.ROUTE, destinations=("pacs",)), [data])


async def store(spool: Spool, entries: Sequence[Entry]) -> None:
    """One group after the other, so that each but the last is known to have been synced."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[Any] = asyncio.Queue()

    def told(*what: Any) -> None:
        loop.call_soon_threadsafe(arrived.put_nowait, what)

    spool.start(loop, synced=told, failed=told)
    for one in entries:
        spool.submit(one)
        assert not isinstance((await arrived.get())[1], Exception), "failed tells a reason"


@pytest.fixture
def stored(tmp_path: Path) -> list[Entry]:
    """Six instances in the spool of ``tmp_path``, closed."""
    entries = [entry(number, "2.25.1" if number < 4 else "2.25.2") for number in range(6)]

    async def main() -> None:
        spool = Spool.open(tmp_path / "spool", SpoolSettings(segment_size=4 << 20), log=ConsoleLog(QUIET))
        await store(spool, entries)
        await spool.close()

    asyncio.run(main())
    return entries


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)))


def harm(folder: Path, location: Location, offset: int) -> None:
    with (folder / "spool" / f"{location.segment:010d}.seg").open("r+b") as file:
        file.seek(location.offset + offset)
        byte = file.read(1)
        file.seek(location.offset + offset)
        file.write(bytes([byte[0] ^ 0x55]))


def test_a_whole_spool_is_whole(tmp_path: Path, stored: list[Entry]) -> None:
    result = run("spool", "verify", "--data-dir", tmp_path)
    assert result.exit_code == 0, result.output
    assert "6 records" in result.output
    report = json.loads(run("spool", "verify", "--data-dir", tmp_path, "--json").stdout)
    assert report["whole"] == 6
    assert report["bytes"] == sum(one.info.size for one in stored)
    assert report["damaged"] == report["damaged_headers"] == []


def test_damage_is_named_and_the_rest_still_counts(tmp_path: Path, stored: list[Entry]) -> None:
    victim = stored[2]
    assert victim.location is not None
    harm(tmp_path, victim.location, victim.location.length - 200)
    result = run("spool", "verify", "--data-dir", tmp_path)
    assert result.exit_code == 1
    assert f"damaged: {victim.info.sop_instance}" in result.stderr
    report = json.loads(run("spool", "verify", "--data-dir", tmp_path, "--json").stdout)
    assert report["whole"] == 5
    assert [row["instance"] for row in report["damaged"]] == [format_id(victim.info.id)]


def test_a_torn_end_that_nobody_was_told_of_is_no_damage(tmp_path: Path, stored: list[Entry]) -> None:
    last = stored[-1]
    assert last.location is not None
    harm(tmp_path, last.location, last.location.length - 200)
    with (tmp_path / "spool" / f"{last.location.segment:010d}.seg").open("r+b") as file:
        file.seek(MARK_OFFSET)
        file.write(bytes(BLOCK))  # a crash before the segment said how far it was synced
    result = run("spool", "verify", "--data-dir", tmp_path)
    assert result.exit_code == 0
    assert "1 unfinished" in result.output


def test_a_damaged_segment_header_hides_nothing(tmp_path: Path, stored: list[Entry]) -> None:
    location = stored[0].location
    assert location is not None
    with (tmp_path / "spool" / f"{location.segment:010d}.seg").open("r+b") as file:
        file.write(bytes(FIRST_RECORD))
    result = run("spool", "verify", "--data-dir", tmp_path)
    assert result.exit_code == 1
    assert "header" in result.stderr
    assert "6 records" in result.stdout
    assert "6 files" in run("spool", "export", tmp_path / "out", "--data-dir", tmp_path).output


def test_exported_files_are_what_was_received(tmp_path: Path, stored: list[Entry]) -> None:
    result = run("spool", "export", tmp_path / "out", "--data-dir", tmp_path)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"{format_id(one.info.id)}.dcm" for one in stored
    ]
    for one in stored:
        path = tmp_path / "out" / f"{format_id(one.info.id)}.dcm"
        data = pydicom.dcmread(path)
        assert data.SOPInstanceUID == data.file_meta.MediaStorageSOPInstanceUID == one.info.sop_instance
        assert data.file_meta.SourceApplicationEntityTitle == "CT1"
        assert one.chunks is not None
        assert path.read_bytes().endswith(b"".join(one.chunks))
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [(["2.25.2"], [4, 5]), (["2.25.770001", "A3"], [1, 3]), ([format_id(1000)], [0])],
)
def test_export_takes_what_is_named(
    tmp_path: Path, stored: list[Entry], selectors: list[str], expected: list[int]
) -> None:
    result = run("spool", "export", tmp_path / "out", *selectors, "--data-dir", tmp_path, "--json")
    assert json.loads(result.stdout)["written"] == len(expected)
    names = {path.stem for path in (tmp_path / "out").iterdir()}
    assert names == {format_id(1000 + number) for number in expected}


def test_exported_files_are_synced_and_so_are_their_names(
    tmp_path: Path, stored: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(durable, "sync_data", lambda descriptor: synced.append("file"))
    monkeypatch.setattr(durable, "sync_directory", lambda path: synced.append(path.name))
    assert run("spool", "export", tmp_path / "out", "--data-dir", tmp_path).exit_code == 0
    assert synced == ["file"] * len(stored) + ["out"]


def test_naming_what_is_not_there_is_a_failure(tmp_path: Path, stored: list[Entry]) -> None:
    assert run("spool", "export", tmp_path / "out", "2.25.404", "--data-dir", tmp_path).exit_code == 1


def test_damaged_records_are_left_out_and_said(tmp_path: Path, stored: list[Entry]) -> None:
    location = stored[2].location
    assert location is not None
    harm(tmp_path, location, location.length - 200)
    result = run("spool", "export", tmp_path / "out", "--data-dir", tmp_path)
    assert result.exit_code == 1
    assert "5 files" in result.stdout
    assert "1 records are not whole" in result.stderr


async def test_both_work_beside_the_router_that_writes(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path / "spool", SpoolSettings(segment_size=4 << 20), log=ConsoleLog(QUIET))
    await store(spool, [entry(number) for number in range(3)])
    before = sorted(tmp_path.rglob("*"))
    verified = await asyncio.to_thread(run, "spool", "verify", "--data-dir", tmp_path)
    assert verified.exit_code == 0, verified.output
    assert sorted(tmp_path.rglob("*")) == before
    exported = await asyncio.to_thread(run, "spool", "export", tmp_path / "out", "--data-dir", tmp_path)
    assert "3 files" in exported.output
    await spool.close()


def test_the_configuration_says_where_the_spool_is(tmp_path: Path, stored: list[Entry]) -> None:
    config = tmp_path / "router.toml"
    config.write_text('[node]\ndata_dir = "."\n')
    assert "6 records" in run("spool", "verify", "-c", config).output
    config.write_text("[node\n")
    result = run("spool", "verify", "-c", config)
    assert result.exit_code == 78
    assert "--data-dir" in result.stderr


def test_no_spool_is_a_failure_that_names_the_place(tmp_path: Path) -> None:
    for arguments in (["verify"], ["export", tmp_path / "out"]):
        result = run("spool", *arguments, "--data-dir", tmp_path)
        assert result.exit_code == 1
        assert str(tmp_path / "spool") in result.stderr
