"""Several workers, one router: seen from outside they keep the promise of one, also when some of them are killed."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.support.objects import encode, received, sha256, synthetic
from tests.support.peers import accepts, storescp, wait_for
from tests.support.ports import free_port
from tests.support.router_process import RouterProcess
from tests.support.scu import RawSender
from tests.support.wire import WireSender

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
pytestmark = [
    pytest.mark.peer,
    pytest.mark.timeout(180),
    # pynetdicom leaves the socket of an association that was not accepted to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


PER_ASSOCIATION = 3
PAUSE = 0.1
"""Seconds between a sender's associations: enough of them, and not so many objects that looking at them takes long."""


class Senders:
    """Threads that send until told to stop, each association a few objects; what was answered 0x0000 counts."""

    running: ClassVar[list[Senders]] = []

    def __init__(self, router: RouterProcess, first: int = 0) -> None:
        self.router = router
        self.answered: dict[str, str] = {}
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(first + number,)) for number in range(4)]
        self.running.append(self)
        for thread in self.threads:
            thread.start()

    def _run(self, number: int) -> None:
        count = 0
        while not self.stopping.is_set():
            # A router between two lives refuses, or goes away within an object.
            with (
                suppress(OSError, AssertionError),
                closing(WireSender(self.router.port, (CT, EXPLICIT), calling=f"S{number}")) as sender,
            ):
                for _ in range(PER_ASSOCIATION):
                    count += 1
                    uid = f"2.25.9{number}{count:09d}"
                    data = encode(synthetic(size=4_000, sop_instance=uid, seed=count))
                    if sender.store(uid, data) != 0x0000:
                        break
                    self.answered[uid] = sha256(data)
            self.stopping.wait(PAUSE)

    def wait_for(self, more: int) -> None:
        """Until so many more have been answered."""
        wanted = len(self.answered) + more
        wait_for(lambda: len(self.answered) >= wanted, 60, f"{more} more answers")

    def stop(self) -> dict[str, str]:
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)
        return self.answered


def arrived(folder: Path, expected: dict[str, str]) -> bool:
    """Everything is there, byte-identical."""
    found = received(folder)
    return all(set(found.get(uid, [])) == {digest} for uid, digest in expected.items())


def delivered(router: RouterProcess) -> int:
    return int(router.metric("dicom_router_deliveries_total", outcome="delivered"))


def workers(router: RouterProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(router.get("/api/v1/status"))["workers"]
    return found


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Callable[..., RouterProcess]]:
    """A router with two workers; what is left of it is ended."""
    made: list[RouterProcess] = []

    def make(destinations: dict[str, str], **more: Any) -> RouterProcess:
        router = RouterProcess(tmp_path / f"router{len(made)}", destinations, workers=2, **more)
        made.append(router)
        return router

    yield make
    while Senders.running:
        Senders.running.pop().stop()
    for router in made:
        router.kill()


def test_associations_are_spread_and_everything_arrives_once(
    tmp_path: Path, pair: Callable[..., RouterProcess]
) -> None:
    archive = tmp_path / "archive"
    router = pair({"archive": f"file://{archive}"})
    router.start()
    senders = Senders(router)
    senders.wait_for(150)
    sent = senders.stop()
    wait_for(lambda: arrived(archive, sent), 30, "delivery of everything")
    received_by = {
        line.partition('"worker": ')[2][:1] for line in router.log.read_text().splitlines() if "accepted" in line
    }
    assert received_by == {"0", "1"}
    stored = router.metric("dicom_router_instances_received_total")
    assert stored == len(sent)
    assert router.metric("dicom_router_store_responses_total", status="0x0000") == stored
    wait_for(lambda: delivered(router) >= stored, 20, "all to be counted")  # the file is there a moment earlier
    wait_for(lambda: router.metric("dicom_router_queue_depth") == 0, 20, "an empty queue")
    assert delivered(router) == stored, "once each"
    assert router.metric("dicom_router_worker_up") == 2
    for worker in ("0", "1", "parent"):
        assert router.metric("process_resident_memory_bytes", worker=worker) > 0
    assert router.metric("dicom_router_store_seconds_count") == stored
    pids = [worker["pid"] for worker in workers(router)]
    assert router.stop() == 0
    assert not any(map(alive, pids))


