"""Looking at a data set while it streams past: is its framing whole, and what do the rules need of it.

Puts together the element walker, the transfer syntax and, for deflated data sets, a bounded inflater. Holds no data
set, decodes no pixels, raises nothing while data comes. Checking what the UIDs say is the business of who receives.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import lru_cache

from router._walker import ElementWalker
from router.dicom import attributes, uids
from router.dicom.attributes import Attributes, Path
from router.errors import DatasetError
from router.model import Limits, Status
from router.ports import Buffer

ALWAYS: frozenset[Path] = frozenset(
    (
        attributes.SPECIFIC_CHARACTER_SET,
        attributes.SOP_CLASS_UID,
        attributes.SOP_INSTANCE_UID,
        attributes.ACCESSION_NUMBER,
        attributes.MODALITY,
        attributes.PATIENT_ID,
        attributes.STUDY_INSTANCE_UID,
        attributes.SERIES_INSTANCE_UID,
    )
)
"""Collected of every data set: the ledger's columns, and the character set that decodes the rest."""

_INFLATE_STEP = 64 << 10
# One NUL may make a deflated data set even (PS3.5 A.5); writers that took gzip for deflate leave its 8 byte trailer.
_TRAILER = 9


@lru_cache(maxsize=64)
def _how(transfer_syntax: str, wanted: frozenset[Path]) -> tuple[uids.TransferSyntax | None, frozenset[Path]]:
    """The same for nearly all that arrive."""
    return uids.lookup(transfer_syntax), wanted | ALWAYS


class DatasetInspector:
    """One data set, fed as it arrives.

    A transfer syntax that we do not know makes the data set opaque: its framing is not judged and nothing is seen of
    it. A deflated one is inflated up to ``limits.header_bytes`` and ``limits.inflate_ratio``; past that it is not
    looked at any more.

    Args:
        transfer_syntax: UID as negotiated.
        wanted: Paths that the rules name; ``ALWAYS`` is added.
        limits: ``sequence_depth``, ``elements``, ``header_bytes``, ``inflate_ratio``.
    """

    __slots__ = ("_head", "_inflater", "_little", "_walker", "error", "look", "size")

    def __init__(self, transfer_syntax: str, wanted: frozenset[Path], limits: Limits) -> None:
        self.size = 0
        """Bytes of the data set so far, as received."""
        self.error: DatasetError | None = None
        """The first thing that was wrong; nothing is looked at after it."""
        self._head = 0
        """Values that had been met when ``head`` gave them."""
        self._walker: ElementWalker | None = None
        self._inflater: _Inflater | None = None
        self._little = True
        self.look: ElementWalker | Callable[[Buffer], None] | None = None
        """What takes the next bytes and raises DatasetError for what they hold: a walker that native code can feed, or
        else a function; None: there is nothing to be seen. Whoever uses it instead of ``feed`` stops at the first
        error."""
        syntax, wanted = _how(transfer_syntax, wanted)
        if syntax is None:
            return
        self._little = syntax.little_endian
        self.look = self._walker = ElementWalker(
            syntax.explicit,
            syntax.little_endian,
            wanted,
            limits.sequence_depth,
            limits.elements,
            limits.header_bytes,
        )
        if syntax.deflated:
            self._inflater = _Inflater(self._walker, limits.header_bytes, limits.inflate_ratio)
            self.look = self._inflater.feed

    @property
    def has_meta(self) -> bool:
        """The data set begins with group 0002, which has no business there (PS3.5 §7.1)."""
        return self._walker is not None and self._walker.has_meta

    def feed(self, data: Buffer) -> None:
        """The next bytes, one contiguous buffer of bytes. Never raises for what they hold: see ``error``."""
        self.size += len(data)
        if self._walker is None or self.error is not None:
            return
        try:
            if self._inflater is None:
                self._walker.feed(data)
            else:
                self._inflater.feed(data)
        except DatasetError as error:
            self.error = error

    def head(self) -> Attributes | None:
        """What was collected before Pixel Data, once that has been reached; None before, and where this cannot be known
        (opaque, deflated, over ``header_bytes``, damaged)."""
        walker = self._walker
        if walker is None or self._inflater is not None or self.error is not None:
            return None
        if walker.truncated or not walker.past_header:
            return None
        self._head = self._met(walker)
        return Attributes(
            dict(walker.values),
            little_endian=self._little,
            has_meta=walker.has_meta,
            too_long=tuple(walker.unavailable),
        )

    @property
    def head_was_all(self) -> bool:
        """Nothing has been collected since ``head``: elements may stand in any order, although they should not."""
        return self._walker is not None and self._met(self._walker) == self._head

    @staticmethod
    def _met(walker: ElementWalker) -> int:
        return len(walker.values) + len(walker.unavailable)

    def finish(self) -> Attributes:
        """The data set ends here; gives what was collected.

        Raises:
            DatasetError: The first thing that was wrong: FRAMING_ERROR, TOO_MANY_ELEMENTS, NESTED_TOO_DEEP.
        """
        if self.error is not None:
            raise self.error
        walker = self._walker
        if walker is None:
            return Attributes(available=False)
        try:
            if self._inflater is None:
                walker.finish()
            else:
                self._inflater.finish()
        except DatasetError as error:
            self.error = error
            raise
        stopped = self._inflater is not None and self._inflater.stopped and not walker.past_header
        available = not (walker.truncated or stopped)
        return Attributes(walker.values, self._little, available, walker.has_meta, walker.unavailable)


class _Inflater:
    """Raw deflate (PS3.5 A.5) into a walker, bounded in output and in ratio: a kilobyte may hold a gigabyte of
    zeros."""

    __slots__ = ("_end", "_given", "_limit", "_ratio", "_taken", "_walker", "_zlib", "stopped")

    def __init__(self, walker: ElementWalker, limit: int, ratio: int) -> None:
        self._walker = walker
        self._limit = limit
        self._ratio = ratio
        self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)
        self._taken = 0
        self._given = 0
        self._end = 0
        self.stopped = False

    def feed(self, data: Buffer) -> None:
        if self.stopped:
            return
        if self._zlib.eof:
            self._after_the_end(len(data))
            return
        self._taken += len(data)
        waiting: Buffer = data
        while True:
            try:
                out = self._zlib.decompress(waiting, _INFLATE_STEP)
            except zlib.error:
                raise DatasetError(Status.FRAMING_ERROR, "deflated data set is damaged") from None
            self._given += len(out)
            self._walker.feed(out)
            if self._zlib.eof:
                self._after_the_end(len(self._zlib.unused_data))
                return
            if self._given > self._limit or self._given > max(self._taken * self._ratio, _INFLATE_STEP):
                self.stopped = True
                return
            waiting = self._zlib.unconsumed_tail
            if not waiting and len(out) < _INFLATE_STEP:
                return

    def _after_the_end(self, size: int) -> None:
        self._end += size
        if self._end > _TRAILER:
            raise DatasetError(Status.FRAMING_ERROR, "bytes after the end of a deflated data set")

    def finish(self) -> None:
        if self.stopped:
            return
        if not self._zlib.eof:
            raise DatasetError(Status.FRAMING_ERROR, "data set is cut short")
        self._walker.finish()
