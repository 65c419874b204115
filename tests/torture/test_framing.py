"""A data set that is not whole is refused at the door, whatever its encoding: cut, with a wrong length, with bytes left
over.

Every class of transfer syntaxes has a small data set with sequences of both kinds, private elements, UN and pixels. It
is sent, correctly framed and with a correct last-fragment flag, cut at every byte (a share: at the boundaries of
elements, items and values, and one byte beside them), with each of its lengths wrong in turn, and with bytes behind its
end. Two things may pass, and must: PS3.5 §7.1 knows no last element, so that a cut between two elements of the root
leaves a whole data set; and a delimiter has no value, so that its length says nothing (§7.5). The plain-Python walk,
which shares no code with the router, tells which.
"""

from __future__ import annotations

import os
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from router.errors import DatasetError
from router.model import Status
from tests.hostile.support import resident
from tests.support.objects import received, sha256
from tests.support.peers import wait_for
from tests.support.plain_dataset import UNDEFINED, Encoding
from tests.support.plain_walk import Walk
from tests.support.router_process import RouterProcess
from tests.support.wire import WireSender
from tests.torture.figures import Figure, report

CT = "1.2.840.10008.5.1.4.1.1.2"
UID = "2.25.19000000"
"""In its place every object that is sent has a UID of its own."""
REFUSED = {Status.FRAMING_ERROR, Status.MISSING_UIDS, Status.DATA_SET_MISMATCH}
OBJECT_MEMORY = 4096
"""``limits.object_memory``: half of the pixels take the object beyond it, so that cuts meet both ways of receiving."""
PIXELS = b"\xa5\x5a" * 2100
SHARE_OF_LARGE = 400
"""Bytes of pixels between two cuts, within pixels."""
PARTS = 10
"""Memory is looked at after each part of the campaign."""
WARM_UP = 1500
"""Objects before it is looked at first: the first thousand bring threads and blocks that stay."""
SETTLES = 8 << 20
"""Bytes that the allocator takes once, over the first hundred thousand objects."""
NOISE = 2 << 20
"""Bytes by which resident memory moves without a leak in the second half of the campaign."""


class Misled(Encoding):
    """Writes one length wrong: that of its ``victim``-th header; and remembers all headers."""

    def __init__(self, like: Encoding, victim: int = -1, change: Callable[[int], int] = lambda length: length) -> None:
        super().__init__(explicit=like.explicit, little=like.little)
        self.headers: list[bytes] = []
        self._victim = victim
        self._change = change

    def header(self, tag: int, vr: str, length: int) -> bytes:
        length = self._length(length)
        short = self.explicit and len(super().header(tag, vr, 0)) == 8
        return self._noted(super().header(tag, vr, length & 0xFFFF if short else length))

    def bare(self, tag: int, length: int) -> bytes:
        return self._noted(super().bare(tag, self._length(length)))

    def _length(self, length: int) -> int:
        return self._change(length) & 0xFFFFFFFF if len(self.headers) == self._victim else length

    def _noted(self, header: bytes) -> bytes:
        self.headers.append(header)
        return header


CHANGES: dict[str, Callable[[int], int]] = {
    "one more": lambda length: length + 1,
    "two more": lambda length: length + 2,
    "one less": lambda length: length - 1,
    "nothing": lambda length: 0 if length else 2,
    "2 GiB": lambda length: 1 << 31,
    "undefined": lambda length: UNDEFINED if length != UNDEFINED else UNDEFINED - 1,
}


