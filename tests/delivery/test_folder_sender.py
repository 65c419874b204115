"""A folder as destination: whole Part 10 files under our own names, or nothing."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router.delivery import folder_sender
from router.delivery.folder_sender import PARALLEL, SHARD, SILENT, FolderSender, Hanging
from router.errors import AssociationAborted, DeliveryError
from router.model import Destination, format_id
from tests.delivery.support import Bench, Source, delivery
from tests.support.objects import data_set_bytes


async def opened(folder: Path) -> FolderSender:
    return await FolderSender.open(Destination(name="archive", kind="file", path=str(folder)))


async def test_the_data_set_stands_unchanged_behind_a_part_10_head(tmp_path: Path) -> None:
    sender = await opened(tmp_path / "archive")
    item = delivery()
    assert (await sender.store(item.instance, Source())).status == 0x0000
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert path.name == f"{format_id(item.instance.id)}.dcm"
    assert path.read_bytes()[128:132] == b"DICM"
    assert data_set_bytes(path) == b"data"
    await sender.release()


async def test_the_same_object_again_is_the_same_file(tmp_path: Path) -> None:
    sender = await opened(tmp_path)
    item = delivery()
    for _ in range(2):
        assert (await sender.store(item.instance, Source())).status == 0x0000
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
    await sender.release()


async def test_a_disk_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = await opened(tmp_path)

    def broken(descriptor: int) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(DeliveryError, match="No space left"):
        await sender.store(delivery().instance, Source())
    assert not list(tmp_path.rglob("*.dcm"))
    await sender.release()


async def test_a_folder_that_cannot_be_made_is_a_destination_that_is_down(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeliveryError):
        await opened(tmp_path / "file" / "folder")


async def test_a_file_that_failed_is_closed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number is somebody else's by then."""
    sender = await opened(tmp_path)
    closed: list[int] = []
    written: list[int] = []
    close = os.close

    def broken(descriptor: int) -> Any:
        written.append(descriptor)
        closed.clear()
        raise OSError(5, "Input/output error")

    def watched(descriptor: int) -> None:
        closed.append(descriptor)
        close(descriptor)

    monkeypatch.setattr(os, "fdatasync", broken)
    monkeypatch.setattr(os, "close", watched)
    with pytest.raises(DeliveryError, match="Input/output"):
        await sender.store(delivery().instance, Source())
    assert [closed.count(descriptor) for descriptor in written] == [1]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    await sender.release()


async def test_a_subfolder_of_an_earlier_run_is_not_taken_for_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = delivery()
    (tmp_path / format_id(item.instance.id)[:SHARD]).mkdir()
    sender = await opened(tmp_path)
    synced: list[Path] = []
    monkeypatch.setattr(folder_sender, "sync_folder", synced.append)
    await sender.store(item.instance, Source())
    await sender.store(item.instance, Source())
    assert synced.count(tmp_path) == 1
    assert len(synced) == 3
    await sender.release()


# A file system that stalls ----------------------------------------------------------------------------------

SOON = 0.05
"""Seconds that a call may take which never comes back, ..."""
LONG = 60.0
"""... and those that one may take which does."""


