"""When to look at files that somebody may have changed: rules, certificates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from pathlib import Path

import watchfiles

from router.ports import Log

LOOK_EVERY = 5.0
"""Seconds after which they are looked at although the system said nothing."""


async def looks(folders: Collection[Path], log: Log) -> AsyncIterator[None]:
    """Yields whenever it is time to look, for ever: at once when the system tells of a change in one of the folders,
    and every few seconds in any case. It does not tell of everything: not of what symbolic links lead to, nor of what
    another machine writes. Where it tells of nothing, since it has no more watches to give, those seconds must do."""
    told = False
    while True:
        yield  # what changed while nobody watched
        try:
            watched = await asyncio.to_thread(_identities, folders)
            async for _ in watchfiles.awatch(
                *folders,
                debounce=400,
                step=100,
                recursive=False,
                rust_timeout=int(LOOK_EVERY * 1000),
                yield_on_timeout=True,
            ):
                told = False
                yield
                if await asyncio.to_thread(_identities, folders) != watched:
                    break  # others have taken their places, and these are those that were moved away
        except (OSError, RuntimeError) as error:
            if not told:
                told = True
                reason = error.strerror if isinstance(error, OSError) else str(error)
                log.warning("folders cannot be watched, they are looked at now and then", reason=reason)
            await asyncio.sleep(LOOK_EVERY)


def _identities(folders: Collection[Path]) -> list[tuple[int, int]]:
    found = []
    for folder in folders:
        with suppress(OSError):
            state = folder.stat()
            found.append((state.st_dev, state.st_ino))
    return found
