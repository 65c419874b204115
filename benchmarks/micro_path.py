"""The way of one object through our own code, without disk, ledger and network: ``python -m benchmarks.micro_path``.

Microseconds of one processor for each part of the way, with everything real but the transports, the disk's thread and the
ledger's:

* receive: bytes of a C-STORE to a record that is ready to be written (framing, data set walk, checksum, rules, record)
* answer: the record is durable; to the bytes of the C-STORE-RSP and of the C-STORE-RQ for the destination
* settle: the destination's response; to the outcome for the ledger
* record: the ledger has committed
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from router._fastpdu import PduReader, frame_message
from router.app.ids import IdSource
from router.app.intake import StoreIntake
from router.app.known import KnownInstances
from router.delivery.dicom_sender import DicomSender
from router.delivery.lane import Lane
from router.delivery.memory import Budget
from router.delivery.sender import Pair
from router.dimse.command import encode_c_store_rq, encode_response, parse_command
from router.ledger import Receipt, ReceiptResult
from router.model import Delivery, Destination, Limits, Listener, Location, LogPosition, Outcome
from router.net.admission import Gate
from router.net.connection import Connection
from router.net.dialer import DialedConnection
from router.net.listener import AcceptedConnection, ListeningServer
from router.observe.metrics import RouterMetrics
from router.routing import load
from router.services.acceptor import negotiate, serving
from router.services.storage_scu import StorageScu, propose
from router.spool.record import encode_record
from router.ul.association import AssociationSettings
from router.ul.pdus import encode_accept, encode_request

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
RULES = """
[[rule]]
name = "ct to the archive"
match = { Modality = ["CT", "MR"], CallingAET = "CT*" }
to = ["pacs"]

[[rule]]
name = "reports"
match = { Modality = "SR" }
to = ["pacs"]
"""
GROUP = 4


class Silent:
    def error(self, event: str, **values: object) -> None: ...

    debug = info = warning = error


class Transport(asyncio.Transport):
    """Takes everything at once and remembers what was written last."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes | bytearray | memoryview] = []

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(data)

    def writelines(self, list_of_data: Any) -> None:
        self.written.extend(list_of_data)

    def taken(self) -> bytes:
        out, self.written = b"".join(self.written), []
        return out

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...

    abort = close


class Spool:
    """Makes the records and keeps the entries until the group is full."""

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self._at = 0

    def below_objects_floor(self) -> bool:
        return False

    def submit(self, entry: Any) -> None:
        _, length = encode_record(entry.info, entry.decision, entry.chunks, epoch=1, synced=self._at)
        entry.location = Location(1, 1, self._at, length)
        self._at += length
        self.entries.append(entry)

    def settled(self, locations: Sequence[Location]) -> None: ...

    def source(self, delivery: Delivery) -> InMemory:
        return InMemory(delivery)


class InMemory:
    def __init__(self, delivery: Delivery) -> None:
        self.size = delivery.instance.size
        self.buffers = delivery.chunks


class Ledger:
    """Keeps what is recorded until it is asked to say that it is committed."""

    failed, blocked = False, ""

    def __init__(self) -> None:
        self.groups: list[tuple[Sequence[Receipt], Callable[[Any], None]]] = []
        self.settled: list[Outcome] = []
        self._number = 0

    def next_delivery(self) -> int:
        self._number += 1
        return self._number

    def record(self, receipts: Sequence[Receipt], done: Callable[[Any], None], **more: object) -> None:
        self.groups.append((receipts, done))

    def settle(self, outcome: Outcome) -> None:
        self.settled.append(outcome)

    async def lease(self, destination: str, limit: int) -> list[Delivery]:
        return []

    async def next_ready_in(self, destination: str) -> float | None:
        return None


def give(connection: Connection, data: bytes) -> None:
    """As the event loop does: into the receive buffer, as much as there is room."""
    at = 0
    while at < len(data):
        view = connection.get_buffer(-1)
        count = min(len(view), len(data) - at)
        view[:count] = data[at : at + count]
        connection.buffer_updated(count)
        at += count