def test_a_killed_worker_is_started_again_and_the_others_go_on(
    tmp_path: Path, pair: Callable[..., RouterProcess]
) -> None:
    archive = tmp_path / "archive"
    router = pair({"archive": f"file://{archive}"})
    router.start()
    senders = Senders(router)
    senders.wait_for(40)
    before = workers(router)
    for round_, index in enumerate((1, 0, 1)):
        pid = workers(router)[index]["pid"]
        os.kill(pid, signal.SIGKILL)
        senders.wait_for(10)
        wait_for(lambda pid=pid, index=index: workers(router)[index]["pid"] not in (pid, None), 20, "another process")
        wait_for(lambda index=index: workers(router)[index]["state"] == "serving", 20, "it to serve")
        assert sum(worker["restarts"] for worker in workers(router)) == round_ + 1
    assert before[0]["pid"] != workers(router)[0]["pid"]
    senders.wait_for(20)
    counted = router.metric("dicom_router_instances_received_total")
    sent = senders.stop()
    wait_for(lambda: arrived(archive, sent), 60, "delivery of everything answered")
    wait_for(lambda: router.metric("dicom_router_queue_depth") == 0, 20, "an empty queue")
    assert router.metric("dicom_router_instances_received_total") >= counted, "a counter fell"
    assert router.metric("dicom_router_worker_restarts_total") == 3
    assert router.stop() == 0


