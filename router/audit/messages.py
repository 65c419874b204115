"""Audit messages in the XML of PS3.15 §A.5.1. Pure: facts in, text out.

Every text that came from a peer or an object goes through escaping, and what XML cannot hold is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from xml.sax.saxutils import escape, quoteattr

DCM = "DCM"
_UNFIT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML 1.0 document may have."""


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value."""

    value: str
    meaning: str
    scheme: str = DCM


APPLICATION_ACTIVITY = Code("110100", "Application Activity")
BEGIN_TRANSFERRING = Code("110102", "Begin Transferring DICOM Instances")
INSTANCES_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
SECURITY_ALERT = Code("110113", "Security Alert")
APPLICATION_START = Code("110120", "Application Start")
APPLICATION_STOP = Code("110121", "Application Stop")
NODE_AUTHENTICATION = Code("110126", "Node Authentication")
CONFIGURATION = Code("110131", "Software Configuration")
NETWORK_ENTRY = Code("110128", "Network Entry")
USE_OF_RESTRICTED = Code("110133", "Use of Restricted Function")
APPLICATION = Code("110150", "Application")
DESTINATION_ROLE = Code("110152", "Destination Role ID")
SOURCE_ROLE = Code("110153", "Source Role ID")
STUDY_INSTANCE_UID = Code("110180", "Study Instance UID")
PATIENT_NUMBER = Code("2", "Patient Number", "RFC-3881")
NODE_ID = Code("110182", "Node ID")

SUCCESS, MINOR_FAILURE, SERIOUS_FAILURE = 0, 4, 8
"""EventOutcomeIndicator."""


@dataclass(frozen=True, slots=True)
class Participant:
    """Who took part.

    Args:
        address: An IP address, or a host name where ``is_name``.
    """

    user: str
    requestor: bool
    role: Code | None = None
    ae_title: str = ""
    address: str = ""
    is_name: bool = False


@dataclass(frozen=True, slots=True)
class Study:
    """What was transferred: of one study, so of one patient."""

    uid: str
    patient: str
    accession: str = ""
    classes: Mapping[str, int] = field(default_factory=dict)
    """SOP Class UID to the number of instances."""


@dataclass(frozen=True, slots=True)
class Message:
    at: float
    """Epoch seconds."""
    event: Code
    action: str
    """EventActionCode: C, R, U, D or E."""
    participants: tuple[Participant, ...]
    outcome: int = SUCCESS
    kind: Code | None = None
    """EventTypeCode."""
    told: str = ""
    """EventOutcomeDescription."""
    study: Study | None = None
    node: str = ""
    """What a Security Alert or an action is about."""


def render(message: Message, *, source: str) -> str:
    """The AuditMessage element, on one line.

    Args:
        source: AuditSourceID: this router's name.
    """
    parts = ['<?xml version="1.0" encoding="UTF-8"?><AuditMessage>', _event(message)]
    parts += [_participant(one) for one in message.participants]
    parts.append(_element("AuditSourceIdentification", AuditSourceID=source))
    if message.study is not None:
        parts += _study(message.study)
    if message.node:
        parts.append(_object(message.node, "2", "", NODE_ID))
    parts.append("</AuditMessage>")
    return "".join(parts)


def _event(message: Message) -> str:
    moment = datetime.fromtimestamp(message.at, UTC).isoformat(timespec="milliseconds")
    content = _code("EventID", message.event)
    if message.kind is not None:
        content += _code("EventTypeCode", message.kind)
    if message.told:
        content += _element("EventOutcomeDescription", _text(message.told))
    return _element(
        "EventIdentification",
        content,
        EventActionCode=message.action,
        EventDateTime=moment,
        EventOutcomeIndicator=str(message.outcome),
    )


def _participant(one: Participant) -> str:
    attributes = {"UserID": one.user or "unknown"}
    if one.ae_title:
        attributes["AlternativeUserID"] = f"AETITLE={one.ae_title}"
    attributes["UserIsRequestor"] = "true" if one.requestor else "false"
    if one.address:
        attributes["NetworkAccessPointID"] = one.address
        attributes["NetworkAccessPointTypeCode"] = "1" if one.is_name else "2"
    return _element("ActiveParticipant", _code("RoleIDCode", one.role) if one.role is not None else "", **attributes)


def _study(study: Study) -> list[str]:
    description = ""
    if study.accession:
        description += _element("Accession", Number=study.accession)
    for sop_class, count in study.classes.items():
        description += _element("SOPClass", UID=sop_class, NumberOfInstances=str(count))
    description = _element("ParticipantObjectDescription", description) if description else ""
    return [
        _object(study.uid or "unknown", "2", "3", STUDY_INSTANCE_UID, description),
        _object(study.patient or "unknown", "1", "1", PATIENT_NUMBER),
    ]


def _object(identity: str, kind: str, role: str, code: Code, description: str = "") -> str:
    attributes = {"ParticipantObjectID": identity, "ParticipantObjectTypeCode": kind}
    if role:
        attributes["ParticipantObjectTypeCodeRole"] = role
    return _element(
        "ParticipantObjectIdentification", _code("ParticipantObjectIDTypeCode", code) + description, **attributes
    )


def _code(name: str, code: Code) -> str:
    return _element(name, **{"csd-code": code.value, "codeSystemName": code.scheme, "originalText": code.meaning})


def _element(name: str, content: str = "", **attributes: str) -> str:
    said = "".join(f" {key}={quoteattr(_fit(value))}" for key, value in attributes.items())
    return f"<{name}{said}>{content}</{name}>" if content else f"<{name}{said}/>"


def _text(value: str) -> str:
    return escape(" ".join(_fit(value).split()))


def _fit(value: str) -> str:
    return _UNFIT.sub("\ufffd", value)
