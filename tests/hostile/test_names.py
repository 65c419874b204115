"""Whatever peers call themselves and their objects, the router opens only files whose names are its own.

Every string that a peer controls (AE titles, UIDs of command and data set, the transfer syntax, identifying attributes,
user information) is a path, a device, a format or a shell's command in turn. All file system calls of the router and of
its threads are recorded by the kernel: of those with names no canary may be part, and whatever is created, written,
renamed or removed lies in the folders of the configuration, under names of the router's own making.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.dimse.command import encode_c_store_rq
from tests.hostile.support import Attacker, Victim
from tests.support.peers import require
from tests.support.plain_dataset import EXPLICIT as EXPLICIT_VR
from tests.support.plain_pdu import p_data
from tests.support.router_process import RouterProcess
from tests.support.script import CT, request, store
from tests.support.wire import read_pdu

CANARY = "zq7canary"
STRINGS = (
    f"../../../tmp/{CANARY}",
    f"/tmp/{CANARY}",
    f"..\\{CANARY}",
    f"{CANARY}\0.dcm",
    f"{CANARY}%s%n{{0}}",
    f"$(touch /tmp/{CANARY})",
    f"`touch {CANARY}`",
    f";touch {CANARY};",
    f"|{CANARY}",
    f"/dev/{CANARY}",
    CANARY * 100,
    "..",
    "/dev/stdin",
)
ELEMENTS = (
    (0x00080050, "SH"),
    (0x00080060, "CS"),
    (0x00081030, "LO"),
    (0x00100010, "PN"),
    (0x00100020, "LO"),
    (0x0020000D, "UI"),
    (0x0020000E, "UI"),
)
CHANGES = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC)|^(mkdir|rename|unlink|link|symlink|rmdir|mknod|chmod|truncate)")
CALL = re.compile(r"^(?:\[pid +\d+\] |\d+ +)?(\w+)\((.*)$")
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
OWN = re.compile(r"[0-9A-Za-z._-]+")


def attack(port: int, text: str) -> None:
    title = text.encode("latin-1")[:16].ljust(16)
    opening = request()
    titled = opening[:26] + title + opening[42:]
    with Attacker(port, associate=None) as attacker:  # a called AE title of theirs: refused
        attacker.send(opening[:10] + title + opening[26:])
        assert attacker.answer() is not None
    with Attacker(port, associate=None) as attacker:
        attacker.send(titled)
        answer = read_pdu(attacker.connection)
        assert answer is not None
        assert answer[0] == 2
        uid = f"2.25.51{abs(hash(text)) % 10**9:09d}"
        named = EXPLICIT_VR.element(0x00080016, "UI", CT.encode() + b"\0")
        named += EXPLICIT_VR.element(0x00080018, "UI", uid.encode() + b"\0" * (len(uid) % 2))
        value = text.encode("latin-1")
        hostile = b"".join(EXPLICIT_VR.element(tag, vr, value + b" " * (len(value) % 2)) for tag, vr in ELEMENTS)
        attacker.send(store(uid, named + hostile))
        assert attacker.answer() is not None
        attacker.send(p_data(1, 3, encode_c_store_rq(2, CT, text)) + p_data(1, 2, named))
        assert attacker.answer() is not None


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[tuple[RouterProcess, Path]]:
    log = tmp_path / "calls"
    program = [require("strace"), "-D", "-f", "-qq", "-s", "4096", "-e", "trace=%file", "-o", str(log), sys.executable]
    router = RouterProcess(
        tmp_path / "router",
        {"archive": f"file://{tmp_path / 'archive'}"},
        program=[*program, "-m", "router.app.cli"],
    )
    router.start(90)
    try:
        yield router, log
    finally:
        router.stop(60)


def test_no_string_of_a_peer_becomes_part_of_a_path(traced: tuple[RouterProcess, Path], tmp_path: Path) -> None:
    router, log = traced
    beginning = log.stat().st_size
    for text in STRINGS:
        attack(router.port, text)
    Victim(router, tmp_path / "archive").still_serves()
    router.stop(60)
    calls = [found for line in log.read_bytes()[beginning:].decode().splitlines() if (found := CALL.match(line))]
    changed: list[str] = []
    for call in calls:
        name, arguments = call.groups()
        assert CANARY not in arguments, f"{name}({arguments}"
        assert "/dev/stdin" not in arguments
        assert not name.startswith("exec"), arguments
        if CHANGES.search(f"{name}({arguments}") or CHANGES.search(arguments):
            changed += QUOTED.findall(arguments)
    ours = [path for path in changed if path.startswith(str(tmp_path))]
    assert ours, "nothing of the router's was seen"
    for path in changed:
        assert path.startswith((str(tmp_path), "/dev/null", "/dev/shm/")), path
        parts = Path(path).relative_to(tmp_path).parts if path.startswith(str(tmp_path)) else ()
        assert all(OWN.fullmatch(part) and part != ".." for part in parts), path
        assert "2.25.51" not in path, "a UID is part of a path"