@dataclass(frozen=True)
class Kind:
    """A class of transfer syntaxes."""

    name: str
    transfer_syntax: str
    encoding: Encoding
    encapsulated: bool = False
    deflated: bool = False

    def build(self, encoding: Encoding) -> bytes:
        study = encoding.element(0x00081155, "UI", b"2.25.190\0\0")
        pixels = (
            encoding.fragments(b"", PIXELS[:2000], PIXELS[2000:])
            if self.encapsulated
            else encoding.element(0x7FE00010, "OW", PIXELS)
        )
        return b"".join(
            (
                encoding.element(0x00080016, "UI", CT.encode() + b"\0"),
                encoding.element(0x00080018, "UI", UID.encode() + b"\0"),
                encoding.element(0x00080060, "CS", b"CT"),
                encoding.sequence(0x00081140, encoding.item(study), encoding.item(study, undefined=True)),
                encoding.element(0x00100020, "LO", b"CUT1"),
                encoding.element(0x00190010, "LO", b"ACME"),
                encoding.element(0x00191001, "UN", b"\x01\x02\x03\x04"),
                encoding.sequence(
                    0x00400275,
                    encoding.item(encoding.sequence(0x00081140, encoding.item(study), undefined=True), undefined=True),
                    encoding.item(encoding.sequence(0x00081140, encoding.item(study))),
                    undefined=True,
                ),
                pixels,
            )
        )

    def wire(self, data: bytes, uid: str = UID) -> bytes:
        data = data.replace(UID.encode(), uid.encode())
        if not self.deflated:
            return data
        compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
        return compressor.compress(data) + compressor.flush()

    def whole(self, data: bytes) -> bool:
        """A data set by PS3.5 that names the instance of the command."""
        wanted = frozenset({(0x00080016,), (0x00080018,)})
        walk = Walk(self.encoding.explicit, self.encoding.little, wanted)
        try:
            walk.walk(data)
        except DatasetError:
            return False
        values = {path: value.rstrip(b"\0 ") for path, (_, value) in walk.values.items()}
        return values == {(0x00080016,): CT.encode(), (0x00080018,): UID.encode()}


EXPLICIT, IMPLICIT, BIG = Encoding(), Encoding(explicit=False), Encoding(little=False)
KINDS = (
    Kind("implicit", "1.2.840.10008.1.2", IMPLICIT),
    Kind("explicit", "1.2.840.10008.1.2.1", EXPLICIT),
    Kind("big endian", "1.2.840.10008.1.2.2", BIG),
    Kind("deflated", "1.2.840.10008.1.2.1.99", EXPLICIT, deflated=True),
    Kind("encapsulated", "1.2.840.10008.1.2.4.70", EXPLICIT, encapsulated=True),
)


def cuts(data: bytes, headers: list[bytes], every: bool) -> list[int]:
    """Where to cut: everywhere, or at each end of each header and one byte beside it."""
    if every:
        return list(range(len(data)))
    found = set(range(0, len(data), SHARE_OF_LARGE))
    for header in set(headers):
        at = data.find(header)
        while at >= 0:
            found |= {at + by for by in (-1, 0, 1)} | {at + len(header) + by for by in (-1, 0, 1)}
            at = data.find(header, at + 1)
    return sorted(cut for cut in found if 0 <= cut < len(data))


@dataclass(frozen=True)
class Broken:
    """What is sent instead of the data set."""

    how: str
    data: bytes
    whole: bool
    """A data set after all."""
    end: int | None = None
    """Where its deflated stream is cut."""


def broken(kind: Kind, every: bool) -> Iterator[Broken]:
    builder = Misled(kind.encoding)
    data = kind.build(builder)
    assert kind.whole(data)
    delimiters = {kind.encoding.tag(0xFFFEE00D), kind.encoding.tag(0xFFFEE0DD)}
    for cut in cuts(data, builder.headers, every):
        yield Broken(f"cut at {cut}", data[:cut], kind.whole(data[:cut]))
    if kind.deflated:
        for cut in range(len(kind.wire(data)) - 8):  # with another UID its length is another
            yield Broken(f"stream cut at {cut}", data, False, cut)
    for victim in range(len(builder.headers)):
        for change, function in CHANGES.items():
            wrong = kind.build(Misled(kind.encoding, victim, function))
            assert kind.whole(wrong) == (builder.headers[victim][:4] in delimiters)
            yield Broken(f"length {victim}: {change}", wrong, kind.whole(wrong))
    for extra in (b"\0\0", b"\xff" * 4, b"\xfe\xff\x0d\xe0\0\0\0\0", b"\x08\0\x18\0UI", data[:7]):
        yield Broken(f"{len(extra)} bytes more", data + extra, kind.whole(data + extra))


