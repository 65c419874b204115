"""What the native seam costs: framing received and sent, the walk over a data set, the attributes of one object.

Run with ``python -m benchmarks.micro_fastpdu``. Every line is the best of several runs, since other work on the
machine only adds.
"""

from __future__ import annotations

import struct
import timeit
from collections.abc import Callable

from router._fastpdu import PduReader, frame_message
from router._walker import ElementWalker
from router.dicom.inspect import DatasetInspector
from router.model import Limits

OBJECT = 512 << 10
READ = 256 << 10
"""Bytes of one read from a socket."""
COMMAND = bytes(130)
LIMITS = Limits()
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
WANTED = frozenset({(0x00081030,), (0x00180015,), (0x00180050,), (0x00400275, 0, 0x00080050)})


def element(tag: int, vr: str, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(value)) + value


def ct_image(size: int) -> bytes:
    """A data set with the head of a CT image, about 150 elements, and Pixel Data up to ``size``."""
    head = [
        element(0x00080005, "CS", b"ISO_IR 100"),
        element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
        element(0x00080018, "UI", b"1.2.826.0.1.3680043.8.498.1234567890.1\0\0"),
        element(0x00080050, "SH", b"A1234567"),
        element(0x00080060, "CS", b"CT"),
        element(0x00081030, "LO", b"CHEST WITH CONTRAST "),
        element(0x00100020, "LO", b"PID00001"),
        element(0x00180015, "CS", b"CHEST "),
        element(0x00180050, "DS", b"1.25"),
        *(
            element(0x00190000 | number, "LO", b"private value " + bytes(number % 20 * 2))
            for number in range(0x10, 0x90)
        ),
        element(0x0020000D, "UI", b"1.2.826.0.1.3680043.8.498.1234567890.2\0\0"),
        element(0x0020000E, "UI", b"1.2.826.0.1.3680043.8.498.1234567890.3\0\0"),
    ]
    data = b"".join(head)
    pixels = size - len(data) - 12
    return data + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, pixels) + bytes(pixels)


def best(call: Callable[[], object], number: int) -> float:
    """Seconds of one call."""
    number = max(number, 1)
    return min(timeit.repeat(call, number=number, repeat=5)) / number


def reads(stream: bytes) -> list[memoryview]:
    return [memoryview(stream)[start : start + READ] for start in range(0, len(stream), READ)]


def main(share: float = 1.0) -> None:
    """``share`` of the usual calls are made: the tests take few."""
    for size, max_length, number in ((OBJECT, 131072, 500), (OBJECT, 16384, 300), (16 << 10, 131072, 5000)):
        data = ct_image(size)
        chunks = [data]
        wire = b"".join(frame_message(1, COMMAND, chunks, size, max_length))
        pieces = reads(wire)
        what = f"{size >> 10} KiB object, PDUs of {max_length >> 10} KiB"

        def send(chunks: list[bytes] = chunks, size: int = size, max_length: int = max_length) -> None:
            frame_message(1, COMMAND, chunks, size, max_length)

        def receive(pieces: list[memoryview] = pieces) -> None:
            reader = PduReader(131072)
            for piece in pieces:
                reader.feed(piece)

        def receive_and_inspect(pieces: list[memoryview] = pieces) -> None:
            reader = PduReader(131072)
            inspector = DatasetInspector(EXPLICIT_VR_LITTLE_ENDIAN, WANTED, LIMITS)
            for piece in pieces:
                for _, _, control, start, end, _ in reader.feed(piece):
                    if not control & 1:
                        inspector.feed(piece[start:end])
            inspector.finish()

        for name, call in (("frame", send), ("scan", receive), ("scan and inspect", receive_and_inspect)):
            seconds = best(call, int(number * share))
            print(f"{name:18} {what:34} {seconds * 1e6:8.2f} us {size / seconds / 1e6:12.0f} MB/s")

    data = ct_image(16 << 10)
    seconds = best(lambda: walk(data), int(5000 * share))
    print(f"{'walk':18} {'head of a CT image, 140 elements':34} {seconds * 1e6:8.2f} us")
    inspector = DatasetInspector(EXPLICIT_VR_LITTLE_ENDIAN, WANTED, LIMITS)
    inspector.feed(data)
    paths = [(0x00080016,), (0x00080018,), (0x0020000D,), (0x0020000E,), (0x00100020,), (0x00080050,), (0x00080060,)]

    def attributes() -> None:
        found = inspector.finish()
        for path in paths:
            found.texts(path)

    seconds = best(attributes, int(5000 * share))
    print(f"{'attributes':18} {'seven texts of one object':34} {seconds * 1e6:8.2f} us")


def walk(data: bytes) -> None:
    walker = ElementWalker(explicit=True, little_endian=True, wanted=WANTED)
    walker.feed(data)
    walker.finish()


if __name__ == "__main__":
    main()
