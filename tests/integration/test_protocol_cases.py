"""Cases of the protocol's checklist that need the whole router: they carry its numbers."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

from tests.support.objects import encode, received, sha256, synthetic
from tests.support.peers import storescp, wait_for
from tests.support.router_process import RouterProcess
from tests.support.scu import RawSender

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
PRIVATE_SYNTAX = "1.2.826.0.1.3680043.9.9.9"
pytestmark = [pytest.mark.peer, pytest.mark.timeout(120)]


def test_case_72_uids_of_command_and_data_set_differ(tmp_path: Path) -> None:
    with RouterProcess(tmp_path / "router", {}) as router:
        sender = RawSender(router.port, [(CT, EXPLICIT)])
        data = encode(synthetic(sop_instance="2.25.1"))
        assert sender.store(CT, "2.25.2", EXPLICIT, data) == 0xA900
        assert sender.store(CT, "2.25.1", EXPLICIT, data) == 0x0000, "the association goes on"
        sender.release()
        wait_for(lambda: router.metric("dicom_router_held_instances") == 1, 20, "only the good one to be kept")


def test_case_74_a_truncated_data_set_flagged_last(tmp_path: Path) -> None:
    with RouterProcess(tmp_path / "router", {}) as router:
        sender = RawSender(router.port, [(CT, EXPLICIT)])
        data = encode(synthetic(sop_instance="2.25.1", size=8000))
        for cut in (1000, len(data) // 2, len(data) - 2):
            assert sender.store(CT, "2.25.1", EXPLICIT, data[:cut]) == 0xC001
        assert sender.store(CT, "2.25.1", EXPLICIT, data) == 0x0000
        sender.release()
        assert router.metric("dicom_router_store_responses_total", status="0xC001") == 3


def test_case_75_a_data_set_that_begins_with_group_0002_is_carried_as_it_came(tmp_path: Path) -> None:
    archive = tmp_path / "storescp"
    with (
        storescp(archive) as port,
        RouterProcess(tmp_path / "router", {"a": f"dicom://STORESCP@127.0.0.1:{port}"}) as router,
    ):
        meta = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\x00"
        data = meta + encode(synthetic(sop_instance="2.25.75"))
        sender = RawSender(router.port, [(CT, EXPLICIT)])
        assert sender.store(CT, "2.25.75", EXPLICIT, data) == 0x0000
        sender.release()
        wait_for(lambda: router.metric("dicom_router_queue_depth") == 0, 20, "the delivery to be decided")


def test_case_86_a_new_pair_of_class_and_syntax_turns_up_while_an_association_is_open(tmp_path: Path) -> None:
    archive = tmp_path / "storescp"
    with (
        storescp(archive) as port,
        RouterProcess(tmp_path / "router", {"a": f"dicom://STORESCP@127.0.0.1:{port}"}) as router,
    ):
        sender = RawSender(router.port, [(CT, EXPLICIT), (CT, IMPLICIT)])
        first = encode(synthetic(sop_instance="2.25.861"))
        second = encode(synthetic(sop_instance="2.25.862"), implicit=True)
        assert sender.store(CT, "2.25.861", EXPLICIT, first) == 0x0000
        wait_for(lambda: "2.25.861" in received(archive), 20, "the first pair")
        assert sender.store(CT, "2.25.862", IMPLICIT, second) == 0x0000
        wait_for(lambda: received(archive).get("2.25.862") == [sha256(second)], 20, "the second pair")
        sender.release()


def test_case_106_a_destination_that_closes_between_instances(tmp_path: Path) -> None:
    """It hangs up after every answer; everything arrives all the same, each once."""
    got: list[str] = []

    def store(event: evt.Event) -> int:
        got.append(str(event.request.AffectedSOPInstanceUID))
        threading.Timer(0.05, event.assoc.abort).start()
        return 0x0000

    ae = AE(ae_title="CLOSER")
    ae.supported_contexts = [build_context(CT, EXPLICIT)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        with RouterProcess(
            tmp_path / "router", {"a": f"dicom://CLOSER@127.0.0.1:{server.server_address[1]}"}
        ) as router:
            sender = RawSender(router.port, [(CT, EXPLICIT)])
            for number in range(3):
                uid = f"2.25.106{number}"
                assert sender.store(CT, uid, EXPLICIT, encode(synthetic(sop_instance=uid))) == 0x0000
                wait_for(lambda uid=uid: uid in got, 20, "delivery")
                deadline = time.monotonic() + 5
                while router.metric("dicom_router_associations", direction="out") and time.monotonic() < deadline:
                    time.sleep(0.02)
            sender.release()
            wait_for(lambda: router.metric("dicom_router_queue_depth") == 0, 20, "an empty queue")
            assert sorted(got) == ["2.25.1060", "2.25.1061", "2.25.1062"]
    finally:
        server.shutdown()


def test_case_42_an_unknown_transfer_syntax_passes_as_opaque_bytes(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with RouterProcess(tmp_path / "router", {"a": f"file://{archive}"}) as router:
        sender = RawSender(router.port, [(CT, PRIVATE_SYNTAX)])
        data = b"not a data set that anybody could read" * 100
        assert sender.store(CT, "2.25.42", PRIVATE_SYNTAX, data) == 0x0000
        sender.release()
        wait_for(lambda: received(archive).get("2.25.42") == [sha256(data)], 20, "the opaque object")


def test_one_dead_destination_does_not_stop_the_others(tmp_path: Path) -> None:
    """The lane of a destination that refuses every object leaves the others as fast as they were."""
    archive = tmp_path / "archive"

    def refuse(event: evt.Event) -> int:
        return 0xC123

    ae = AE(ae_title="REFUSER")
    ae.supported_contexts = [build_context(CT, EXPLICIT)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, refuse)])
    try:
        with RouterProcess(
            tmp_path / "router",
            {"refuser": f"dicom://REFUSER@127.0.0.1:{server.server_address[1]}", "archive": f"file://{archive}"},
        ) as router:
            sender = RawSender(router.port, [(CT, EXPLICIT)])
            expected = {}
            for number in range(10):
                uid = f"2.25.200{number}"
                data = encode(synthetic(sop_instance=uid))
                assert sender.store(CT, uid, EXPLICIT, data) == 0x0000
                expected[uid] = [sha256(data)]
            sender.release()
            wait_for(lambda: received(archive) == expected, 20, "delivery to the healthy one")
            wait_for(
                lambda: router.metric("dicom_router_deliveries_total", destination="refuser", outcome="retry") == 10,
                20,
                "ten refusals",
            )
            depth = "dicom_router_queue_depth"
            wait_for(lambda: router.metric(depth, destination="refuser") == 10, 20, "each to wait for its next attempt")
    finally:
        server.shutdown()