def test_limits_of_associations_hold_for_all_workers_together(
    tmp_path: Path, pair: Callable[..., RouterProcess]
) -> None:
    router = pair({"archive": f"file://{tmp_path / 'archive'}"}, limits="associations = 6")
    router.start()

    def fill() -> list[RawSender]:
        senders = [RawSender(router.port, [(CT, EXPLICIT)], timeout=10) for _ in range(10)]
        return [sender for sender in senders if sender.established]

    def let_in() -> int:
        return sum(sender.established for sender in open_)

    open_ = fill()
    assert len(open_) == 6
    assert router.metric("dicom_router_associations", direction="in") == 6
    for index in (0, 1):
        pid = workers(router)[index]["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda pid=pid, index=index: workers(router)[index]["pid"] not in (pid, None), 20, "another process")
        wait_for(lambda index=index: workers(router)[index]["state"] == "serving", 20, "it to serve")
    wait_for(lambda: let_in() == 0, 20, "the associations of the killed to end")
    again = fill()
    assert len(again) == 6, "those of killed workers count no more"
    for sender in again:
        sender.release()
    assert router.stop() == 0


def test_the_others_go_on_while_one_is_down(tmp_path: Path, pair: Callable[..., RouterProcess]) -> None:
    archive = tmp_path / "archive"
    router = pair({"archive": f"file://{archive}"})
    router.start()
    senders = Senders(router)
    senders.wait_for(20)
    router.write_rules("this is no rule file")  # refused by those that run; one that starts does not start
    os.kill(workers(router)[1]["pid"], signal.SIGKILL)
    wait_for(lambda: workers(router)[1]["state"] != "serving", 10, "the death to be seen")
    senders.wait_for(60)
    assert router.metric("dicom_router_worker_up", worker="1") == 0
    status = json.loads(router.get("/api/v1/status"))
    assert status["not_answering"] and "worker 1" in status["not_answering"][0]
    assert "worker 1" in router.cli("status", "-c", str(router.config)).stdout
    assert router.ready()
    router.write_rules('[[rule]]\nname = "everything"\nto = ["archive"]\n')
    wait_for(lambda: workers(router)[1]["state"] == "serving", 60, "worker 1 to serve again")
    sent = senders.stop()
    wait_for(lambda: arrived(archive, sent), 60, "delivery of everything answered")
    assert router.stop() == 0


def test_without_its_parent_no_worker_lives(tmp_path: Path, pair: Callable[..., RouterProcess]) -> None:
    archive = tmp_path / "archive"
    router = pair({"archive": f"file://{archive}"})
    router.start()
    senders = Senders(router)
    senders.wait_for(40)
    pids = [worker["pid"] for worker in workers(router)]
    router.kill()
    wait_for(lambda: not any(map(alive, pids)), 10, "the workers to end")
    router.start()
    senders.wait_for(40)
    sent = senders.stop()
    wait_for(lambda: arrived(archive, sent), 60, "delivery of everything answered")
    assert router.stop() == 0


def test_sigterm_drains_all_of_them(tmp_path: Path, pair: Callable[..., RouterProcess]) -> None:
    archive = tmp_path / "archive"
    router = pair({"archive": f"file://{archive}"})
    router.start()
    senders = Senders(router)
    senders.wait_for(40)
    pids = [worker["pid"] for worker in workers(router)]
    assert router.stop() == 0
    sent = senders.stop()
    assert not any(map(alive, pids))
    router.start()
    wait_for(lambda: arrived(archive, sent), 60, "delivery of everything answered")
    assert router.stop() == 0


@pytest.mark.parametrize("later", [1, 3])
def test_another_number_of_workers_finds_the_backlog(
    tmp_path: Path, pair: Callable[..., RouterProcess], later: int
) -> None:
    port, folder = free_port(), tmp_path / "late"
    router = pair({"late": f"dicom://STORESCP@127.0.0.1:{port}"})
    router.start()
    senders = Senders(router)
    senders.wait_for(60)
    router.kill()  # so that the ends of both logs are still to be read
    sent = senders.stop()
    segments = {path.name for path in (tmp_path / "router0" / "data" / "spool").glob("*.seg")}
    assert any(len(name) > 14 for name in segments), "worker 1 has written nothing"
    router.set_workers(later)
    router.start()
    # What was stored but not answered when it was killed is there too.
    wait_for(lambda: router.metric("dicom_router_queue_depth") >= len(sent), 20, "the backlog of both")
    with storescp(folder, "--fork", port=port):  # each worker has an association of its own
        router.cli("resume", "late", "-c", str(router.config))
        wait_for(lambda: arrived(folder, sent), 60, "delivery of the backlog")
        assert router.stop() == 0
        router.set_workers(2)
        router.start()
        more = Senders(router, first=4)
        more.wait_for(20)
        again = more.stop()
        wait_for(lambda: arrived(folder, again), 60, "delivery by two again")
        assert router.stop() == 0


def test_a_lost_ledger_is_rebuilt_from_both_logs(tmp_path: Path, pair: Callable[..., RouterProcess]) -> None:
    port, folder = free_port(), tmp_path / "late"
    router = pair({"late": f"dicom://STORESCP@127.0.0.1:{port}"})
    router.start()
    senders = Senders(router)
    senders.wait_for(60)
    router.kill()
    sent = senders.stop()
    for path in (tmp_path / "router0" / "data").glob("ledger.db*"):
        path.unlink()
    router.start()
    # What was stored but not answered when it was killed is there too.
    wait_for(lambda: router.metric("dicom_router_queue_depth") >= len(sent), 20, "the backlog of both")
    with storescp(folder, "--fork", port=port):  # each worker has an association of its own
        router.cli("resume", "late", "-c", str(router.config))
        wait_for(lambda: arrived(folder, sent), 60, "delivery of the backlog")
    assert router.log.read_text().count("the ledger is missing") == 2
    assert router.stop() == 0


def test_an_operator_acts_on_all_of_them(tmp_path: Path, pair: Callable[..., RouterProcess]) -> None:
    archive = tmp_path / "archive"
    router = pair({"archive": f"file://{archive}"})
    router.start()
    assert json.loads(router.post("/api/v1/destinations/archive/pause", {"reason": "a test"})) == {"paused": "archive"}
    senders = Senders(router)
    senders.wait_for(60)
    sent = senders.stop()
    wait_for(lambda: router.metric("dicom_router_queue_depth") == len(sent), 20, "the queue")
    assert received(archive) == {}
    row = json.loads(router.get("/api/v1/queue"))["destinations"][0]
    assert (row["state"], row["reason"], row["waiting"]) == ("paused", "a test", len(sent))
    os.kill(workers(router)[1]["pid"], signal.SIGKILL)  # who is started again knows of it too
    wait_for(lambda: workers(router)[1]["restarts"] == 1, 20, "another worker 1")
    wait_for(lambda: workers(router)[1]["state"] == "serving", 20, "it to serve")
    assert received(archive) == {}
    router.post("/api/v1/destinations/archive/resume", {})
    wait_for(lambda: arrived(archive, sent), 30, "delivery after the resume")
    # The ledger hears of it a moment after the file is there.
    wait_for(lambda: json.loads(router.get("/api/v1/queue"))["destinations"][0]["waiting"] == 0, 20, "an empty queue")
    uid = next(iter(sent))
    assert json.loads(router.post("/api/v1/resend", {"selector": uid})) == {"deliveries": 1}
    wait_for(lambda: delivered(router) == len(sent) + 1, 20, "the one sent again")
    assert json.loads(router.post("/-/reload"))["reloaded"] is True
    before = json.loads(router.get("/api/v1/rules"))["version"]
    router.write_rules('[[rule]]\nname = "all of it"\nto = ["archive"]\n')
    router.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
    wait_for(lambda: json.loads(router.get("/api/v1/rules"))["version"] != before, 20, "the new rules")
    wait_for(lambda: json.loads(router.get("/api/v1/rules"))["problems"] == [], 20, "the new rules in both")
    assert router.stop() == 0


def test_versions_arrive_in_their_order_whichever_worker_got_them(
    tmp_path: Path, pair: Callable[..., RouterProcess]
) -> None:
    archive = tmp_path / "archive"
    router = pair({"archive": f"file://{archive}"})
    router.start()
    uid, last = "2.25.4711", ""
    for number in range(16):
        sender = RawSender(router.port, [(CT, EXPLICIT)])
        data = encode(synthetic(sop_instance=uid, seed=number))
        for _ in range(2):  # the second is no news
            assert sender.store(CT, uid, EXPLICIT, data) == 0x0000
        sender.release()
        last = sha256(data)
    wait_for(lambda: len(set(received(archive).get(uid, []))) == 16, 30, "all versions")
    wait_for(lambda: router.metric("dicom_router_queue_depth") == 0, 20, "an empty queue")
    newest = max(archive.rglob("*.dcm"), key=lambda path: path.stat().st_mtime_ns)
    assert last in {digest for digests in received(newest.parent).values() for digest in digests}
    story = json.loads(router.get(f"/api/v1/trace?selector={uid}"))["instances"]
    done = [delivery["updated"] for one in story for delivery in one["deliveries"]]
    assert len(story) == 16
    assert done == sorted(done), "a newer version was delivered before an older one"
    assert router.stop() == 0


def test_a_second_router_and_a_taken_port_are_met(tmp_path: Path, pair: Callable[..., RouterProcess]) -> None:
    router = pair({})
    router.start()
    other = RouterProcess(tmp_path / "other", {}, workers=2)
    other.config.write_text(other.config.read_text().replace(f":{other.port}", f":{router.port}"))
    with pytest.raises(RuntimeError, match="cannot listen on"):
        other.start()
    assert accepts(router.port)
    assert router.stop() == 0
