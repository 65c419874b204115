"""Audit messages are of PS3.15 §A.5.1, whatever is put in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.audit import messages
from router.audit.messages import Message, Participant, Study, render
from tests.support.audit_schema import event_of, instances_of, validate

US = Participant("router-1", True, messages.SOURCE_ROLE, ae_title="ROUTER", address="node.hospital", is_name=True)
THEM = Participant("archive", False, messages.DESTINATION_ROLE, ae_title="PACS", address="10.0.0.9")


def message(**more: object) -> Message:
    settings: dict[str, object] = {
        "at": 1_700_000_000.25,
        "event": messages.INSTANCES_TRANSFERRED,
        "action": "R",
        "participants": (US, THEM),
    }
    return Message(**(settings | more))  # type: ignore[arg-type]


def test_a_transfer_names_both_sides_the_patient_the_study_and_how_many_of_what() -> None:
    study = Study("2.25.1", "SYNTHETIC1", "A1", {"1.2.840.10008.5.1.4.1.1.2": 20, "1.2.840.10008.5.1.4.1.1.4": 2})
    root = validate(render(message(study=study), source="router-1"))
    assert event_of(root) == "DICOM Instances Transferred"
    assert instances_of(root) == 22
    ids = {
        one.attrib["ParticipantObjectID"]: one.find("ParticipantObjectIDTypeCode")
        for one in root.findall("ParticipantObjectIdentification")
    }
    assert {name: code.attrib["csd-code"] for name, code in ids.items() if code is not None} == {
        "2.25.1": "110180",
        "SYNTHETIC1": "2",
    }
    source, destination = root.findall("ActiveParticipant")
    assert source.attrib["AlternativeUserID"] == "AETITLE=ROUTER"
    assert source.attrib["NetworkAccessPointTypeCode"] == "1", "a host name"
    assert destination.attrib["NetworkAccessPointTypeCode"] == "2", "an address"
    event = root.find("EventIdentification")
    assert event is not None
    assert event.attrib["EventDateTime"] == "2023-11-14T22:13:20.250+00:00"


@pytest.mark.parametrize("outcome", [messages.SUCCESS, messages.MINOR_FAILURE, messages.SERIOUS_FAILURE])
def test_alerts_and_activity_are_of_the_schema(outcome: int) -> None:
    validate(render(message(event=messages.SECURITY_ALERT, outcome=outcome, told="refused", node="x"), source="r"))
    activity = message(event=messages.APPLICATION_ACTIVITY, kind=messages.APPLICATION_START, participants=(US,))
    validate(render(activity, source="r"))


def test_a_study_that_nobody_named_is_unknown() -> None:
    root = validate(render(message(study=Study("", "")), source="r"))
    found = [one.attrib["ParticipantObjectID"] for one in root.findall("ParticipantObjectIdentification")]
    assert found == ["unknown", "unknown"]


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_no_text_of_a_peer_or_object_breaks_out(title: str, patient: str, accession: str, told: str) -> None:
    hostile = Participant(title, True, messages.SOURCE_ROLE, ae_title=title, address=title)
    study = Study(patient, patient, accession, {"1.2": 1})
    text = render(message(participants=(hostile, THEM), study=study, told=f"x{told}"), source="r")
    assert "\n" not in text
    root = validate(text)
    assert len(root) == 6, "nothing was added"


def test_what_xml_cannot_hold_is_replaced() -> None:
    root = validate(render(message(study=Study("1.2", "A\x00B\x1b\ud800C")), source="r"))
    assert root.findall("ParticipantObjectIdentification")[1].attrib["ParticipantObjectID"] == "A\ufffdB\ufffd\ufffdC"