@pytest.mark.timeout(3600)
def test_what_is_not_a_whole_data_set_is_never_accepted(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    every = bool(amount("every_cut", 0, 1))
    archive = tmp_path / "archive"
    sent = 0
    accepted: dict[str, list[str]] = {}
    with RouterProcess(
        tmp_path / "router", {"archive": f"file://{archive}"}, limits=f"object_memory = {OBJECT_MEMORY}"
    ) as router:
        for kind in KINDS:
            sender = WireSender(router.port, (CT, kind.transfer_syntax))
            try:
                for item in broken(kind, every):
                    uid = f"2.25.19{sent:06d}"
                    data = kind.wire(item.data, uid)[: item.end]
                    status = sender.store(uid, data)
                    sent += 1
                    if item.whole:
                        assert status == Status.SUCCESS, f"{kind.name}: {item.how}"
                        accepted[uid] = [sha256(data)]
                    else:
                        assert status in REFUSED, f"{kind.name}: {item.how}: {status:#06x}"
            finally:
                sender.close()
        wait_for(lambda: len(received(archive)) >= len(accepted), 60, "delivery of what is whole")
        assert received(archive) == accepted
    whole = len(accepted)
    assert 0 < whole < sent
    report(
        Figure(
            test="T19",
            promise="data sets cut at element boundaries and beside them, with wrong lengths, with bytes left over",
            goal="0 accepted",
            found=f"0 of {sent - whole:,} accepted; the other {whole} are whole by PS3.5 (cut between elements, "
            "a delimiter's length) and kept",
            n=sent - whole,
            command=f"make torture (tests/torture/test_framing.py, --amount every_cut={int(every)})",
        ),
        keep=campaign,
    )


@pytest.mark.timeout(7200)
def test_malformed_data_sets_leave_nothing(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    """Memory, descriptors and files after many are those after the first few; each was judged, by status."""
    number = amount("malformed_data_sets", 2_000, 500_000)
    chance = random.Random(20261123)
    cases = {kind.name: [item for item in broken(kind, False) if not item.whole] for kind in KINDS}
    statuses: Counter[str] = Counter()
    files, memory, left = [], [], []
    sent = 0
    with RouterProcess(
        tmp_path / "router", {"archive": f"file://{tmp_path / 'archive'}"}, limits=f"object_memory = {OBJECT_MEMORY}"
    ) as router:
        assert router.process is not None
        pid, spool = router.process.pid, router.folder / "data" / "spool"
        for part in range(PARTS + 1):
            for kind in KINDS:
                sender = WireSender(router.port, (CT, kind.transfer_syntax))
                try:
                    size = (number // PARTS if part else WARM_UP) // len(KINDS)
                    for item in chance.choices(cases[kind.name], k=size):
                        uid = f"2.25.19{sent % 1_000_000:06d}"
                        status = sender.store(uid, kind.wire(item.data, uid)[: item.end])
                        assert status in REFUSED, f"{kind.name}: {item.how}: {status:#06x}"
                        statuses[f"0x{status:04X}"] += 1
                        sent += 1
                finally:
                    sender.close()
            wait_for(lambda: router.metric("dicom_router_associations", direction="in") == 0, 30, "the last to be gone")
            files.append(len(os.listdir(f"/proc/{pid}/fd")))
            memory.append(resident(pid))
            left.append(sum(path.is_file() for path in spool.iterdir()))
        counted = {status: router.metric("dicom_router_store_responses_total", status=status) for status in statuses}
        assert counted == statuses
    assert memory[-1] - memory[0] <= SETTLES, memory
    grown, objects = memory[-1] - memory[PARTS // 2], number // 2
    assert grown <= NOISE, memory
    assert files[-1] <= files[0] + 4, files
    assert left[-1] <= left[0] + 4, left
    assert received(tmp_path / "archive") == {}
    report(
        Figure(
            test="T22",
            promise="malformed data sets of five classes of transfer syntaxes: memory, descriptors and files",
            goal="each refused; memory does not grow with their number; no descriptor and no segment left",
            found=", ".join(f"{count:,} answered {status}" for status, count in sorted(statuses.items()))
            + f"; {grown / objects:.1f} bytes of memory per object ({grown / 1024:,.0f} KiB in all) in the second "
            f"half; descriptors {files[0]} and {files[-1]}, segments {left[0]} and {left[-1]}",
            n=sent,
            command=f"make torture (tests/torture/test_framing.py, --amount malformed_data_sets={number})",
        ),
        keep=campaign,
    )
