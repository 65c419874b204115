"""Whatever peers call themselves and their objects, and whatever destinations answer, the router opens only files whose
names are its own.

Every string that a peer controls (AE titles, UIDs of command and data set, the transfer syntax, identifying attributes,
user information) is a path, a device, a format or a shell's command in turn. All file system calls of the router and of
its threads are recorded by the kernel: of those with names no canary may be part, and whatever is created, written,
renamed or removed lies in the folders of the configuration, under names of the router's own making.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import ExitStack
from pathlib import Path

from router.dimse.command import encode_c_store_rq
from tests.hostile.support import Attacker, Victim
from tests.support.peers import require, wait_for
from tests.support.plain_dataset import EXPLICIT as EXPLICIT_VR
from tests.support.plain_pdu import p_data
from tests.support.router_process import RouterProcess
from tests.support.script import CT, request, store
from tests.support.wire import read_pdu
from tests.torture.figures import Figure, report
from tests.torture.gossip import Destination

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


def traced(folder: Path, destinations: dict[str, str], **more: str) -> tuple[RouterProcess, Path]:
    """A router whose calls with names the kernel writes down."""
    log = folder / "calls"
    program = [require("strace"), "-D", "-f", "-qq", "-s", "4096", "-e", "trace=%file", "-o", str(log), sys.executable]
    router = RouterProcess(folder / "router", destinations, program=[*program, "-m", "router.app.cli"], **more)
    return router, log


def only_own_names(calls: str, folder: Path) -> int:
    """What was opened, made, renamed or removed is the router's own; gives how many calls were looked at."""
    found = [call for line in calls.splitlines() if (call := CALL.match(line))]
    changed: list[str] = []
    for call in found:
        name, arguments = call.groups()
        assert CANARY[:3] not in arguments, f"{name}({arguments}"
        assert "/dev/stdin" not in arguments
        assert not name.startswith("exec"), arguments
        if CHANGES.search(f"{name}({arguments}") or CHANGES.search(arguments):
            changed += QUOTED.findall(arguments)
    assert any(path.startswith(str(folder)) for path in changed), "nothing of the router's was seen"
    for path in changed:
        assert path.startswith((str(folder), "/dev/null", "/dev/shm/")), path
        parts = Path(path).relative_to(folder).parts if path.startswith(str(folder)) else ()
        assert all(OWN.fullmatch(part) and part != ".." for part in parts), path
        assert "2.25.51" not in path, "a UID is part of a path"
    return len(found)


def test_no_string_of_a_peer_becomes_part_of_a_path(tmp_path: Path, campaign: bool) -> None:
    router, log = traced(tmp_path, {"archive": f"file://{tmp_path / 'archive'}"})
    router.start(90)
    try:
        beginning = log.stat().st_size
        for text in STRINGS:
            attack(router.port, text)
        Victim(router, tmp_path / "archive").still_serves()
    finally:
        router.stop(60)
    calls = only_own_names(log.read_bytes()[beginning:].decode(), tmp_path)
    report(
        Figure(
            test="T20",
            promise="names of a sender that are paths, devices, formats or commands, in AE titles, UIDs and attributes",
            goal="0 in a path; 0 programs started; every name that is opened our own",
            found=f"0 and 0 of {calls:,} system calls with names",
            n=len(STRINGS) * (3 + len(ELEMENTS)),
            command="make torture (tests/hostile/test_names.py)",
        ),
        keep=campaign,
    )


MANNERS: tuple[int | str, ...] = (
    *(0x0000, 0xB000, 0xC123, 0xA700),
    *("no context", "another syntax", "another context", "aborts", "babbles"),
)


def test_no_string_of_a_destination_becomes_part_of_a_path(tmp_path: Path, campaign: bool) -> None:
    """A malicious server: everything that an A-ASSOCIATE-AC and a response can say, in every manner of answering."""
    with ExitStack() as stack:
        peers = {
            f"d{number}": stack.enter_context(Destination(manner, text))
            for number, (text, manner) in enumerate((text, manner) for text in STRINGS for manner in MANNERS)
        }
        names = json.dumps([*peers, "archive"])
        router, log = traced(
            tmp_path,
            {name: f"dicom://PEER@127.0.0.1:{peer.port}" for name, peer in peers.items()}
            | {"archive": f"file://{tmp_path / 'archive'}"},
            rules=f'[[rule]]\nname = "everything"\nto = {names}\n',
        )
        stack.callback(router.stop, 60)
        router.start(90)
        beginning = log.stat().st_size
        Victim(router, tmp_path / "archive").still_serves()
        wait_for(lambda: all(peer.served for peer in peers.values()), 90, "an answer of every destination")
        good = [name for name, peer in peers.items() if peer.manner in (0x0000, 0xB000)]
        wait_for(lambda: all(delivered(router, name) for name in good), 60, "deliveries to those that take it")
        router.get("/api/v1/status")
        router.get("/api/v1/queue")
        router.stop(60)
        calls = only_own_names(log.read_bytes()[beginning:].decode(), tmp_path)
    report(
        Figure(
            test="T20",
            promise="answers of a malicious destination that are paths, devices, formats or commands, in every item of "
            "A-ASSOCIATE-AC, in UIDs and comments of responses",
            goal="0 in a path; 0 programs started; every name that is opened our own",
            found=f"0 and 0 of {calls:,} system calls with names, in {len(MANNERS)} manners of answering",
            n=len(peers),
            command="make torture (tests/hostile/test_names.py)",
        ),
        keep=campaign,
    )


def delivered(router: RouterProcess, name: str) -> bool:
    return (
        sum(
            router.metric("dicom_router_deliveries_total", destination=name, outcome=outcome)
            for outcome in ("delivered", "warning")
        )
        >= 1
    )
