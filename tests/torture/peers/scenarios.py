"""One misfortune each, told so that it can happen to any receiver; gives what was seen."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import struct
import subprocess
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.objects import encode, synthetic
from tests.torture.images import Image, unable
from tests.torture.peers.sender import DEFLATED, Answer, PeerSender
from tests.torture.peers.subjects import DAMAGED, Kept, Serving, Subject

SUCCESS = 0x0000
OBJECTS = 20
FULL_DISK = "96m"
DEPTH = 20_000
BOMB = 256 << 20
"""Bytes after inflating."""


@dataclass(frozen=True)
class Seen:
    """``good``: as the router promises it for itself."""

    found: str
    n: int
    good: bool


@dataclass(frozen=True)
class Scenario:
    test: str
    """The campaign that tries the same on the router at length; "peers" where this is all there is."""
    promise: str
    goal: str
    run: Callable[[Subject, Path], Seen]
    unable: Callable[[], str] = lambda: ""
    """Why it cannot happen on this machine."""


@dataclass(frozen=True)
class Object:
    uid: str
    data: bytes
    digest: str
    """Of its pixel data."""


def make(number: int, size: int = 200_000, *, uid: str = "", seed: int = 0) -> Object:
    uid = uid or f"2.25.8{number:05d}"
    instance = synthetic(size=size, sop_instance=uid, study="2.25.80", seed=seed or number, SeriesInstanceUID="2.25.81")
    return Object(uid, encode(instance), hashlib.sha256(instance.PixelData).hexdigest())


def store(server: Serving, item: Object, timeout: float = 60) -> Answer:
    """On an association of its own."""
    try:
        sender = PeerSender(server.port, timeout=timeout)
    except ConnectionError as error:
        return Answer(None, str(error))
    try:
        return sender.store(item.uid, item.data)
    finally:
        sender.close()


def missing(answered: list[Object], kept: Kept) -> int:
    return sum(item.digest not in kept.get(item.uid, set()) for item in answered)


def send_all(server: Serving) -> list[Object]:
    """The answered ones of ``OBJECTS``, and return right after the last answer."""
    sender = PeerSender(server.port)
    try:
        return [item for item in map(make, range(OBJECTS)) if sender.store(item.uid, item.data).status == SUCCESS]
    finally:
        sender.connection.close()


# Crashes -------------------------------------------------------------------------------------------------------


def killed(subject: Subject, folder: Path) -> Seen:
    disk = folder / "disk"
    disk.mkdir()
    with subject.serve(disk, folder) as server:
        answered = send_all(server)
        server.process.kill()
        server.process.wait(30)
    return _lost(answered, subject.kept(disk, folder))


def power_cut(subject: Subject, folder: Path) -> Seen:
    with Image(folder / "image", folder / "disk", "ext4", 256 << 20) as image:
        with subject.serve(image.mount, folder) as server:
            os.sync()  # its own beginnings are not what is tested
            answered = send_all(server)
            image.cut()
            server.process.kill()
            server.process.wait(30)
        image.detach()
        image.attach()
        kept = subject.kept(image.mount, folder)
    return _lost(answered, kept)


def _lost(answered: list[Object], kept: Kept) -> Seen:
    lost, damaged = missing(answered, kept), len(kept.get(DAMAGED, ()))
    found = f"{lost} of {len(answered)} answered lost" + (f", {damaged} damaged files left" if damaged else "")
    return Seen(found, len(answered), bool(answered) and not lost and not damaged)


# A full disk ---------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(mount: Path) -> Iterator[Path]:
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={FULL_DISK}", "tmpfs", str(mount)], check=True, timeout=30)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True, timeout=30)


def full_disk(subject: Subject, folder: Path) -> Seen:
    """Sent until ten in a row were not taken. Then the disk becomes larger, so that everyone can say what it has."""
    says: Counter[str] = Counter()
    answered: list[Object] = []
    with small_disk(folder / "disk") as disk:
        with subject.serve(disk, folder) as server:
            refused = 0
            for number in range(200):
                item = make(number, 1 << 20)
                answer = store(server, item, timeout=35)
                says[str(answer)] += 1
                refused = 0 if answer.status == SUCCESS else refused + 1
                if answer.status == SUCCESS:
                    answered.append(item)
                if refused == 10 or server.process.poll() is not None:
                    break
            alive = server.process.poll() is None
        resize = ["mount", "-o", "remount,size=512m", str(disk)]
        subprocess.run(resize, check=True, timeout=30)
        kept = subject.kept(disk, folder)
    lost, damaged = missing(answered, kept), len(kept.get(DAMAGED, ()))
    said = ", ".join(f"{word} × {count}" for word, count in sorted(says.items()))
    found = f"{said}; {lost} answered lost; {damaged} damaged files left; {'lives' if alive else 'dies'}"
    polite = all(word in ("0x0000", "0xA700", "RJ 2/3/1") for word in says)
    return Seen(found, sum(says.values()), polite and len(says) > 1 and alive and not lost and not damaged)


def no_small_disk() -> str:
    return "" if os.geteuid() == 0 and shutil.which("mount") else "mounting a small disk needs root"


# Objects that are not what they say ------------------------------------------------------------------------------


def half(subject: Subject, folder: Path) -> Seen:
    item = make(1)
    return _refused(subject, folder, Object(item.uid, item.data[: len(item.data) // 2], item.digest))


def other_uid(subject: Subject, folder: Path) -> Seen:
    item = make(1)
    return _refused(subject, folder, Object("2.25.899", item.data, item.digest))


def _refused(subject: Subject, folder: Path, item: Object) -> Seen:
    disk = folder / "disk"
    disk.mkdir()
    with subject.serve(disk, folder) as server:
        began = time.monotonic()
        answer = store(server, item)
        seconds = time.monotonic() - began
    kept = sum(map(len, subject.kept(disk, folder).values()))
    found = f"{answer}{f' after {seconds:.0f} s' if seconds > 5 else ''}, {'kept' if kept else 'not kept'}"
    return Seen(found, 1, answer.status not in (SUCCESS, None) and not kept)


def other_pixels(subject: Subject, folder: Path) -> Seen:
    disk = folder / "disk"
    disk.mkdir()
    old, new = make(1, seed=1), make(1, seed=2)
    # The seed and the UID make the pixels.
    with subject.serve(disk, folder) as server:
        answers = [store(server, old), store(server, new)]
    kept = subject.kept(disk, folder).get(old.uid, set())
    words = {(True, True): "both kept", (True, False): "the new one thrown away", (False, True): "the old one lost"}
    what = words.get((old.digest in kept, new.digest in kept), "neither kept")
    return Seen(f"{answers[1]}, {what}", 1, answers[1].status == SUCCESS and what == "both kept")


def nested(subject: Subject, folder: Path) -> Seen:
    """Sequences of undefined length within each other, before the pixel data."""
    disk = folder / "disk"
    disk.mkdir()
    sequence = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ends = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    plain = make(1)
    place = plain.data.index(struct.pack("<HH", 0x0010, 0x0010))
    data = plain.data[:place] + (sequence + item) * DEPTH + ends * DEPTH + plain.data[place:]
    with subject.serve(disk, folder) as server:
        answer = store(server, Object(plain.uid, data, plain.digest))
        after = store(server, make(2))
        dead = after.status != SUCCESS and ended(server)
    lives = "lives" if after.status == SUCCESS else f"lives, but the next sender hears {after}"
    found = f"{answer}, {'the process dies' if dead else lives}"
    return Seen(found, 1, not dead and after.status == SUCCESS and answer.status is not None)


def ended(server: Serving) -> bool:
    """Also if it takes its time to die."""
    try:
        server.process.wait(10)
    except subprocess.TimeoutExpired:
        return False
    return True


# Patience and memory -----------------------------------------------------------------------------------------------


def silent(subject: Subject, folder: Path) -> Seen:
    """Somebody connects and says nothing."""
    disk = folder / "disk"
    disk.mkdir()
    with subject.serve(disk, folder) as server, socket.create_connection(("127.0.0.1", server.port)):
        began = time.monotonic()
        answer = store(server, make(1), timeout=90)
        seconds = time.monotonic() - began
    return Seen(
        f"the next sender has its answer ({answer}) after {seconds:.1f} s", 1, answer.status == SUCCESS and seconds < 2
    )


def bomb(subject: Subject, folder: Path) -> Seen:
    disk = folder / "disk"
    disk.mkdir()
    plain = make(1, 2_000)
    pixels = plain.data.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    head = plain.data[:pixels] + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, BOMB)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = deflate.compress(head) + deflate.compress(bytes(BOMB)) + deflate.flush()
    data += b"\0" * (len(data) % 2)
    with subject.serve(disk, folder) as server:
        # One plain object first: what it needs anyway is not the bomb's.
        store(server, make(2))
        before = memory(server.process.pid, "VmRSS")
        try:
            sender = PeerSender(server.port, DEFLATED, timeout=120)
        except ConnectionError as error:
            return Seen(f"no association: {error}", 1, False)
        answer = sender.store(plain.uid, data)
        sender.close()
        peak = memory(server.process.pid, "VmHWM")
    grown = max(0, peak - before) >> 20
    found = f"{answer}, memory + {grown} MB for {len(data) >> 10} KB sent" if peak else f"{answer}, the process dies"
    return Seen(found, 1, bool(peak) and grown <= 32)


def memory(pid: int, field: str) -> int:
    """Bytes."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) << 10
    return 0


SCENARIOS = (
    Scenario("peers", "the command's SOP Instance UID is not the data set's", "refused (0xA900), not kept", other_uid),
    Scenario("T19", "half a data set with the last-fragment flag", "refused, not kept", half),
    Scenario("peers", "same SOP Instance UID, other pixels", "0x0000, both kept", other_pixels),
    Scenario("T23", f"{DEPTH:,} nested sequences", "answered, lives", nested),
    Scenario("T2", "kill -9 right after the answers", "0 lost", killed),
    Scenario("T3", "power cut on ext4 right after the answers", "0 lost", power_cut, lambda: unable("ext4")),
    Scenario("T6", "disk full", "0xA700 or RJ 2/3/1, 0 damaged files", full_disk, no_small_disk),
    Scenario("T14", "one silent socket", "no one waits", silent),
    Scenario("T24", f"deflated data set of {BOMB >> 20} MB", "memory + ≤ 32 MB", bomb),
)
