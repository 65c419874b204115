"""The audit message schema of PS3.15 §A.5.1, as far as it says what may stand where: a validator of our own writing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from datetime import datetime

ANY = re.compile(".+", re.DOTALL)
_CODED = {
    "csd-code": (True, ANY),
    "codeSystemName": (True, ANY),
    "originalText": (True, ANY),
    "displayName": (False, ANY),
}


def one_of(*texts: str) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, texts)))


@dataclass(frozen=True)
class Shape:
    """What an element may have: attributes (needed, pattern), and children in order (name, at least, at most)."""

    attributes: dict[str, tuple[bool, re.Pattern[str]]] = field(default_factory=dict)
    children: tuple[tuple[str, int, int], ...] = ()
    text: bool = False


MANY = 1 << 30
SHAPES = {
    "AuditMessage": Shape(
        children=(
            ("EventIdentification", 1, 1),
            ("ActiveParticipant", 1, MANY),
            ("AuditSourceIdentification", 1, 1),
            ("ParticipantObjectIdentification", 0, MANY),
        )
    ),
    "EventIdentification": Shape(
        attributes={
            "EventActionCode": (False, one_of("C", "R", "U", "D", "E")),
            "EventDateTime": (True, ANY),
            "EventOutcomeIndicator": (True, one_of("0", "4", "8", "12")),
        },
        children=(("EventID", 1, 1), ("EventTypeCode", 0, MANY), ("EventOutcomeDescription", 0, 1)),
    ),
    "EventID": Shape(_CODED),
    "EventTypeCode": Shape(_CODED),
    "EventOutcomeDescription": Shape(text=True),
    "ActiveParticipant": Shape(
        attributes={
            "UserID": (True, ANY),
            "AlternativeUserID": (False, ANY),
            "UserName": (False, ANY),
            "UserIsRequestor": (True, one_of("true", "false")),
            "NetworkAccessPointID": (False, ANY),
            "NetworkAccessPointTypeCode": (False, one_of("1", "2", "3", "4", "5")),
        },
        children=(("RoleIDCode", 0, MANY), ("MediaIdentifier", 0, 1)),
    ),
    "RoleIDCode": Shape(_CODED),
    "AuditSourceIdentification": Shape(
        attributes={"AuditEnterpriseSiteID": (False, ANY), "AuditSourceID": (True, ANY)},
        children=(("AuditSourceTypeCode", 0, MANY),),
    ),
    "ParticipantObjectIdentification": Shape(
        attributes={
            "ParticipantObjectID": (True, ANY),
            "ParticipantObjectTypeCode": (False, one_of("1", "2", "3", "4")),
            "ParticipantObjectTypeCodeRole": (False, re.compile("[1-9]|1[0-9]|2[0-6]")),
            "ParticipantObjectDataLifeCycle": (False, re.compile("[1-9]|1[0-5]")),
            "ParticipantObjectSensitivity": (False, ANY),
        },
        children=(
            ("ParticipantObjectIDTypeCode", 1, 1),
            ("ParticipantObjectName", 0, 1),
            ("ParticipantObjectQuery", 0, 1),
            ("ParticipantObjectDetail", 0, MANY),
            ("ParticipantObjectDescription", 0, MANY),
        ),
    ),
    "ParticipantObjectIDTypeCode": Shape(_CODED),
    "ParticipantObjectDescription": Shape(
        children=(("MPPS", 0, MANY), ("Accession", 0, MANY), ("SOPClass", 0, MANY), ("Encrypted", 0, 1))
    ),
    "Accession": Shape({"Number": (True, ANY)}),
    "SOPClass": Shape(
        {"UID": (False, re.compile("[0-9.]{1,64}")), "NumberOfInstances": (False, re.compile("[1-9][0-9]*"))}
    ),
}


def validate(xml: str) -> ET.Element:
    """The message, if it is one; raises AssertionError that says what is wrong."""
    root = ET.fromstring(xml)  # noqa: S314 (of our own making)
    assert root.tag == "AuditMessage"
    _check(root)
    moment = root.find("EventIdentification")
    assert moment is not None
    assert datetime.fromisoformat(moment.attrib["EventDateTime"]).tzinfo is not None
    patients = root.findall(".//ParticipantObjectIDTypeCode[@originalText='Patient Number']")
    assert len(patients) <= 1, "a message is about one patient"
    return root


def whole_messages(written: bytes) -> list[ET.Element]:
    """Each valid message in what was written. What a kill of the writer tore, or what is half written as yet, is none,
    also where the next message follows within its line."""
    return [validate(xml.decode()) for xml in re.findall(rb"<\?xml(?:(?!<\?xml).)*?</AuditMessage>", written)]


def _check(element: ET.Element) -> None:
    shape = SHAPES.get(element.tag)
    assert shape is not None, f"{element.tag} is no element of the schema"
    for name, value in element.attrib.items():
        assert name in shape.attributes, f"{element.tag} has no attribute {name}"
        assert shape.attributes[name][1].fullmatch(value), f"{element.tag} {name}={value!r}"
    for name, (needed, _) in shape.attributes.items():
        assert not needed or name in element.attrib, f"{element.tag} lacks {name}"
    assert shape.text or not (element.text or "").strip(), f"{element.tag} has text"
    names = [child.tag for child in element]
    order = [name for name, _, _ in shape.children]
    assert all(name in order for name in names), f"{element.tag} has {names}"
    assert names == sorted(names, key=order.index), f"{element.tag}: order of {names}"
    for name, least, most in shape.children:
        assert least <= names.count(name) <= most, f"{element.tag} has {names.count(name)} {name}"
    for child in element:
        _check(child)


def event_of(message: ET.Element) -> str:
    """Its EventID's meaning."""
    found = message.find("EventIdentification/EventID")
    assert found is not None
    return found.attrib["originalText"]


def instances_of(message: ET.Element) -> int:
    return sum(int(one.attrib["NumberOfInstances"]) for one in message.iter("SOPClass"))
