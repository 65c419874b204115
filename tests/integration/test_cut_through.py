"""Large objects on their way before they are whole: the router as a process, both ends plain sockets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.objects import encode, synthetic
from tests.support.peers import wait_for
from tests.support.ports import free_port
from tests.support.router_process import RouterProcess
from tests.support.wire import WireSender, WireSink

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
UID = "2.25.424242"
MIB = 1 << 20
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def large() -> bytes:
    return encode(synthetic(size=24 * MIB, sop_instance=UID))


@contextmanager
def routing_to(
    folder: Path, port: int, more: str = "", rules: str | None = None, node: str = ""
) -> Iterator[RouterProcess]:
    with RouterProcess(
        folder / "router", {"pacs": f"dicom://PACS@127.0.0.1:{port}"}, extra=more, rules=rules, node=node
    ) as router:
        yield router


def sender_to(router: RouterProcess) -> WireSender:
    return WireSender(router.port, (CT, EXPLICIT))


def early(router: RouterProcess, outcome: str) -> float:
    return router.metric("dicom_router_cut_through_total", destination="pacs", outcome=outcome)


def test_the_destination_has_most_of_it_before_the_sender_has_sent_the_rest(tmp_path: Path, large: bytes) -> None:
    with WireSink() as sink, routing_to(tmp_path, sink.port) as router:
        sender = sender_to(router)
        sender.begin(UID, large)
        sender.send_all_but_last()
        wait_for(lambda: sink.arriving > len(large) - MIB, 30, "most of the object at the destination")
        assert sink.whole == []
        assert router.metric("dicom_router_deliveries_total") == 0
        sender.send()
        assert sender.status() == 0x0000
        wait_for(lambda: sink.whole, 30, "the whole object")
        assert sink.whole == [large]
        wait_for(lambda: early(router, "completed") == 1, 20, "the count")
        wait_for(lambda: router.metric("dicom_router_queue_depth") == 0, 20, "an empty queue")
        assert router.metric("dicom_router_deliveries_total", outcome="delivered") == 1
        assert (sink.begun, sink.aborted, early(router, "given_up")) == (1, 0, 0)
        # The association goes on as any other.
        small = encode(synthetic(sop_instance="2.25.1"))
        assert sender.store("2.25.1", small) == 0x0000
        wait_for(lambda: sink.whole == [large, small], 20, "the next object")
        sender.close()


@pytest.mark.parametrize("how", ["abort", "close"])
def test_nothing_of_an_object_whose_sender_goes_away_counts(tmp_path: Path, large: bytes, how: str) -> None:
    with WireSink() as sink, routing_to(tmp_path, sink.port) as router:
        sender = sender_to(router)
        sender.begin(UID, large)
        sender.send(0.6)
        wait_for(lambda: sink.arriving > 8 * MIB, 30, "a part of the object at the destination")
        sender.abort() if how == "abort" else sender.close()
        wait_for(lambda: sink.aborted == 1, 20, "the end of the association")
        assert sink.whole == []
        assert early(router, "given_up") == 1
        assert router.metric("dicom_router_queue_depth") == 0
        assert router.metric("dicom_router_deliveries_total") == 0
        assert router.metric("dicom_router_destination_up", destination="pacs") == 1, "no fault of the destination"
        again = sender_to(router)
        assert again.store(UID, large) == 0x0000
        wait_for(lambda: sink.whole == [large], 30, "the object")
        again.close()


def test_a_destination_that_dies_midway_costs_the_sender_nothing(tmp_path: Path, large: bytes) -> None:
    port = free_port()
    with WireSink(port=port) as sink, routing_to(tmp_path, port) as router:
        sender = sender_to(router)
        sender.begin(UID, large)
        sender.send(0.5)
        wait_for(lambda: sink.arriving > 6 * MIB, 30, "a part of the object at the destination")
        sink.close()
        sender.send()
        assert sender.status() == 0x0000
        assert early(router, "given_up") == 1
        sender.close()
        with WireSink(port=port) as later:
            router.cli("resume", "pacs", "-c", str(router.config))
            wait_for(lambda: later.whole, 60, "the retry")
            wait_for(lambda: router.metric("dicom_router_queue_depth") == 0, 20, "an empty queue")
            assert later.whole == [large]
            assert router.metric("dicom_router_deliveries_total", outcome="delivered") == 1


def test_a_dead_destination_costs_the_sender_nothing(tmp_path: Path, large: bytes) -> None:
    with routing_to(tmp_path, free_port()) as router:
        sender = sender_to(router)
        assert sender.store(UID, large) == 0x0000
        wait_for(lambda: router.metric("dicom_router_queue_depth") == 1, 20, "the queue to show")
        sender.close()


def test_an_identical_duplicate_is_given_up_before_its_end(tmp_path: Path, large: bytes) -> None:
    with WireSink() as sink, routing_to(tmp_path, sink.port) as router:
        sender = sender_to(router)
        assert sender.store(UID, large) == 0x0000
        wait_for(lambda: early(router, "completed") == 1, 30, "delivery")
        assert sender.store(UID, large) == 0x0000
        wait_for(lambda: early(router, "given_up") == 1, 30, "the second to be given up")
        wait_for(lambda: sink.aborted == 1, 20, "the end of the association")
        assert sink.whole == [large]
        sender.close()


@pytest.mark.parametrize(("policy", "status"), [("reject", 0x0111), ("hold", 0x0000)])
def test_other_bytes_under_a_known_uid_do_not_pass_early_where_a_policy_is_against_it(
    tmp_path: Path, large: bytes, policy: str, status: int
) -> None:
    changed = large[:-2] + b"\x01\x01"
    with (
        WireSink() as sink,
        routing_to(tmp_path, sink.port, node=f'on_changed_duplicate = "{policy}"') as router,
    ):
        sender = sender_to(router)
        assert sender.store(UID, large) == 0x0000
        wait_for(lambda: early(router, "completed") == 1, 30, "delivery")
        sender.begin(UID, changed)
        sender.send_all_but_last()
        wait_for(lambda: sink.begun == 2, 30, "the second to have begun")
        sender.send()
        assert sender.status() == status
        wait_for(lambda: early(router, "given_up") == 1, 30, "the second to be given up")
        wait_for(lambda: sink.aborted == 1, 20, "the end of the association")
        if policy == "hold":
            wait_for(lambda: router.metric("dicom_router_held_instances") == 1, 20, "what is held to show")
            router.cli("release", UID, "-c", str(router.config))
            wait_for(lambda: sink.whole == [large, changed], 30, "what was released")
        assert sink.whole[0] == large and len(sink.whole) == 1 + (policy == "hold")
        sender.close()


def test_a_slow_destination_lags_behind_in_the_file_and_not_in_memory(tmp_path: Path) -> None:
    data = encode(synthetic(size=160 * MIB, sop_instance=UID))
    held = threading.Event()

    def stall(size: int) -> None:
        if size > 6 * MIB:
            held.wait(120)

    with WireSink(stall) as sink, routing_to(tmp_path, sink.port) as router:
        sender = sender_to(router)
        before = rss(router)
        sender.begin(UID, data)
        sender.send()
        assert sender.status() == 0x0000, "the sender does not wait for the destination"
        assert sink.whole == []
        assert rss(router) - before < 48 * MIB
        held.set()
        wait_for(lambda: sink.whole, 60, "the whole object")
        assert sink.whole == [data]
        wait_for(lambda: early(router, "completed") == 1, 20, "the count")
        sender.close()


def rss(router: RouterProcess) -> int:
    assert router.process is not None
    status = Path(f"/proc/{router.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def test_kill_9_midway_leaves_nothing_whole_behind(tmp_path: Path, large: bytes) -> None:
    with WireSink() as sink:
        router = RouterProcess(tmp_path / "router", {"pacs": f"dicom://PACS@127.0.0.1:{sink.port}"})
        router.start()
        sender = sender_to(router)
        sender.begin(UID, large)
        sender.send_all_but_last()
        wait_for(lambda: sink.arriving > 20 * MIB, 30, "most of the object at the destination")
        router.kill()
        wait_for(lambda: sink.aborted == 1, 20, "the end of the association")
        sender.close()
        router.start()
        wait_for(lambda: router.metric("dicom_router_queue_depth") == 0, 20, "an empty queue")
        assert sink.whole == []
        again = sender_to(router)
        assert again.store(UID, large) == 0x0000
        wait_for(lambda: sink.whole == [large], 30, "the object")
        again.close()
        assert router.stop() == 0


def test_a_lingering_sender_does_not_keep_the_only_association_from_others(tmp_path: Path, large: bytes) -> None:
    with WireSink() as sink, routing_to(tmp_path, sink.port, "max_associations = 1") as router:
        slow, other = sender_to(router), sender_to(router)
        slow.begin(UID, large)
        slow.send(0.6)
        wait_for(lambda: sink.arriving > 8 * MIB, 30, "a part of the object at the destination")
        small = encode(synthetic(sop_instance="2.25.7"))
        assert other.store("2.25.7", small) == 0x0000
        wait_for(lambda: sink.whole == [small], 20, "the small object")
        assert early(router, "given_up") == 1
        slow.send()
        assert slow.status() == 0x0000
        wait_for(lambda: sink.whole == [small, large], 30, "the large object")
        slow.close()
        other.close()


@pytest.mark.parametrize("case", ["switched off", "a rule on the size"])
def test_where_it_does_not_act_the_destination_hears_nothing_early(tmp_path: Path, large: bytes, case: str) -> None:
    off = case == "switched off"
    rules = None if off else '[[rule]]\nname = "large"\nmatch = { Size = { min = 1000000 } }\nto = ["pacs"]\n'
    with WireSink() as sink, routing_to(tmp_path, sink.port, "cut_through = false" if off else "", rules) as router:
        sender = sender_to(router)
        sender.begin(UID, large)
        sender.send_all_but_last()
        # The router has read nearly all of it when the last fragments find room in its socket.
        assert sink.begun == 0
        sender.send()
        assert sender.status() == 0x0000
        wait_for(lambda: sink.whole == [large], 30, "the object")
        assert early(router, "completed") == early(router, "given_up") == 0
        sender.close()
