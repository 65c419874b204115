"""The promise under faults, seen from outside: a real router process, real sockets, destinations that come and go."""

from __future__ import annotations

import json
import os
import shutil
import socket
import urllib.error
from pathlib import Path

import pytest

from tests.support.objects import encode, received, sha256, synthetic
from tests.support.peers import storescp, wait_for
from tests.support.ports import free_port
from tests.support.router_process import RouterProcess
from tests.support.scu import RawSender

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
pytestmark = [pytest.mark.peer, pytest.mark.timeout(180)]


def send(router: RouterProcess, count: int, *, size: int = 20_000, start: int = 0) -> dict[str, str]:
    """UID to SHA-256 of what was answered 0x0000; everything must be."""
    sender = RawSender(router.port, [(CT, EXPLICIT)])
    assert sender.established
    sent = {}
    for number in range(start, start + count):
        uid = f"2.25.77{number:09d}"
        data = encode(synthetic(size=size, sop_instance=uid, seed=number))
        assert sender.store(CT, uid, EXPLICIT, data) == 0x0000
        sent[uid] = sha256(data)
    sender.release()
    return sent


def arrived(folder: Path, expected: dict[str, str]) -> bool:
    found = received(folder)
    return all(found.get(uid) == [digest] for uid, digest in expected.items())


def test_a_destination_that_is_down_gets_everything_when_it_returns(tmp_path: Path) -> None:
    down, archive, late = free_port(), tmp_path / "archive", tmp_path / "late"
    destinations = {"late": f"dicom://STORESCP@127.0.0.1:{down}", "archive": f"file://{archive}"}
    with RouterProcess(tmp_path / "router", destinations) as router:
        sent = send(router, 20)
        # The dead one costs the living one nothing.
        wait_for(lambda: arrived(archive, sent), 20, "delivery to the folder")
        wait_for(lambda: router.metric("dicom_router_destination_up", destination="late") == 0, 20, "the lane to rest")
        wait_for(lambda: router.metric("dicom_router_queue_depth", destination="late") == 20, 20, "the queue to show")
        queue = json.loads(router.cli("queue", "late", "-c", str(router.config), "--json").stdout)
        assert queue
        with storescp(late, port=down):
            router.cli("resume", "late", "-c", str(router.config))  # probes now instead of at the end of the back-off
            wait_for(lambda: arrived(late, sent), 60, "delivery after the destination returned")
        wait_for(lambda: router.metric("dicom_router_queue_depth") == 0, 20, "an empty queue")
        assert router.metric("dicom_router_dead_letters") == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_what_waits_for_a_destination_that_is_not_configured_any_more_is_shown(tmp_path: Path, workers: int) -> None:
    destinations = {"archive": f"file://{tmp_path / 'archive'}", "gone": f"dicom://GONE@127.0.0.1:{free_port()}"}
    router = RouterProcess(tmp_path / "router", destinations, workers=workers)
    router.start()
    sent = send(router, 3)
    wait_for(lambda: arrived(tmp_path / "archive", sent), 20, "delivery to the folder")
    wait_for(lambda: router.metric("dicom_router_queue_depth", destination="gone") == 3, 20, "the queue to show")
    assert router.stop() == 0
    with_it = router.config.read_text()
    router.config.write_text(with_it.replace(f'[destinations.gone]\nurl = "{destinations["gone"]}"\n', ""))
    router.write_rules('[[rule]]\nname = "everything"\nto = ["archive"]\n')
    router.start()
    wait_for(lambda: router.metric("dicom_router_queue_depth", destination="gone") == 3, 20, "the queue to show")
    assert router.metric("dicom_router_queue_oldest_seconds", destination="gone") > 0
    assert 'dicom_router_destination_up{destination="gone"} 0.0' in router.get("/metrics")
    rows = {row["name"]: row for row in json.loads(router.get("/api/v1/status"))["destinations"]}
    assert list(rows) == ["archive", "gone"]
    assert (rows["gone"]["state"], rows["gone"]["waiting"]) == ("not configured", 3)
    assert "restart" in rows["gone"]["reason"]
    assert min(sent) in router.cli("queue", "gone", "-c", str(router.config)).stdout
    with pytest.raises(urllib.error.HTTPError):
        router.get("/api/v1/queue?destination=never")
    assert router.stop() == 0
    # Named again, in another place, it has what it is owed.
    router.config.write_text(with_it.replace(destinations["gone"], f"file://{tmp_path / 'gone'}"))
    router.start()
    wait_for(lambda: arrived(tmp_path / "gone", sent), 20, "delivery to where it is now")
    wait_for(lambda: router.metric("dicom_router_queue_depth", destination="gone") == 0, 20, "it to be recorded")
    assert router.stop() == 0
    # What was sent there is sent again to the others only.
    router.config.write_text(with_it.replace(f'[destinations.gone]\nurl = "{destinations["gone"]}"\n', ""))
    router.start()
    assert json.loads(router.post("/api/v1/resend", {"selector": min(sent)})) == {"deliveries": 1}
    assert router.stop() == 0


