"""Patient data stays where it belongs: objects marked in every text go every way there is, and what the router says is
searched for the marks.

Searched: the log with standard error, metrics, health pages, status and rules, error answers of the API and what the
router said to its senders, the names of all files (of those that exist for a moment, too) and the contents of those
that are not the spool, the ledger, the audit trail or a destination. Allowed is what people must be told: the AE title
that called, in ``calling_ae`` of the log, and the UIDs that a response repeats.
"""

from __future__ import annotations

import json
import random
import re
import socket
import sqlite3
import ssl
import struct
import sys
import urllib.error
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.authority import Authority
from tests.support.peers import wait_for
from tests.support.plain_dataset import EXPLICIT as WRITER
from tests.support.ports import free_port
from tests.support.router_process import RouterProcess
from tests.torture.figures import Figure, report
from tests.torture.gossip import Destination, Sender
from tests.torture.marked import CT, MARK, data_set, found_in, mark, sop_instance, texts_in_a_data_set
from tests.torture.observed import FAULTS, LEAKS

LIMITS = 'object_size = "6MiB"\nobject_memory = "1MiB"\nelements = 6000\n'
PAGES = ("/metrics", "/healthz", "/readyz", "/", "/api/v1/status", "/api/v1/rules", "/api/v1/openapi.json")
LISTINGS = ("/api/v1/queue", "/api/v1/dead-letters")
"""They name the objects that they list by UIDs and modality, and by nothing else."""
MANNERS: dict[str, int | str] = {
    "refusing": 0xC123,
    "suspecting": 0x0110,
    "warning": 0xB000,
    "busy": 0xA700,
    "forbidding": 0x0124,
    "contextless": "no context",
    "rejecting": "rejects",
    "aborting": "aborts",
    "babbling": "babbles",
}
HELD, GONE, LOOKED_AT = "HELD", "GONE", "FOLDER"
RULES = f"""
[[rule]]
name  = "looks at values of every kind"
match = {{ CallingAET = "{LOOKED_AT}", PatientName = "*{MARK}*", SliceThickness = {{ max = 5 }} }}
not   = {{ StudyDate = {{ within = "7d" }} }}
to    = ["folder"]

[[rule]]
name  = "looks into sequences and private blocks"
match = {{ any = [
    {{ "ReferencedStudySequence.0.CodeMeaning" = {{ exists = true }} }},
    {{ "0029,1010" = {{ regex = "^x" }} }},
    {{ PatientBirthDate = {{ min = 19000101 }} }},
    {{ StudyDescription = {{ regex = "(?i)nothing" }} }},
] }}
not   = {{ PatientID = "*" }}
to    = ["folder"]

[[rule]]
name    = "gone"
match   = {{ CallingAET = "{GONE}" }}
discard = true

[[rule]]
name  = "folder"
match = {{ CallingAET = ["{LOOKED_AT}", "LARGE"] }}
to    = ["folder"]
"""