def message(number: int, size: int) -> bytes:
    """One C-STORE of a CT image, as a modality sends it."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT, f"2.25.{number}"
    dataset.StudyDate, dataset.Modality, dataset.Manufacturer = "20240101", "CT", "SYNTHETIC"
    dataset.PatientID, dataset.PatientName, dataset.AccessionNumber = "SYNTHETIC1", "Synthetic^Patient", "A1"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.InstanceNumber = "2.25.1", "2.25.2", number % 1000
    dataset.Rows = dataset.Columns = 512
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.add_new(0x7FE00010, "OW", bytes(size))
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, dataset)
    data = buffer.getvalue()
    command = encode_c_store_rq(number % 60_000 + 1, CT, f"2.25.{number}")
    return b"".join(frame_message(1, command, [data], len(data), 131072))


class Welcome:
    def refusal(self) -> None: ...


class Way:
    """A router in miniature: one association in, one lane with one association out."""

    def __init__(self, folder: Path) -> None:
        loop = asyncio.get_running_loop()
        (folder / "rules.toml").write_text(RULES)
        rules = load(folder, ["pacs"], on_no_match="hold")
        limits, log = Limits(), Silent()
        listener = Listener(host="127.0.0.1", port=0, accept="any")
        self.metrics = RouterMetrics(
            destinations=["pacs"], listeners=[listener.name], peers=[], rules=["ct to the archive"]
        )
        self.spool, self.ledger, self.out = Spool(), Ledger(), Transport()
        destination = Destination(
            name="pacs", kind="dicom", ae_title="PACS", host="127.0.0.1", port=1, max_associations=1
        )
        self.lane = Lane(
            destination, ledger=self.ledger, spool=self.spool, open_sender=self._open, metrics=self.metrics.lane("pacs"),
            log=log, limits=limits, budget=Budget(limits.window_memory), random=lambda: 0.5,
            damaged=lambda info, location, why: None,
        )  # fmt: skip
        self.intake = StoreIntake(
            loop=loop, spool=self.spool, ledger=self.ledger, lanes={"pacs": self.lane}, rules=lambda: rules,  # type: ignore[arg-type]
            ids=IdSource(worker=0, last=0, clock=time.time), limits=limits, log=log, decided=self.metrics.decided,
            discarded=lambda info, decision: None, commit_observed=self.metrics.commit, known=KnownInstances(),
        )  # fmt: skip
        server = ListeningServer(
            listener, limits, Gate(limits, [], Welcome()), serving(self.intake, log=log),  # type: ignore[arg-type]
            metrics=self.metrics.listener(listener.name), log=log,
        )  # fmt: skip
        self.inside = Transport()
        self.accepted = AcceptedConnection(server)
        self.accepted.connection_made(self.inside)
        request = propose([(CT, EXPLICIT)], called_ae="ROUTER", calling_ae="CT1")
        give(self.accepted, encode_request(request))
        self.inside.taken()
        self._log = log
        self.dialed: DialedConnection

    async def _open(self, pairs: Sequence[Pair]) -> DicomSender:
        request = propose(pairs, called_ae="PACS", calling_ae="ROUTER", async_operations=64)
        self.dialed = DialedConnection(
            request, AssociationSettings(idle_timeout=None), self._log, asyncio.get_running_loop()
        )
        self.dialed.connection_made(self.out)
        self.out.taken()
        give(self.dialed, encode_accept(negotiate(request, 131072)))
        return DicomSender(StorageScu(self.dialed, log=self._log), pairs)

    def responses(self) -> bytes:
        """What the destination answers to all that was sent to it."""
        sent, out = self.out.taken(), b""
        for item in PduReader(131072).feed(sent):
            _, context_id, control, start, end, _ = item
            if control & 1:
                out += b"".join(
                    frame_message(context_id, encode_response(parse_command(sent[start:end]), 0), (), 0, 131072)
                )
        return out


async def measure(folder: Path, size: int, count: int) -> dict[str, float]:
    """Seconds per object of each part."""
    way = Way(folder)
    way.lane.start()
    for _ in range(10):
        await asyncio.sleep(0)  # the lane asks the ledger whether anything is left of before
    spent = dict.fromkeys(("receive", "answer", "settle", "record"), 0.0)
    clock = time.thread_time
    for first in range(0, count + GROUP, GROUP):
        messages = [message(first + index, size) for index in range(GROUP)]
        began = clock()
        for data in messages:
            give(way.accepted, data)
        received = clock()
        entries, way.spool.entries = way.spool.entries, []
        way.intake.synced(entries, LogPosition(1, first))
        answered = clock()
        way.inside.taken()
        for _ in range(20):
            if way.out.written:
                break
            await asyncio.sleep(0)  # the first association is being opened
        responses = way.responses()
        responded = clock()
        give(way.dialed, responses)
        await asyncio.sleep(0)
        settled = clock()
        ((receipts, committed),) = way.ledger.groups
        way.ledger.groups = []
        results = [ReceiptResult(kind="new")] * len(receipts)
        recorded = clock()
        committed(results)
        await asyncio.sleep(0)
        over = clock()
        if len(way.ledger.settled) != GROUP:
            raise RuntimeError(f"{len(way.ledger.settled)} of {GROUP} objects made the whole way")
        way.ledger.settled.clear()
        if first:  # the first group opens the association
            for name, seconds in (
                ("receive", received - began), ("answer", answered - received), ("settle", settled - responded),
                ("record", over - recorded),
            ):  # fmt: skip
                spent[name] += seconds
    return {name: seconds / count for name, seconds in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro_path", description="Our own code alone.")
    parser.add_argument("--count", type=int, default=2000, help="objects per round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for size in (16 << 10, 512 << 10):
        count = max(GROUP, options.count * (16 << 10) // size // GROUP * GROUP) if size > 16 << 10 else options.count
        rounds = []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as folder:
                rounds.append(asyncio.run(measure(Path(folder), size, count)))
        parts = {name: statistics.median(one[name] for one in rounds) * 1e6 for name in rounds[0]}
        text = "  ".join(f"{name} {value:6.1f}" for name, value in parts.items())
        print(f"{size >> 10:4} KiB   {text}   together {sum(parts.values()):6.1f} us", flush=True)


if __name__ == "__main__":
    main()
