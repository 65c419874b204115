"""Objects to a folder: Part 10 files, whole or not there.

Each is written under a temporary name, synced, renamed, and its folder synced before it counts as delivered; the
names of the folders were synced before. Names are our own instance ids: nothing that a peer sent becomes part of a
path. Writing the same object again replaces the file by itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from router.delivery.sender import Pair
from router.dicom.part10 import file_meta
from router.errors import DeliveryError, SpoolError
from router.folders import make_folder, sync_folder
from router.model import Destination, InstanceInfo, Status, format_id
from router.ports import Buffer, DataSource
from router.services.storage_scu import StoreResponse

PARALLEL = 4
SHARD = 4
"""Leading characters of the id that name the subfolder: about 2.3 hours of arrivals each."""
SHARDS = 1000
"""Subfolders to remember."""


def _write(descriptor: int, buffers: Sequence[Buffer]) -> None:
    for buffer in buffers:
        view = memoryview(buffer)
        while view:
            view = view[os.write(descriptor, view) :]


class FolderSender:
    """Implements ``Sender``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(PARALLEL, "folder")
        self._busy = 0
        self._named: set[Path] = set()
        """Subfolders whose names are known to be on the disk. One that is there may have been made by a run that was
        killed, or by a thread that has not synced it yet."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.closed: asyncio.Future[Exception | None] = self._loop.create_future()

    @classmethod
    async def open(cls, destination: Destination) -> FolderSender:
        """Raises DeliveryError when the folder cannot be had."""
        folder = Path(destination.path)
        sender = cls(folder)
        try:
            await sender._loop.run_in_executor(sender._executor, make_folder, folder, 0o750)
        except OSError as error:
            sender.abort()
            raise DeliveryError(f"cannot use the folder: {error.strerror}", destination=destination.name) from error
        return sender

    @property
    def alive(self) -> bool:
        return not self.closed.done()

    @property
    def room(self) -> int:
        return 2 * PARALLEL - self._busy if self.alive else 0

    def proposed(self, info: InstanceInfo) -> bool:
        return True

    def accepts(self, info: InstanceInfo) -> bool:
        return True

    def accepts_pair(self, pair: Pair) -> bool:
        return True

    def store(self, info: InstanceInfo, source: DataSource) -> asyncio.Future[StoreResponse]:
        future: asyncio.Future[StoreResponse] = self._loop.create_future()
        self._busy += 1
        task = self._loop.create_task(self._store(info, source, future))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return future

    async def _store(self, info: InstanceInfo, source: DataSource, future: asyncio.Future[StoreResponse]) -> None:
        name = format_id(info.id)
        shard = self._folder / name[:SHARD]
        temporary = shard / f".{name}.part"
        run = self._loop.run_in_executor
        descriptor = -1
        try:
            descriptor = await run(self._executor, self._create, shard, temporary)
            await run(self._executor, _write, descriptor, [file_meta(info)])
            buffers = source.buffers
            if buffers is not None:
                await run(self._executor, _write, descriptor, buffers)
            else:
                async for chunk in source.chunks():
                    await run(self._executor, _write, descriptor, [chunk])
            written, descriptor = descriptor, -1
            await run(self._executor, self._complete, written, temporary, shard / f"{name}.dcm")
        except (OSError, SpoolError) as error:
            if not future.done():
                problem = error if isinstance(error, SpoolError) else DeliveryError(f"cannot write: {error.strerror}")
                future.set_exception(problem)
        else:
            if not future.done():
                future.set_result(StoreResponse(Status.SUCCESS))
        finally:
            self._busy -= 1
            if descriptor >= 0:
                with suppress(OSError):
                    os.close(descriptor)
                    temporary.unlink()

    def _create(self, shard: Path, temporary: Path) -> int:
        if shard not in self._named or not shard.is_dir():
            shard.mkdir(mode=0o750, exist_ok=True)
            sync_folder(self._folder)
            if len(self._named) >= SHARDS:
                self._named.clear()
            self._named.add(shard)
        return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)

    @staticmethod
    def _complete(descriptor: int, temporary: Path, final: Path) -> None:
        """Closes the file, whatever happens."""
        try:
            os.fdatasync(descriptor)
            temporary.rename(final)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
        finally:
            os.close(descriptor)
        sync_folder(final.parent)

    def hurry(self, much_waits: bool) -> None:
        """Nothing to do: what is written is told as it is done."""

    async def release(self) -> None:
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        self.abort()

    def abort(self) -> None:
        self._executor.shutdown(wait=False)
        if not self.closed.done():
            self.closed.set_result(None)