class Spied:
    """A router whose every word is kept, and everything around it."""

    def __init__(self, folder: Path, destinations: dict[str, str], planted: str = "-", *, workers: int = 1) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        # Certificates with marks for names: of a CA that is trusted, and of one that is not.
        self.tls_port = free_port()
        trusted, foreign = Authority(folder.parent / "trusted"), Authority(folder.parent / "foreign", "foreign")
        own = trusted.issue("router")
        self.shown = [ca.issue(mark(0, "CN"), f"{mark(0, 'SA')}.hospital".lower()) for ca in (trusted, foreign)]
        self.archive = folder / "archive"
        rules = RULES + "".join(
            f'[[rule]]\nname = "to {name}"\nmatch = {{ CallingAET = ["{name.upper()}", "LARGE"] }}\nto = ["{name}"]\n'
            for name in destinations
        )
        self.router = RouterProcess(
            folder / "router",
            {"folder": f"file://{self.archive}", **destinations},
            rules=rules,
            limits=LIMITS,
            extra='[spool]\nsegment_size = "4MiB"\nreserve_associations = "0B"\nreserve_objects = "0B"\n'
            f'[[listen]]\nbind = "127.0.0.1:{self.tls_port}"\naccept = "any"\n'
            f'tls = {{ certificate = "{own.certificate}", key = "{own.key}", ca = "{trusted.file}" }}\n',
            program=[sys.executable, "-m", "tests.torture.observed", str(folder), planted],
            environment={"TMPDIR": str(folder), "DICOM_ROUTER__LOG__LEVEL": "debug"},
            workers=workers,
        )
        self.told: Counter[str] = Counter()
        """Answers to senders, by status."""
        self.pages: dict[str, bytes] = {}
        self.answers = bytearray()

    def send(self, calling: str, sop: str, data: bytes, *, patience: float = 30) -> int | None:
        with self.sender(calling) as sender:
            sender.connection.settimeout(patience)
            status = sender.store(sop, data)
        self.told["aborted" if status is None else f"0x{status:04X}"] += 1
        return status

    @contextmanager
    def sender(self, calling: str, **more: object) -> Iterator[Sender]:
        with Sender(self.router.port, calling, **more) as sender:  # type: ignore[arg-type]
            try:
                yield sender
            finally:
                self.answers += sender.heard

    def babble(self, *pieces: bytes) -> None:
        """A connection that sends this and hears what the router has to say to it."""
        connection = socket.create_connection(("127.0.0.1", self.router.port), timeout=30)
        with connection, suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                self.answers += piece

    def look(self) -> None:
        """Keep what the pages say now; a page that is an error says something, too."""
        for path in (*PAGES, *LISTINGS):
            try:
                page = self.router.get(path).encode()
            except urllib.error.HTTPError as error:
                page = error.read()
            except OSError:
                continue
            self.pages[f"{path} {len(self.pages)}"] = page

    def leaks(self) -> dict[str, str]:
        """Where marks stand that must not, with what is around them."""
        log = re.sub(rb'"calling_ae": "[^"]*"', b"", self.router.log.read_bytes())
        sinks = {"log": found_in(log), "answers to senders": found_in(bytes(self.answers))}
        for name, page in self.pages.items():
            if name.startswith(LISTINGS):
                page = re.sub(rb'"(?:sop_instance|study|modality)":"[^"]*"', b"", page)
            sinks[f"page {name}"] = found_in(page)
        names = (self.folder / "names").read_bytes()
        names += "\n".join(str(path) for path in self.folder.rglob("*")).encode()
        sinks["names of files"] = found_in(names)
        data = self.folder / "router" / "data"
        for path in self.folder.rglob("*"):
            patient = any(map(path.is_relative_to, (self.archive, data / "spool", data / "audit")))
            if not path.is_file() or patient or path == self.router.log or path.name.startswith("ledger.db"):
                continue
            if path != self.router.folder / "rules" / "10-test.toml":
                sinks[f"file {path.relative_to(self.folder)}"] = found_in(path.read_bytes())
        return {sink: text for sink, text in sinks.items() if text}


# The ways an object can go -----------------------------------------------------------------------------------


def stored(calling: str) -> Callable[[Spied, int], object]:
    return lambda spied, serial: spied.send(calling, sop_instance(serial), data_set(serial)) == 0x0000


def refused(status: int, change: Callable[[int], tuple[str, bytes]]) -> Callable[[Spied, int], object]:
    return lambda spied, serial: spied.send("REFUSED", *change(serial)) == status


def too_deep(serial: int) -> bytes:
    content = WRITER.element(0x0040_A160, "UT", mark(serial).encode())
    for _ in range(65):
        content = WRITER.sequence(0x0040_A730, WRITER.item(content))
    return data_set(serial, pixels=0)[:-12] + content


def too_many(serial: int) -> bytes:
    more = b"".join(
        WRITER.element(0x0043_1000 + number, "LO", mark(serial, f"{number % 100:02d}").encode())
        for number in range(6000)
    )
    return data_set(serial, pixels=0)[:-12] + more


