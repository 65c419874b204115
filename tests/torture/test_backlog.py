"""A destination that has been down for long: what waits for it costs neither memory, nor starts, nor the others.

The queue is made of copies of the rows of an object that the router has taken in, since two million objects would take
the disk of a data centre: what is tried here is what is known of them, not their bytes.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from tests.support.objects import encode, synthetic
from tests.support.peers import wait_for
from tests.support.ports import free_port
from tests.support.process_memory import resident
from tests.support.router_process import RouterProcess
from tests.support.wire import WireSender, WireSink
from tests.torture.figures import Figure, report

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
COLUMNS = (
    "study, series, sop_class, ts, calling, called, peer, listener, address, patient_id, accession, modality, size, "
    "checksum, segment, epoch, at, length, received, rule_version, rules, verdict, priority, move_aet, move_id, "
    "supersedes, settled"
)
RESTART = {100_000: 5.0, 2_000_000: 30.0}
"""Seconds until it is ready again, by what waits."""
MEMORY = 150_000_000
DEAD = '[[rule]]\nname = "dead"\nmatch = { PatientID = "DEAD" }\nto = ["dead"]\n'
LIVE = '[[rule]]\nname = "live"\nmatch = { PatientID = "LIVE" }\nto = ["live"]\n'


def node(folder: Path, live: int) -> RouterProcess:
    """One with a destination that works and one that is down."""
    return RouterProcess(
        folder,
        {"live": f"dicom://SINK@127.0.0.1:{live}", "dead": f"dicom://DEAD@127.0.0.1:{free_port()}"},
        rules=DEAD + LIVE,
        extra='[spool]\nreserve_associations = "0B"\nreserve_objects = "0B"\n',
    )


class Sender:
    """Objects of one patient, one after the other."""

    def __init__(self, port: int, patient: str, first: int) -> None:
        self._wire = WireSender(port, (CT, EXPLICIT))
        self._data = encode(synthetic(size=16384, sop_instance="1" * 60, PatientID=patient))
        self._number = first

    def store(self, count: int) -> None:
        for _ in range(count):
            self._number += 1
            uid = f"2.25.{self._number:055d}"
            assert self._wire.store(uid, self._data.replace(b"1" * 60, uid.encode())) == 0

    def close(self) -> None:
        self._wire.close()


def queue_up(folder: Path, count: int) -> None:
    """Copies of the object that waits, and of its delivery."""
    with contextlib.closing(apsw.Connection(str(folder / "data" / "ledger.db"))) as ledger:
        ledger.execute("pragma synchronous=off")
        with ledger:
            ((template,),) = ledger.execute("select instance_id from delivery where dest='dead' order by id limit 1")
            ((last,),) = ledger.execute("select max(id) from instance")
            ledger.execute(
                f"with recursive n(i) as (select 1 union all select i + 1 from n where i < ?1) "  # noqa: S608
                f"insert into instance(id, sop, {COLUMNS}) "
                f"select ?2 + i, '2.25.9' || printf('%055d', i), {COLUMNS} from instance, n where id=?3",
                (count, last, template),
            )
            ledger.execute(
                "insert into delivery(instance_id, dest, state, priority, attempts, not_before, fence, updated) "
                "select id, 'dead', 'ready', 1, 1, 0, 1, received from instance where id > ?",
                (last,),
            )


def pid_of(router: RouterProcess) -> int:
    assert router.process is not None
    return router.process.pid


def processor_seconds(router: RouterProcess) -> float:
    fields = Path(f"/proc/{pid_of(router)}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


@contextlib.contextmanager
def two_nodes(tmp_path: Path, backlog: int) -> Iterator[tuple[RouterProcess, RouterProcess, WireSink]]:
    """One with nothing queued, and one with all of it."""
    with WireSink(keep=False) as sink:
        empty, full = node(tmp_path / "empty", sink.port), node(tmp_path / "full", sink.port)
        for router in (empty, full):
            router.start()
            sender = Sender(router.port, "DEAD", 0)
            sender.store(1)
            sender.close()
            assert router.stop() == 0
        queue_up(tmp_path / "full", backlog)
        with empty, full:
            yield empty, full, sink


@pytest.mark.timeout(3600)
def test_what_waits_for_a_dead_destination_costs_nobody_anything(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    backlog = amount("backlog", 20_000, 2_000_000)
    rounds = amount("backlog_rounds", 2, 15)
    each = amount("backlog_objects", 200, 1000)
    with two_nodes(tmp_path, backlog) as (empty, full, sink):
        assert full.metric("dicom_router_queue_depth", destination="dead") == backlog + 1
        costs: dict[RouterProcess, list[float]] = {empty: [], full: []}
        senders = {router: Sender(router.port, "LIVE", 10_000) for router in costs}
        for turn in range(rounds + 1):
            for router in costs:
                before, arrived = processor_seconds(router), len(sink.digests)
                senders[router].store(each)
                wait_for(lambda arrived=arrived: len(sink.digests) >= arrived + each, 60, "their delivery")
                if turn:  # the first warms both up
                    costs[router].append((processor_seconds(router) - before) / each)
        ratio = statistics.median(costs[full]) / statistics.median(costs[empty])
        grown = resident(pid_of(full)) - resident(pid_of(empty))
        for sender in senders.values():
            sender.close()
        full.kill()
        started = time.monotonic()
        full.start(seconds=120)
        ready = time.monotonic() - started
        assert full.metric("dicom_router_queue_depth", destination="dead") == backlog + 1
    limit = next(seconds for most, seconds in RESTART.items() if backlog <= most)
    assert ready <= limit
    assert grown <= MEMORY
    assert ratio <= (1.2 if campaign else 2.0), "a short share sees little more than noise"
    report(
        Figure(
            test="T9",
            promise=f"{backlog:,} objects wait for a dead destination: memory, starts, and others' cost per object",
            goal=f"≤ 150 MB more; ready again ≤ {limit:g} s after kill -9; ≤ 1.2 × the cost with an empty queue",
            found=f"{grown / 1e6:.0f} MB more; ready again after {ready:.1f} s; {ratio:.2f} × the processor time "
            f"per object (medians of {rounds} × {each} objects each, in turns)",
            n=backlog,
            command=f"make torture (tests/torture/test_backlog.py, --amount backlog={backlog})",
        ),
        keep=campaign,
    )