class Stall:
    """Calls of the file system that wait until it answers again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.answers = threading.Event()

    def at(self, place: Any, name: str) -> None:
        real = getattr(place, name)

        def call(*arguments: Any) -> Any:
            self.answers.wait()
            return real(*arguments)

        self._monkeypatch.setattr(place, name, call)


@pytest.fixture
def stall(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stall]:
    stall = Stall(monkeypatch)
    yield stall
    stall.answers.set()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def open_in(folder: Path) -> list[str]:
    """What this process has open there."""
    links = [Path("/proc/self/fd", number) for number in os.listdir("/proc/self/fd")]
    return [target for link in links if link.is_symlink() and (target := os.readlink(link)).startswith(str(folder))]


def threads() -> int:
    return sum(thread.name.startswith("folder") for thread in threading.enumerate())


async def test_a_write_that_hangs_ends_the_sender_with_all_that_is_in_flight(tmp_path: Path, stall: Stall) -> None:
    stall.at(os, "fdatasync")
    sender = FolderSender(tmp_path, SOON, set())
    answers = [sender.store(delivery().instance, Source()) for _ in range(sender.room)]
    for answer in answers:
        with pytest.raises(AssociationAborted, match=SILENT):
            await answer
    assert not sender.alive
    assert sender.room == 0
    assert str(await sender.closed) == SILENT
    await sender.release()


async def test_an_opening_that_hangs_ends_in_time(tmp_path: Path, stall: Stall) -> None:
    stall.at(folder_sender, "make_folder")
    hanging: Hanging = set()
    with pytest.raises(AssociationAborted, match=SILENT):
        await FolderSender.open(
            Destination(name="archive", kind="file", path=str(tmp_path), response_timeout=SOON), hanging
        )
    assert len(hanging) == 1


async def test_each_chunk_taken_begins_the_time_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)
    monkeypatch.setattr(folder_sender, "sync_folder", lambda folder: None)
    timeout = 0.5
    loop = asyncio.get_running_loop()

    class Slow(Source):
        buffers = None

        async def chunks(self) -> AsyncIterator[bytes]:
            begun = loop.time()
            while loop.time() < begun + 2 * timeout:
                yield b"data"

    sender = FolderSender(tmp_path, timeout, set())
    assert (await sender.store(delivery().instance, Slow())).status == 0x0000
    await sender.release()


@pytest.mark.parametrize(
    ("place", "name", "left"),
    [(FolderSender, "_create", []), (folder_sender, "_write", []), (os, "fdatasync", [b"data"])],
)
async def test_what_completes_late_is_a_whole_file_or_none_and_answers_nobody(
    tmp_path: Path, stall: Stall, place: Any, name: str, left: list[bytes]
) -> None:
    stall.at(place, name)
    hanging: Hanging = set()
    sender = FolderSender(tmp_path, SOON, hanging)
    answer = sender.store(delivery().instance, Source())
    ended = await sender.closed
    stall.answers.set()
    await until(lambda: not hanging)
    assert answer.exception() is ended
    assert [data_set_bytes(path) for path in files_in(tmp_path)] == left
    assert not open_in(tmp_path)


async def test_until_what_hangs_is_back_nothing_is_begun(tmp_path: Path, stall: Stall) -> None:
    """The file of an earlier attempt may still be written to, named or removed."""
    hanging: Hanging = set()
    other = FolderSender(tmp_path, LONG, hanging)
    stall.at(os, "fdatasync")
    sender = FolderSender(tmp_path, SOON, hanging)
    with pytest.raises(AssociationAborted):
        await sender.store(delivery().instance, Source())
    destination = Destination(name="archive", kind="file", path=str(tmp_path), response_timeout=LONG)
    with pytest.raises(AssociationAborted, match=SILENT):
        await FolderSender.open(destination, hanging)
    assert other.room == 0
    stall.answers.set()
    await until(lambda: other.room)
    for one in (other, await FolderSender.open(destination, hanging)):
        assert (await one.store(delivery().instance, Source())).status == 0x0000
        await one.release()


async def test_an_opening_that_is_called_off_hangs_like_any(tmp_path: Path, stall: Stall) -> None:
    stall.at(folder_sender, "make_folder")
    hanging: Hanging = set()
    destination = Destination(name="archive", kind="file", path=str(tmp_path), response_timeout=LONG)
    before = threads()
    opening = asyncio.ensure_future(FolderSender.open(destination, hanging))
    await until(lambda: threads() > before)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    with pytest.raises(AssociationAborted, match=SILENT):
        await FolderSender.open(destination, hanging)
    stall.answers.set()
    await until(lambda: not hanging)
    await (await FolderSender.open(destination, hanging)).release()


@pytest.mark.parametrize(("place", "name"), [(folder_sender, "make_folder"), (os, "fdatasync")])
async def test_a_lane_rests_while_its_folder_does_not_answer_and_delivers_when_it_does(
    tmp_path: Path, stall: Stall, place: Any, name: str
) -> None:
    before = threads()
    hanging: Hanging = set()
    destination = Destination(name="pacs", kind="file", path=str(tmp_path))
    bench = Bench()
    bench.lane.open_sender = lambda pairs: FolderSender.open(
        replace(destination, response_timeout=LONG if stall.answers.is_set() else SOON), hanging
    )
    stall.at(place, name)
    bench.owe(*[delivery() for _ in range(20)])
    for _ in range(5):
        await bench.until(lambda: bench.lane.state == "resting")
        status = bench.lane.status()
        assert (status.reason, status.in_flight) == (f"association lost: {SILENT}", 0)
        assert bench.changes[-1] is False
        assert threads() - before <= PARALLEL
        bench.lane.resume()
    await bench.until(lambda: bench.lane.state == "resting")
    stall.answers.set()
    await until(lambda: not hanging)
    bench.lane.resume()
    await bench.until(lambda: len(bench.ledger.outcomes) == 20)
    assert bench.ledger.kinds() == {"delivered": 20}
    assert bench.lane.status().state == "up"
    assert [data_set_bytes(path) for path in files_in(tmp_path)] == [b"data"] * 20
    await bench.close()
    await until(lambda: threads() <= before)


async def test_any_fault_answers_the_object_and_leaves_no_file(tmp_path: Path) -> None:
    class Faulty(Source):
        buffers = None

        async def chunks(self) -> AsyncIterator[bytes]:
            yield b"da"
            raise ValueError

    sender = await opened(tmp_path)
    with pytest.raises(ValueError):
        await sender.store(delivery().instance, Faulty())
    assert not files_in(tmp_path)
    assert not open_in(tmp_path)
    assert (await sender.store(delivery().instance, Source())).status == 0x0000
    await sender.release()


async def test_an_abort_answers_what_is_in_flight(tmp_path: Path, stall: Stall) -> None:
    stall.at(os, "fdatasync")
    sender = FolderSender(tmp_path, LONG, set())
    answer = sender.store(delivery().instance, Source())
    sender.abort()
    with pytest.raises(AssociationAborted):
        await answer
    assert await sender.closed is None