def without_a_data_set(spied: Spied, serial: int) -> bool:
    with spied.sender("REFUSED") as sender:
        uid = sop_instance(serial).encode() + b"\0"
        sender.send(
            {0x0002: CT.encode() + b"\0", 0x0100: 1, 0x0110: 1, 0x0800: 0x0101, 0x1000: uid[: len(uid) // 2 * 2],
             0x1030: mark(serial).encode()}
        )  # fmt: skip
        status = sender.status()
    spied.told[f"0x{status or 0:04X}"] += 1
    return status == 0xC003


def large(spied: Spied, serial: int) -> bool:
    return spied.send("LARGE", sop_instance(serial), data_set(serial, pixels=5 << 20)) == 0x0000


def twice(spied: Spied, serial: int) -> bool:
    first = spied.send(LOOKED_AT, sop_instance(serial), data_set(serial))
    return first == spied.send(LOOKED_AT, sop_instance(serial), data_set(serial, pixels=514)) == 0x0000


def broken_off(spied: Spied, serial: int) -> bool:
    with spied.sender("ABORTING") as sender:
        sender.send(
            {0x0002: CT.encode() + b"\0", 0x0100: 1, 0x0110: 1, 0x0800: 1, 0x1000: sop_instance(serial).encode()},
            data_set(serial, pixels=(serial % 2) << 21),
            share=0.6,
        )
        sender.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", serial % 2, 0))
        sender.accepted = False  # nothing to release
    return True


def foreign_requests(spied: Spied, serial: int) -> bool:
    """An answer to nothing, C-FIND, C-STORE of another class, N-CREATE with marks, in one association; then a command
    set that is none."""
    identifier = WRITER.element(0x0010_0010, "PN", mark(serial).encode())
    with spied.sender("ASKING", chatty=True) as sender:
        answer = {0x0100: 0x8001, 0x0120: 1, 0x0800: 0x0101, 0x0900: 0, 0x0902: mark(serial).encode()}
        sender.send({0x0002: CT.encode() + b"\0", 0x1000: sop_instance(serial).encode(), **answer})
        for field in (0x0020, 0x0140, 0x7777 & ~0x8000):
            command = {0x0100: field, 0x0110: 1, 0x0800: 1, 0x0600: mark(serial, "AE").encode()}
            sender.send({0x0002: CT.encode() + b"\0", 0x1000: sop_instance(serial).encode(), **command}, identifier)
            if sender.status() is None:
                sender.accepted = False
                return True
        assert sender.store(sop_instance(serial), identifier, sop_class="1.2.840.10008.5.1.4.1.1.4") == 0x0122
        sender.send({0x0010: mark(serial).encode(), 0x0100: 0x0001, 0x0902: mark(serial).encode()})
        sender.accepted = sender.status() is not None
    return True


def strangers(spied: Spied, serial: int) -> bool:
    """Associations that are rejected, and bytes that are no association."""
    text = mark(serial).encode()
    with spied.sender(mark(serial, "CA"), called=mark(serial, "CD"), chatty=True) as sender:
        assert not sender.accepted, "the called AE title is not ours"
    header = b"\0\1\0\0" + text + text + bytes(32)
    name = b"\x10\0" + struct.pack(">H", len(text)) + text
    context = (
        b"\x20\0" + struct.pack(">HBBBB", 8 + len(text), 1, 0, 0, 0) + b"\x30\0" + struct.pack(">H", len(text)) + text
    )
    request = header + name + context
    spied.babble(b"\1\0" + struct.pack(">I", len(request)) + request)
    spied.babble(b"\1\0" + struct.pack(">I", len(request) + 9) + request + b"\x50\0\0\xff" + text)
    spied.babble(b"GET /" + text + b" HTTP/1.1\r\nHost: " + text + b"\r\n\r\n")
    spied.babble(b"\4\0\0\0\0\x20" + text + text)
    spied.babble(text)
    return True


def marked_certificates(spied: Spied, serial: int) -> bool:
    """TLS with a certificate that names a patient, from a CA that is trusted or not; and with a name that is none of
    the router's."""
    for shown in spied.shown:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(shown.certificate, shown.key)
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", spied.tls_port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname=mark(serial, "SN").lower()) as connection,
        ):
            connection.sendall(mark(serial).encode() * 4)
            spied.answers += connection.recv(65536)
    return True


def known_but_silent(spied: Spied, serial: int) -> bool:
    """An association that goes on with bytes that are no PDV."""
    with spied.sender(mark(serial, "AE")) as sender:
        assert sender.accepted
        sender.connection.sendall(b"\4\0\0\0\0\x16\0\0\0\x12\1\3" + mark(serial).encode())
        while sender._hear() not in (7, None):
            pass
        sender.accepted = False
    return True


def questions(spied: Spied, serial: int) -> bool:
    """What an operator asks for in vain is not kept anywhere."""
    text = mark(serial)
    for path in (f"/{text}", f"/api/v1/trace?selector={text}", f"/api/v1/queue?destination={text}", f"/metrics?{text}"):
        with suppress(urllib.error.HTTPError):
            spied.router.get(path)
    for path in ("/api/v1/resend", "/api/v1/release", f"/api/v1/destinations/{text}/pause", "/-/reload"):
        with suppress(urllib.error.HTTPError):
            spied.router.post(path, {"selector": text, "destination": text})
    return True


def other_instance(serial: int) -> tuple[str, bytes]:
    return sop_instance(serial + 500_000), data_set(serial)


