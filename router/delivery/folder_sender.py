"""Objects to a folder: Part 10 files, whole or not there.

Each is written under a temporary name, synced, renamed, and its folder synced before it counts as delivered; the
names of the folders were synced before. Names are our own instance ids: nothing that a peer sent becomes part of a
path. Writing the same object again replaces the file by itself.

A file system that stalls (NFS whose server is gone) keeps the calls that it was given, and no thread can be stopped. So
a sender ends when one of its calls takes too long, and what it began is left to come back: until all of that has, there
is no other sender to the folder and those that there are take nothing more. Hence threads that hang do not add up, and
no object is begun whose file an earlier attempt may still write to, name or remove.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from router.delivery.sender import Pair
from router.dicom.part10 import file_meta
from router.errors import AssociationAborted, DeliveryError
from router.folders import make_folder, sync_folder
from router.model import Destination, InstanceInfo, Status, format_id
from router.ports import Buffer, DataSource
from router.services.storage_scu import StoreResponse

PARALLEL = 4
SHARD = 4
"""Leading characters of the id that name the subfolder: about 2.3 hours of arrivals each."""
SHARDS = 1000
"""Subfolders to remember."""
SILENT = "the folder does not answer"

T = TypeVar("T")
Hanging = set[asyncio.Task[Any]]
"""What senders to one folder had begun when they ended, and has not come back."""


def _write(descriptor: int, buffers: Sequence[Buffer]) -> None:
    for buffer in buffers:
        view = memoryview(buffer)
        while view:
            view = view[os.write(descriptor, view) :]


class FolderSender:
    """Implements ``Sender``.

    Args:
        timeout: Seconds that one call of the file system may take: a chunk written, a sync.
    """

    def __init__(self, folder: Path, timeout: float, hanging: Hanging) -> None:
        self._folder = folder
        self._timeout = timeout
        self._hanging = hanging
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(PARALLEL, "folder")
        self._named: set[Path] = set()
        """Subfolders whose names are known to be on the disk. One that is there may have been made by a run that was
        killed, or by a thread that has not synced it yet."""
        self._answers: dict[asyncio.Task[Any], asyncio.Future[Any]] = {}
        """Of what is being done; those that wait for an answer have it when this ends, however long the task takes."""
        self.closed: asyncio.Future[Exception | None] = self._loop.create_future()

    @classmethod
    async def open(cls, destination: Destination, hanging: Hanging | None = None) -> FolderSender:
        """Cancelling it is safe.

        Args:
            hanging: One for all senders to this folder.

        Raises:
            DeliveryError: The folder cannot be had.
            AssociationAborted: It does not answer in time, or an earlier call has not come back.
        """
        if hanging:
            raise AssociationAborted(SILENT)
        folder = Path(destination.path)
        sender = cls(folder, destination.response_timeout, set() if hanging is None else hanging)
        try:
            await sender._begin(sender._call(make_folder, folder, 0o750))
        except BaseException as error:
            sender.abort()
            if isinstance(error, OSError):
                raise DeliveryError(f"cannot use the folder: {error.strerror}", destination=destination.name) from error
            raise
        return sender

    @property
    def alive(self) -> bool:
        return not self.closed.done()

    @property
    def room(self) -> int:
        return 2 * PARALLEL - len(self._answers) if self.alive and not self._hanging else 0

    def proposed(self, info: InstanceInfo) -> bool:
        return True

    def accepts(self, info: InstanceInfo) -> bool:
        return True

    def accepts_pair(self, pair: Pair) -> bool:
        return True

    def store(self, info: InstanceInfo, source: DataSource) -> asyncio.Future[StoreResponse]:
        return self._begin(self._store(info, source))

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """What comes of it, or what ended the sender before."""
        answer: asyncio.Future[T] = self._loop.create_future()
        task = self._loop.create_task(work)
        self._answers[task] = answer
        task.add_done_callback(self._done)
        return answer

    def _done(self, task: asyncio.Task[Any]) -> None:
        answer = self._answers.pop(task)
        self._hanging.discard(task)
        if task.cancelled():
            answer.cancel()
        elif (error := task.exception()) is not None:
            if not answer.done():
                answer.set_exception(error)
        elif not answer.done():
            answer.set_result(task.result())
        self._end_threads()

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        """In a thread. If it takes too long the sender ends, and this goes on waiting."""
        timer = self._loop.call_later(self._timeout, self._end, AssociationAborted(SILENT))
        try:
            return await self._loop.run_in_executor(self._executor, function, *arguments)
        finally:
            timer.cancel()

    async def _store(self, info: InstanceInfo, source: DataSource) -> StoreResponse:
        name = format_id(info.id)
        shard = self._folder / name[:SHARD]
        temporary = shard / f".{name}.part"
        descriptor = -1
        try:
            descriptor = await self._call(self._create, shard, temporary)
            await self._append(descriptor, [file_meta(info)])
            buffers = source.buffers
            if buffers is not None:
                await self._append(descriptor, buffers)
            else:
                async for chunk in source.chunks():
                    await self._append(descriptor, [chunk])
            written, descriptor = descriptor, -1
            await self._call(self._complete, written, temporary, shard / f"{name}.dcm")
        except Exception as error:
            if descriptor >= 0:
                await self._call(self._discard, descriptor, temporary)
            if isinstance(error, OSError):
                raise DeliveryError(f"cannot write: {error.strerror}") from error
            raise
        return StoreResponse(Status.SUCCESS)

    async def _append(self, descriptor: int, buffers: Sequence[Buffer]) -> None:
        if not self.alive:
            raise AssociationAborted(SILENT)  # nobody waits for the rest of it
        await self._call(_write, descriptor, buffers)

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

    @staticmethod
    def _discard(descriptor: int, temporary: Path) -> None:
        with suppress(OSError):
            os.close(descriptor)
        with suppress(OSError):
            temporary.unlink()

    def hurry(self, much_waits: bool) -> None:
        """Nothing to do: what is written is told as it is done."""

    async def release(self) -> None:
        if self._answers:
            await asyncio.wait(self._answers.values())
        self.abort()

    def abort(self) -> None:
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if not self.alive:
            return
        self._hanging.update(self._answers)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error if error is not None else AssociationAborted("aborted by us"))
        self.closed.set_result(error)
        self._end_threads()

    def _end_threads(self) -> None:
        if not self.alive and not self._answers:
            self._executor.shutdown(wait=False)
