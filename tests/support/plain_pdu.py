"""PduReader and MessageFramer again, in plain Python: what ``router/_fastpdu.pyx`` is compared with.

Written to be read beside PS3.8 §9.3, not to be fast: one byte at a time, one fragment at a time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

from router.errors import AbortReason, LocalProtocolError, PeerProtocolError

Item = tuple[Any, ...]


class PduReader:
    """The same contract as ``router._fastpdu.PduReader``."""

    def __init__(self, max_pdata: int, max_associate: int = 1 << 20, strict: bool = True) -> None:
        tolerated = 16 << 20
        self._max_pdata = max_pdata if strict and max_pdata else max(max_pdata, tolerated)
        self._max_associate = max_associate
        self.associating = True
        self._dropped = 0  # bytes still to come of an A-ASSOCIATE PDU that was given by its header
        self._failed = False
        self._pdu: bytearray = bytearray()  # of a PDU other than P-DATA-TF: header and body
        self._left = 0  # P-DATA-TF bytes still to come
        self._pdv: bytearray | None = None  # header of the PDV being read; None outside of a P-DATA-TF
        self._pdv_left = 0

    @property
    def mid_pdu(self) -> bool:
        return not self._failed and (bool(self._pdu) or self._pdv is not None or self._dropped > 0)

    @property
    def missing(self) -> int:
        if not self.mid_pdu:
            return 0
        if self._dropped:
            return self._dropped
        if self._pdv is not None:
            return self._left
        return 6 + int.from_bytes(self._pdu[2:6], "big") - len(self._pdu) if len(self._pdu) >= 6 else 6 - len(self._pdu)

    def feed(self, data: bytes) -> list[Item]:
        items: list[Item] = []
        for position, byte in enumerate(data):
            if self._failed:
                break
            try:
                item = self._one(byte, position)
            except PeerProtocolError as error:
                self._failed = True
                item = (0, error)
            if item is None:
                continue
            if items and self._continues(items[-1], item):
                item = (*item[:3], items.pop()[3], *item[4:])
            items.append(item)
        return items

    @staticmethod
    def _continues(last: Item, item: Item) -> bool:
        return last[0] == item[0] == 4 and not last[5] and last[4] == item[3] and item[3] != item[4]

    def _one(self, byte: int, position: int) -> Item | None:
        if self._pdv is not None:
            return self._pdata(byte, position)
        if self._dropped:
            self._dropped -= 1
            return None
        pdu = self._pdu
        pdu.append(byte)
        if not 1 <= pdu[0] <= 7:
            raise PeerProtocolError("unrecognized PDU type", AbortReason.UNRECOGNIZED_PDU)
        if len(pdu) < 6:
            return None
        (length,) = struct.unpack(">I", pdu[2:6])
        if len(pdu) == 6:
            cap = {1: self._max_associate, 2: self._max_associate, 4: self._max_pdata}.get(pdu[0], 64)
            if length > cap:
                raise PeerProtocolError("PDU length over its limit", AbortReason.INVALID_PDU_PARAMETER_VALUE)
        if pdu[0] == 4:
            pdu.clear()
            if length:
                self._left = length
                self._pdv = bytearray()
            return None
        if len(pdu) == 6 and pdu[0] <= 2 and not self.associating:
            self._dropped, self._pdu = length, bytearray()
            return (pdu[0], b"")
        if len(pdu) < 6 + length:
            return None
        self._pdu = bytearray()
        return (pdu[0], bytes(pdu[6:]))

    def _pdata(self, byte: int, position: int) -> Item | None:
        assert self._pdv is not None
        if self._pdv_left:
            self._pdv_left -= 1
            item = (4, self._pdv[4], self._pdv[5], position, position + 1, self._pdv_left == 0)
        else:
            if not self._pdv and self._left < 6:
                raise PeerProtocolError("PDV beyond its PDU", AbortReason.INVALID_PDU_PARAMETER_VALUE)
            self._pdv.append(byte)
            if len(self._pdv) < 6:
                self._left -= 1
                return None
            (length,) = struct.unpack(">I", self._pdv[:4])
            if length < 2:
                raise PeerProtocolError("PDV length below 2", AbortReason.INVALID_PDU_PARAMETER_VALUE)
            if length - 2 > self._left - 1:
                raise PeerProtocolError("PDV beyond its PDU", AbortReason.INVALID_PDU_PARAMETER_VALUE)
            self._pdv_left = length - 2
            item = None if self._pdv_left else (4, self._pdv[4], self._pdv[5], position + 1, position + 1, True)
        self._left -= 1
        if self._pdv_left == 0:
            self._pdv = bytearray() if self._left else None
        return item


def p_data(context_id: int, control: int, data: bytes) -> bytes:
    """One P-DATA-TF with one PDV."""
    return struct.pack(">BBIIBB", 4, 0, len(data) + 6, len(data) + 2, context_id, control) + data


def fragments(data: bytes, max_length: int) -> list[bytes]:
    """Cut as PS3.8 Annex E.1 asks: even, but for the last one."""
    if max_length == 0:
        max_length = 131072
    if max_length < 8:
        raise LocalProtocolError("no room")
    size = (min(max_length, 1 << 20) - 6) & ~1
    return [data[start : start + size] for start in range(0, len(data), size)] or [b""]


def frame_message(context_id: int, command: bytes, chunks: Sequence[bytes] | None, max_length: int) -> bytes:
    """The bytes that a message is on the wire."""

    def framed(data: bytes, kind: int) -> Iterable[bytes]:
        pieces = fragments(data, max_length)
        for number, piece in enumerate(pieces, 1):
            yield p_data(context_id, kind | (2 if number == len(pieces) else 0), piece)

    out = list(framed(command, 1))
    if chunks:
        out += framed(b"".join(chunks), 0)
    return b"".join(out)


def open_ended(context_id: int, chunks: Sequence[bytes], max_length: int) -> list[bytes]:
    """What leaves after each piece of a data set whose size is not known, and what leaves at its end."""
    out, held = [], b""
    for chunk in chunks:
        held += chunk
        leaving = b""
        pieces = fragments(held, max_length)
        for piece in pieces[:-1]:
            leaving += p_data(context_id, 0, piece)
        held = pieces[-1]
        out.append(leaving)
    return [*out, p_data(context_id, 2, held)]
