"""The audit trail of a router as it comes: a file a day, for its owner alone, with everything in it."""

from __future__ import annotations

import json
import os
import stat
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from tests.support.audit_schema import event_of, instances_of, validate
from tests.support.objects import encode, synthetic
from tests.support.peers import wait_for
from tests.support.ports import free_port
from tests.support.router_process import RouterProcess
from tests.support.scu import RawSender

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


def trail_of(router: RouterProcess) -> list[ET.Element]:
    found = []
    for path in sorted((router.folder / "data" / "audit").glob("audit-????-??-??.log")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        written = path.read_bytes()
        # A last line that is not whole is being written.
        for line in written[: written.rfind(b"\n") + 1].splitlines():
            head, _, xml = line.partition(b"\xef\xbb\xbf")
            assert b" dicom-router " in head
            found.append(validate(xml.decode()))
    return found


def send(router: RouterProcess, count: int, patient: str) -> None:
    sender = RawSender(router.port, [(CT, EXPLICIT)], calling="CT1")
    for number in range(count):
        body = encode(synthetic(size=2000, sop_instance=f"2.25.1{number}", study="2.25.7", PatientID=patient))
        assert sender.store(CT, f"2.25.1{number}", EXPLICIT, body) == 0
    sender.release()


def told(messages: list[ET.Element], event: str) -> list[ET.Element]:
    return [message for message in messages if event_of(message) == event]


@pytest.mark.parametrize("workers", [1, 2])
def test_everything_that_matters_stands_in_the_file(tmp_path: Path, workers: int) -> None:
    router = RouterProcess(
        tmp_path / "router",
        {"archive": f"file://{tmp_path / 'archive'}"},
        workers=workers,
        extra=f'[[listen]]\nbind = "127.0.0.1:{(strict := free_port())}"\nae_titles = ["ROUTER"]\n'
        '[peers.ct1]\nae_title = "CT1"\n',
    )
    router.start()
    send(router, 20, "SYNTHETIC<&>1")
    stranger = AE(ae_title="STRANGER")
    stranger.add_requested_context(Verification)
    for _ in range(5):
        assert not stranger.associate("127.0.0.1", strict, ae_title="ROUTER").is_established
    router.post("/api/v1/destinations/archive/pause", {"reason": "a test"})
    wait_for(lambda: told(trail_of(router), "DICOM Instances Transferred"), 30, "the transfer")
    assert router.stop() == 0
    messages = trail_of(router)
    done = told(messages, "DICOM Instances Transferred")
    to_us = [one for one in done if one.findall("ActiveParticipant")[0].attrib["UserID"] == "CT1"]
    from_us = [one for one in done if one.findall("ActiveParticipant")[1].attrib["UserID"] == "archive"]
    assert (sum(map(instances_of, to_us)), sum(map(instances_of, from_us))) == (20, 20)
    patients = {one.attrib["ParticipantObjectID"] for one in done[0].findall("ParticipantObjectIdentification")}
    assert patients == {"2.25.7", "SYNTHETIC<&>1"}
    activity = [one.find("EventIdentification/EventTypeCode") for one in told(messages, "Application Activity")]
    assert [one.attrib["originalText"] for one in activity if one is not None] == [
        "Application Start",
        "Application Stop",
    ]
    alerts = [one.findtext("EventIdentification/EventOutcomeDescription") for one in told(messages, "Security Alert")]
    refused = sorted(alert for alert in alerts if alert is not None and "calling_ae" in alert)
    assert refused[0] == "refused: calling_ae"
    assert len(refused) <= 2 * workers, "a caller that knocks often is told of in sum"
    assert "pause" in alerts


def whole(router: RouterProcess) -> bool:
    """The file ends with a whole line."""
    return all(path.read_bytes().endswith(b"\n") for path in (router.folder / "data" / "audit").glob("audit-*.log"))


def changes(router: RouterProcess) -> int:
    """How often other rules came into force. What was told right before a kill may be told again after it."""
    moments = set()
    for message in trail_of(router):
        event = message.find("EventIdentification")
        assert event is not None
        if event.findtext("EventOutcomeDescription") == "rules changed":
            moments.add(event.get("EventDateTime"))
    return len(moments)


@pytest.mark.parametrize("workers", [1, 2])
def test_other_rules_are_told_of_once_also_over_a_kill_and_when_they_changed_meanwhile(
    tmp_path: Path, workers: int
) -> None:
    router = RouterProcess(tmp_path / "router", {"archive": f"file://{tmp_path / 'archive'}"}, workers=workers)
    rules = (router.folder / "rules" / "10-test.toml").read_text()
    with router:
        pass
    assert changes(router) == 0, "the first rules are no others"
    with router:
        router.write_rules(rules + "# other\n")
        router.post("/-/reload")
        before = json.loads(router.get("/api/v1/rules"))["version"]
        router.write_rules(rules + "# and other again\n")
        router.post("/-/reload")
        assert json.loads(router.get("/api/v1/rules"))["version"] != before
        router.kill()  # they are in force: it is written
    router.write_rules(rules + "# while it was down\n")
    with router:
        # What a stop finds no time to tell would be told after the next start.
        wait_for(lambda: whole(router) and changes(router) >= 3, 60, "all of it to be told")
    assert changes(router) == 3


def test_a_folder_that_cannot_be_written_delays_the_trail_and_nothing_else(tmp_path: Path) -> None:
    router = RouterProcess(tmp_path / "router", {"archive": f"file://{tmp_path / 'archive'}"})
    (router.folder / "data").mkdir(mode=0o700)
    (router.folder / "data" / "audit").touch()  # where the folder should be
    router.start()
    send(router, 3, "SYNTHETIC1")
    wait_for(lambda: router.metric("dicom_router_audit_queue_depth") >= 2, 20, "what waits to be told")
    assert "the audit trail cannot be written" in router.log.read_text()
    (router.folder / "data" / "audit").unlink()
    wait_for(lambda: router.metric("dicom_router_audit_queue_depth") == 0, 60, "all of it to be told")
    assert router.stop() == 0
    assert sum(map(instances_of, told(trail_of(router), "DICOM Instances Transferred"))) == 6


@pytest.mark.parametrize("place", ["syslog://collector:514", "syslog+tls://", "tape", "syslog+tls://a/b"])
def test_a_place_that_is_none_is_refused(tmp_path: Path, place: str) -> None:
    router = RouterProcess(tmp_path / "router", {}, extra=f'[audit]\nto = "{place}"\n')
    done = router.cli("check", "-c", str(router.config), check=False)
    assert done.returncode != 0
    assert "audit.to" in done.stdout + done.stderr
    assert "syslog+tls://collector.hospital:6514" in done.stdout + done.stderr


def test_without_a_trail_there_is_no_file(tmp_path: Path) -> None:
    router = RouterProcess(tmp_path / "router", {}, extra='[audit]\nto = "off"\n')
    router.start()
    send(router, 1, "SYNTHETIC1")
    assert router.stop() == 0
    assert not os.path.exists(router.folder / "data" / "audit")