WAYS: dict[str, Callable[[Spied, int], object]] = {
    "delivered": stored(LOOKED_AT),
    **{f"to {name}": stored(name.upper()) for name in MANNERS},
    "held": stored(HELD),
    "discarded": stored(GONE),
    "sent on while it arrives": large,
    "changed duplicate": twice,
    "0xA900": refused(0xA900, other_instance),
    "0xC001": refused(0xC001, lambda serial: (sop_instance(serial), data_set(serial)[: -1 - serial % 500])),
    "0xC002": refused(0xC002, lambda serial: (sop_instance(serial), data_set(serial, leave_out=[0x0008_0018]))),
    "0xC003": without_a_data_set,
    "0xC010": refused(0xC010, lambda serial: (sop_instance(serial), data_set(serial, pixels=7 << 20))),
    "0xC011": refused(0xC011, lambda serial: (sop_instance(serial), too_many(serial))),
    "0xC012": refused(0xC012, lambda serial: (sop_instance(serial), too_deep(serial))),
    "0x0117": refused(0x0117, lambda serial: (mark(serial, "UI"), data_set(serial))),
    "broken off": broken_off,
    "foreign requests": foreign_requests,
    "strangers": strangers,
    "marked certificates": marked_certificates,
    "no PDV": known_but_silent,
    "questions": questions,
}


