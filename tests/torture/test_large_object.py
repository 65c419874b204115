"""Objects beyond any memory: one passes in little of it, and one that is too large is refused and leaves nothing."""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.objects import encode, synthetic
from tests.support.peers import wait_for
from tests.support.process_memory import forget_peak, peak, resident
from tests.support.router_process import RouterProcess
from tests.support.wire import MAX, WireSender, WireSink
from tests.torture.figures import Figure, report

CT, JPEG = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.4.50"
UID = "2.25.4711"
MIB = 1 << 20
PIECE = MAX - 6
GROWTH = 16 * MIB


def head() -> bytes:
    """Everything of an instance before its pixels."""
    dataset = synthetic(size=16, sop_instance=UID)
    del dataset.PixelData
    return encode(dataset)


def encapsulated(size: int) -> Iterator[bytes]:
    """A data set with ``size`` bytes of encapsulated pixels, in items of 1 GiB at most; in pieces of PIECE bytes."""
    block = os.urandom(MIB)
    waiting = bytearray(head() + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF))
    waiting += struct.pack("<HHI", 0xFFFE, 0xE000, 0)  # no offsets
    left = size
    while left:
        item = min(left, 1 << 30)
        left -= item
        waiting += struct.pack("<HHI", 0xFFFE, 0xE000, item)
        while item:
            part = min(item, MIB)
            item -= part
            waiting += block[:part]
            at = 0
            while len(waiting) - at >= PIECE:
                yield bytes(waiting[at : at + PIECE])
                at += PIECE
            del waiting[:at]
    waiting += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    yield from (bytes(waiting[at : at + PIECE]) for at in range(0, len(waiting), PIECE))


def pid_of(router: RouterProcess) -> int:
    assert router.process is not None
    return router.process.pid


def in_spool(router: RouterProcess) -> int:
    """Bytes that its files take on the disk."""
    return sum(path.stat().st_blocks * 512 for path in (router.folder / "data" / "spool").rglob("*.seg"))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("cut_through", [True, False])
def test_an_object_passes_in_little_memory_and_unchanged(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool, cut_through: bool
) -> None:
    size = amount("large_mib", 96, 10 * 1024) * MIB
    with WireSink(keep=False) as sink:
        router = RouterProcess(
            tmp_path / "router",
            {},
            rules='[[rule]]\nname = "everything"\nto = ["archive"]\n',
            limits=f'object_size = "{size + MIB}B"',
            node="",
            extra='[spool]\nreserve_associations = "0B"\nreserve_objects = "0B"\nkeep_delivered = 0.1\n'
            f'[destinations.archive]\nurl = "dicom://SINK@127.0.0.1:{sink.port}"\n'
            f"cut_through = {str(cut_through).lower()}\n",
        )
        with router:
            warm = WireSender(router.port, (CT, JPEG))
            assert warm.stream("2.25.4712", small("2.25.4712")) == 0
            wait_for(lambda: len(sink.digests) == 1, 30, "what warms it up")
            before = resident(pid_of(router))
            forget_peak(pid_of(router))
            digest = hashlib.sha256()

            def told() -> Iterator[bytes]:
                for piece in encapsulated(size):
                    digest.update(piece)
                    yield piece

            started = time.monotonic()
            warm.connection.settimeout(600)
            assert warm.stream(UID, told()) == 0
            took = time.monotonic() - started
            received = peak(pid_of(router)) - before
            wait_for(lambda: len(sink.digests) == 2, 600, "its delivery")
            growth = peak(pid_of(router)) - before
            warm.close()
            assert sink.digests[1] == digest.hexdigest(), "byte-identical"
    assert received <= GROWTH, f"{received / MIB:.1f} MiB more while receiving"
    report(
        Figure(
            test="T15",
            promise=f"an object of {size / (1 << 30):g} GiB, {'with' if cut_through else 'without'} early transfer: in "
            "little memory, unchanged",
            goal="≤ 16 MiB more resident while receiving",
            found=f"{received / MIB:.1f} MiB more while receiving at {size / took / 1e6:.0f} MB/s, "
            f"{growth / MIB:.1f} MiB until it was delivered; byte-identical",
            n=1,
            command=f"make torture (tests/torture/test_large_object.py, --amount large_mib={size // MIB})",
        ),
        keep=campaign,
    )


def small(uid: str) -> Iterator[bytes]:
    """An object that is streamed too."""
    for piece in encapsulated(4 * MIB):
        yield piece.replace(UID.encode(), uid.encode())


@pytest.mark.timeout(600)
def test_an_object_over_the_limit_is_refused_for_good_and_leaves_nothing(tmp_path: Path, campaign: bool) -> None:
    limits = 'object_size = "64MiB"\nobject_memory = "1MiB"'
    spool = '[spool]\nspare_segments = 0\nreserve_associations = "0B"\nreserve_objects = "0B"\n'
    with RouterProcess(tmp_path / "router", {}, limits=limits, extra=spool) as router:
        before = in_spool(router)
        sender = WireSender(router.port, (CT, JPEG))
        status = sender.stream(UID, encapsulated(80 * MIB))
        answered = time.monotonic()
        assert 0xC010 <= status <= 0xC012, f"{status:04X}"
        wait_for(lambda: in_spool(router) <= before + 8 * MIB, 5, "its bytes to go")
        gone = time.monotonic() - answered
        assert gone < 1.0
        assert sender.stream("2.25.4712", small("2.25.4712")) == 0, "the association goes on"
        sender.close()
    report(
        Figure(
            test="T15",
            promise="an object over the limit is refused for good while it arrives, and leaves nothing",
            goal="0xC010 to 0xC012; its bytes gone ≤ 1 s later; the association goes on",
            found=f"0x{status:04X}; gone after {gone:.2f} s; the next object on the association stored",
            n=1,
            command="make torture (tests/torture/test_large_object.py)",
        ),
        keep=campaign,
    )