def test_what_waits_survives_kill_9_and_a_lost_ledger(tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "late"
    router = RouterProcess(tmp_path / "router", {"late": f"dicom://STORESCP@127.0.0.1:{port}"})
    router.start()
    sent = send(router, 15)
    sent |= send(router, 2, size=3_000_000, start=100)  # streamed objects
    router.kill()
    router.start()
    wait_for(lambda: router.metric("dicom_router_queue_depth", destination="late") == 17, 20, "the queue after kill -9")
    router.kill()
    # The ledger is gone altogether: it is an index over the spool, and the spool explains itself.
    ledgers = [path for path in (tmp_path / "router" / "data").rglob("*") if path.name.startswith("ledger")]
    assert ledgers
    for path in ledgers:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    router.start()
    with storescp(folder, port=port):
        wait_for(lambda: arrived(folder, sent), 60, "delivery after the ledger was rebuilt")
    assert router.stop() == 0


def test_a_damaged_record_is_set_aside_and_everything_else_is_served(tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "late"
    router = RouterProcess(tmp_path / "router", {"late": f"dicom://STORESCP@127.0.0.1:{port}"})
    router.start()
    sent = send(router, 30)
    assert router.stop() == 0
    victim = sorted(sent)[7]
    damaged = 0
    for segment in (tmp_path / "router" / "data").rglob("*"):
        if not segment.is_file() or "ledger" in segment.name:
            continue
        content = segment.read_bytes()
        at = content.find(b"\x08\x00\x18\x00UI")
        while at >= 0:
            if victim.encode() in content[at : at + 40]:
                with segment.open("r+b") as file:
                    file.seek(at + 2000)
                    file.write(b"\xff\xfe\xfd")
                damaged += 1
            at = content.find(b"\x08\x00\x18\x00UI", at + 1)
    assert damaged == 1
    router.start()
    others = {uid: digest for uid, digest in sent.items() if uid != victim}
    with storescp(folder, port=port):
        wait_for(lambda: arrived(folder, others), 60, "delivery of the undamaged")
        wait_for(lambda: router.metric("dicom_router_dead_letters") == 1, 30, "the damaged one to be told")
    assert victim not in received(folder)
    letters = router.cli("dead-letters", "list", "-c", str(router.config), "--json").stdout
    assert victim in letters
    assert router.stop() == 0


def test_identical_duplicates_are_sent_once_and_changed_ones_in_order(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with RouterProcess(tmp_path / "router", {"archive": f"file://{archive}"}) as router:
        uid = "2.25.123456789"
        first = encode(synthetic(sop_instance=uid, seed=1))
        second = encode(synthetic(sop_instance=uid, seed=2, StudyDescription="CHANGED"))
        sender = RawSender(router.port, [(CT, EXPLICIT)])
        for data in (first, first, second, second, first):
            assert sender.store(CT, uid, EXPLICIT, data) == 0x0000
        sender.release()
        wait_for(lambda: len(received(archive).get(uid, [])) >= 2, 20, "both versions")
        wait_for(lambda: router.metric("dicom_router_queue_depth") == 0, 20, "an empty queue")
        assert sorted(set(received(archive)[uid])) == sorted({sha256(first), sha256(second)})


def test_rules_decide_who_gets_what_and_reload_without_a_restart(tmp_path: Path) -> None:
    ct, everything = tmp_path / "ct", tmp_path / "everything"
    rules = '[[rule]]\nname = "ct only"\nmatch = { Modality = "CT" }\nto = ["ct"]\n'
    with RouterProcess(
        tmp_path / "router", {"ct": f"file://{ct}", "everything": f"file://{everything}"}, rules=rules
    ) as router:
        sender = RawSender(router.port, [(CT, EXPLICIT)])
        held = encode(synthetic(sop_instance="2.25.5001", modality="MR"))
        routed = encode(synthetic(sop_instance="2.25.5002", modality="CT"))
        assert sender.store(CT, "2.25.5001", EXPLICIT, held) == 0x0000
        assert sender.store(CT, "2.25.5002", EXPLICIT, routed) == 0x0000
        wait_for(lambda: arrived(ct, {"2.25.5002": sha256(routed)}), 20, "the CT")
        wait_for(lambda: router.metric("dicom_router_held_instances") == 1, 20, "the MR to be held")

        router.write_rules('[[rule]]\nname = "broken"\nmatch = { Modalty = "CT" }\nto = ["ct"]\n')
        wait_for(
            lambda: router.metric("dicom_router_config_last_reload_successful") == 0,
            20,
            "the broken file to be refused",
        )
        assert "did you mean" in router.log.read_text()

        router.write_rules(rules + '[[rule]]\nname = "rest"\nto = ["everything"]\n')
        wait_for(lambda: router.metric("dicom_router_config_last_reload_successful") == 1, 20, "the reload")
        # What was held because nothing matched is decided again by the better rules.
        wait_for(lambda: "2.25.5001" in received(everything), 20, "the held MR")
        assert received(everything)["2.25.5001"] == [sha256(held)]
        wait_for(lambda: router.metric("dicom_router_held_instances") == 0, 20, "nothing held")
        sender.release()


def test_trace_tells_the_story_of_one_object(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with RouterProcess(tmp_path / "router", {"archive": f"file://{archive}"}) as router:
        sent = send(router, 1)
        uid = next(iter(sent))
        wait_for(lambda: arrived(archive, sent), 20, "delivery")
        wait_for(lambda: router.metric("dicom_router_queue_depth") == 0, 20, "an empty queue")
        story = router.cli("trace", uid, "-c", str(router.config), "--json").stdout
        assert "archive" in story
        assert "done" in story or "delivered" in story
        assert "everything" in story, "the rule that decided"
        assert "SYNTHETIC1" not in router.log.read_text()
        logged = json.loads(story)["instances"][0]["logged_as"]
        assert logged.startswith("uid:")
        assert f"in the log  {logged}" in router.cli("trace", uid, "-c", str(router.config)).stdout
        assert router.stop() == 0
        router.start()
        again = router.cli("trace", uid, "-c", str(router.config), "--json").stdout
        assert json.loads(again)["instances"][0]["logged_as"] == logged, "the key is kept"


def test_garbage_and_http_on_the_dicom_port_cost_nothing(tmp_path: Path) -> None:
    limits = "handshake_timeout = 2.0\nartim_timeout = 1.0"
    with RouterProcess(tmp_path / "router", {}, limits=limits) as router:
        for garbage in (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00",
            os.urandom(4096),
            b"\x01\x00\xff\xff\xff\xff",
        ):
            with socket.create_connection(("127.0.0.1", router.port), timeout=20) as connection:
                connection.sendall(garbage)
                connection.settimeout(15)
                try:
                    while connection.recv(4096):
                        pass
                except ConnectionResetError:
                    pass
        assert send(router, 1)


def test_a_second_router_on_the_same_port_says_so(tmp_path: Path) -> None:
    with RouterProcess(tmp_path / "one", {}) as router:
        other = RouterProcess(tmp_path / "two", {})
        text = other.config.read_text().replace(f":{other.port}", f":{router.port}")
        other.config.write_text(text)
        result = router.cli("run", "-c", str(other.config), check=False)
        assert result.returncode == 1
        assert str(router.port) in result.stderr


def test_a_wrong_configuration_is_told_whole_and_exits_78(tmp_path: Path) -> None:
    router = RouterProcess(
        tmp_path / "router", {"a": "dicom://TOO_LONG_AE_TITLE_HERE@127.0.0.1:104"}, extra="[nodee]\nx = 1"
    )
    router.write_rules('[[rule]]\nname = "x"\nmatch = { Modalty = "CT" }\nto = ["nowhere"]\n')
    result = router.cli("run", "-c", str(router.config), check=False)
    assert result.returncode == 78
    for expected in ("router.toml:", "nodee", "TOO_LONG"):
        assert expected in result.stderr
    assert router.cli("check", "-c", str(router.config), check=False).returncode == 78