def damage_the_spool(router: RouterProcess) -> int:
    """A bit of every record that is still owed to somebody; gives how many."""
    data = router.folder / "data"
    with closing(sqlite3.connect(f"file:{data / 'ledger.db'}?mode=ro", uri=True)) as ledger:
        records = ledger.execute(
            "select distinct i.segment, i.at, i.length from instance i join delivery d on d.instance_id = i.id "
            "where d.state in ('ready', 'leased') and i.size < 1000000"
        ).fetchall()
    for segment, at, length in records[::2]:
        with (data / "spool" / f"{segment:010d}.seg").open("r+b") as file:
            file.seek(at + length // 2)
            byte = file.read(1)
            file.seek(at + length // 2)
            file.write(bytes([byte[0] ^ 1]))
    return len(records[::2])


# The tests -------------------------------------------------------------------------------------------------


def everybody(stack: ExitStack) -> tuple[dict[str, Destination], dict[str, str]]:
    """Destinations of every manner, and their URLs."""
    peers = {name: stack.enter_context(Destination(manner)) for name, manner in MANNERS.items()}
    return peers, {name: f"dicom://{name.upper()}@127.0.0.1:{peer.port}" for name, peer in peers.items()}


def patients_in_the_spool(router: RouterProcess) -> bool:
    spool = router.folder / "data" / "spool"
    return any(found_in(path.read_bytes()) for path in spool.rglob("*") if path.is_file())


@pytest.mark.timeout(3600)
def test_no_text_of_a_patient_leaves_the_spool_on_any_way(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    objects = amount("marked", 40, 1000)
    workers = amount("workers with marks", 1, 2)
    ways = [list(WAYS)[number % len(WAYS)] for number in range(objects)]
    random.Random(20261123).shuffle(ways)
    with ExitStack() as stack:
        peers, urls = everybody(stack)
        spied = Spied(tmp_path / "spied", urls, workers=workers)
        router = spied.router
        stack.callback(router.kill)
        router.start()
        for serial, way in enumerate(ways, 1):
            assert WAYS[way](spied, serial), way
            if serial % 100 == 0:
                spied.look()
        wait_for(lambda: all(peer.served for peer in peers.values()), 60, "an answer of every destination")
        wait_for(lambda: router.metric("dicom_router_deliveries_total", outcome="dead") > 0, 30, "a dead letter")
        spied.look()
        spied.pages["dicom-router status"] = router.cli("status", "-c", str(router.config)).stdout.encode()
        router.kill()

        broken = damage_the_spool(router)
        router.start()
        for name in peers:
            router.post(f"/api/v1/destinations/{name}/resume", {})
        wait_for(lambda: router.metric("dicom_router_quarantined_records") > 0, 60, "a record set aside")
        spied.look()
        router.kill()

        # Nothing of the ledger is left, nobody takes what no rule takes, and rules come that cannot be read.
        for path in (router.folder / "data").glob("ledger.db*"):
            path.write_bytes(b"noise" * 1000)
        router.config.write_text(router.config.read_text().replace('"hold"', '"reject"'))
        router.start()
        assert spied.send(HELD, sop_instance(objects + 1), data_set(objects + 1)) == 0x0124
        router.write_rules('[[rule]]\nname = "broken"\nmatch = { PatientName = { regex = "(" } }\n')
        wait_for(lambda: router.metric("dicom_router_config_last_reload_successful") == 0, 30, "rules refused")
        spied.look()
        assert router.stop() == 0

        # Other bytes under a known UID are refused, and then there is no room on the disk.
        router.write_rules(RULES)
        router.config.write_text(router.config.read_text().replace("[node]", '[node]\non_changed_duplicate = "reject"'))
        router.start()
        uid = sop_instance(objects + 2)
        assert spied.send(LOOKED_AT, uid, data_set(objects + 2)) == 0x0000
        assert spied.send(LOOKED_AT, uid, data_set(objects + 2, pixels=514)) == 0x0111
        spied.look()
        assert router.stop() == 0
        router.config.write_text(
            router.config.read_text().replace('reserve_objects = "0B"', 'reserve_objects = "1000TB"')
        )
        router.start()
        for pixels in (512, 2 << 20):
            assert spied.send(LOOKED_AT, sop_instance(objects + 3), data_set(objects + 3, pixels=pixels)) == 0xA700
        spied.look()
        assert router.stop() == 0
    assert patients_in_the_spool(router), "no mark ever arrived: the search would prove nothing"
    assert set(spied.told) >= {
        "0x0000", "0x0111", "0x0117", "0x0124", "0xA700", "0xA900",
        "0xC001", "0xC002", "0xC003", "0xC010", "0xC011", "0xC012",
    }  # fmt: skip
    assert '"level": "debug"' in router.log.read_text(), "the log says all that it can say"
    leaks = spied.leaks()
    assert not leaks, json.dumps(leaks, indent=1)
    report(
        Figure(
            test="T27",
            promise="no text and no UID of an object in logs, metrics, pages, answers and names of files",
            goal="0 hits",
            found=f"0 hits of {objects * texts_in_a_data_set():,} marks on {len(WAYS)} ways, "
            f"{workers} worker(s), log level debug, 2 kills, {broken} damaged records and a lost ledger; "
            + ", ".join(f"{count} answered {status}" for status, count in sorted(spied.told.items())),
            n=objects,
            command=f"make torture (tests/torture/test_canary.py, --amount marked={objects})",
        ),
        keep=campaign,
    )


ENDS = {"a transaction": (1, 3), "the ledger's thread": (1, 3), "the start": (1,)}
"""Faults that end the router, and its exit code: 1 while it starts, 3 from then on."""


def told(router: RouterProcess) -> int:
    """Lines of the log that say of a planted fault where it happened."""
    return sum("fail_once" in line or "observed.py:" in line for line in router.log.read_text().splitlines())


@pytest.mark.timeout(600)
def test_faults_of_ours_say_where_and_nothing_of_the_object(tmp_path: Path, campaign: bool) -> None:
    passing = [name for name in FAULTS if name not in ENDS]
    with Destination(0x0000) as peer:
        spied = Spied(tmp_path / "passing", {"peer": f"dicom://PEER@127.0.0.1:{peer.port}"}, ",".join(passing))
        router, planted = spied.router, spied.folder / "planted"
        router.start()
        try:
            for serial in range(1, 31):
                # Some senders are not answered: that is what the fault is.
                with suppress(OSError):
                    spied.send(HELD if serial % 3 == 0 else "PEER", sop_instance(serial), data_set(serial), patience=1)
                if serial % 3 == 0:
                    spied.look()
                    with suppress(urllib.error.HTTPError):
                        router.post("/api/v1/release", {})
                if planted.exists() and len(planted.read_text().splitlines()) == len(passing):
                    break
            wait_for(lambda: told(router) >= len(passing), 10, "a line for each fault")
        finally:
            router.kill()
        assert sorted(planted.read_text().splitlines()) == sorted(passing), "each fault happened"
        leaks = spied.leaks()
    for name, codes in ENDS.items():
        spied = Spied(tmp_path / name.replace(" ", "-"), {}, name)
        spied.router.launch()
        process = spied.router.process
        assert process is not None
        try:
            assert process.wait(60) in codes, name
        finally:
            process.kill()
            process.wait(30)
        assert told(spied.router), name
        leaks |= spied.leaks()
    assert not leaks, json.dumps(leaks, indent=1)
    report(
        Figure(
            test="T27",
            promise="a fault of ours says where it happened, and nothing of the object",
            goal="0 hits",
            found="0 hits; each fault in the log, with its place",
            n=len(FAULTS),
            command="make torture (tests/torture/test_canary.py)",
        ),
        keep=campaign,
    )


def test_a_leak_is_found_wherever_it_is(tmp_path: Path) -> None:
    spied = Spied(tmp_path / "leaking", {}, ",".join(LEAKS))
    with spied.router:
        spied.send(LOOKED_AT, sop_instance(1), data_set(1))
        spied.look()
    found = " ".join(spied.leaks())
    assert all(sink in found for sink in ("log", "answers to senders", "names of files", "file note")), found
    assert all(page in found for page in ("/metrics", "/api/v1/status")), found
