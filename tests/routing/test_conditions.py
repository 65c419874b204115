"""What a condition matches: a table of conditions, objects and answers."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from router.dicom import uids
from router.dicom.inspect import DatasetInspector
from router.model import Limits, Verdict
from router.routing.values import wildcard
from tests.routing.rulebook import data_set, decide, one_rule, problems_of, rules_of

CASES: list[tuple[str, dict[str, Any], bool]] = [
    # A text is equal to the whole value, capitals and all.
    ('Modality = "CT"', {"Modality": "CT"}, True),
    ('Modality = "CT"', {"Modality": "MR"}, False),
    ('StudyDescription = "chest"', {"StudyDescription": "CHEST "}, False),
    ('StudyDescription = "CHEST"', {"StudyDescription": "CHEST "}, True),
    ('StudyDescription = "CHEST"', {"StudyDescription": "CHEST CT"}, False),
    # A list is OR, several keys are AND.
    ('Modality = ["CT", "MR"]', {"Modality": "MR"}, True),
    ('Modality = ["CT", "MR"]', {"Modality": "US"}, False),
    ('Modality = "CT", PatientID = "1"', {"Modality": "CT", "PatientID": "1"}, True),
    ('Modality = "CT", PatientID = "1"', {"Modality": "CT", "PatientID": "2"}, False),
    # What is missing or empty never matches, except exists = false.
    ('Modality = "CT"', {}, False),
    ('PatientID = "*"', {"PatientID": ""}, False),
    ('PatientID = "*"', {"PatientID": "x"}, True),
    ("PatientID = { exists = true }", {"PatientID": ""}, True),
    ("PatientID = { exists = true }", {}, False),
    ("PatientID = { exists = false }", {}, True),
    ("PatientID = { exists = false }", {"PatientID": ""}, False),
    ('PatientID = { exists = true, regex = "^A" }', {"PatientID": "A1"}, True),
    ("SliceThickness = { max = 5 }", {}, False),
    ("SliceThickness = { max = 5 }", {"SliceThickness": ""}, False),
    ('PatientID = { regex = "^$" }', {"PatientID": ""}, False),
    # Wildcards stand for any characters, line breaks too; other signs are themselves.
    ('StudyDescription = "T?"', {"StudyDescription": "T2"}, True),
    ('StudyDescription = "T?"', {"StudyDescription": "T"}, False),
    ('StudyDescription = "*a.c*"', {"StudyDescription": "xabcx"}, False),
    ('StudyDescription = "*(a)[b]*x"', {"StudyDescription": "1(a)[b]2x"}, True),
    ('PatientComments = "a*b"', {"PatientComments": "a\n\nb"}, True),
    # One of several values will do, but it must fulfil the whole condition.
    ('ImageType = "LOCALIZER"', {"ImageType": "ORIGINAL\\PRIMARY\\LOCALIZER"}, True),
    ('ImageType = "ORIGINAL"', {"ImageType": "DERIVED\\PRIMARY"}, False),
    ("PixelSpacing = { min = 1, max = 2 }", {"PixelSpacing": "1.5\\9"}, True),
    ("PixelSpacing = { min = 1, max = 2 }", {"PixelSpacing": "0.5\\3"}, False),
    ('ImageType = { regex = "^P" }', {"ImageType": "ORIGINAL\\PRIMARY"}, True),
    # Numbers compare as numbers, however they are written.
    ("SeriesNumber = 5", {"SeriesNumber": "005 "}, True),
    ('SeriesNumber = "5"', {"SeriesNumber": "+5"}, True),
    ("SliceThickness = 1.5", {"SliceThickness": "1.50"}, True),
    ("SliceThickness = [1, 2]", {"SliceThickness": "2.0e0"}, True),
    ("SliceThickness = { max = 1.5 }", {"SliceThickness": "1.5"}, True),
    ("SliceThickness = { max = 1.5 }", {"SliceThickness": "10"}, False),
    ("SliceThickness = { min = 2 }", {"SliceThickness": "10"}, True),
    ("SliceThickness = { max = 5 }", {"SliceThickness": "thin"}, False),
    ("Rows = { min = 512, max = 1024 }", {"Rows": 1024}, True),
    ("Rows = 512", {"Rows": 511}, False),
    ("RecommendedDisplayFrameRate = { regex = '^1[0-9]$' }", {"RecommendedDisplayFrameRate": "15"}, True),
    # Regular expressions are found anywhere.
    ('StudyDescription = { regex = "(?i)chest|thorax" }', {"StudyDescription": "CT Thorax nativ"}, True),
    ('StudyDescription = { regex = "(?i)chest|thorax" }', {"StudyDescription": "KNEE"}, False),
    ('StudyDescription = { regex = "O.BRIEN" }', {"StudyDescription": "O'BRIEN"}, True),
    # Names by their alphabetic group, as a whole.
    ('PatientName = "Yamada^Tarou"', {"PatientName": b"Yamada^Tarou=\xd4\xcf=x"}, True),
    ('PatientName = "Yamada"', {"PatientName": "Yamada^Tarou"}, False),
    ('PatientName = "Yamada^*"', {"PatientName": "Yamada^Tarou"}, True),
    # Tags by number, private ones too: text or number, as the rule writes it.
    ('"0008,0060" = "CT"', {"Modality": "CT"}, True),
    ('"0019,10ab" = { exists = true }', {"g0019_10ab": "x"}, True),
    ('"0019,10AB" = "x"', {"g0019_10ab": "x"}, True),
    ('"0019,10ab" = 7', {"g0019_10ab": "7.0"}, True),
    ('"0019,10ab" = [7, "seven"]', {"g0019_10ab": "seven"}, True),
    ('"0019,10ab" = { min = 7 }', {"g0019_10ab": "8"}, True),
    ('"0019,10ab" = { min = 7 }', {"g0019_10ab": "six"}, False),
    # A number in single precision is what people wrote.
    ("ExaminedBodyThickness = 1.1", {"ExaminedBodyThickness": struct.pack("<f", 1.1)}, True),
    ("ExaminedBodyThickness = { max = 0.3 }", {"ExaminedBodyThickness": struct.pack("<f", 0.3)}, True),
    ("ExaminedBodyThickness = 1.2", {"ExaminedBodyThickness": struct.pack("<f", 1.1)}, False),
    # Dates within the last days; within counts whole days.
    ('StudyDate = { within = "30d" }', {"StudyDate": "20260501"}, True),
    ('StudyDate = { within = "30d" }', {"StudyDate": "20260401"}, False),
    ('StudyDate = { within = "1h" }', {"StudyDate": "20260528"}, True),
    ('StudyDate = { within = "1h" }', {"StudyDate": "20260527"}, False),
    ('StudyDate = { within = "30d" }', {"StudyDate": "20270101"}, False),
    ('StudyDate = { within = "30d" }', {"StudyDate": "2026.05.20"}, True),
    ('StudyDate = { within = "30d" }', {"StudyDate": "20269999"}, False),
    ('AcquisitionDateTime = { within = "2d" }', {"AcquisitionDateTime": "20260528101500.5-0500"}, True),
    # Dates and times in order; the bound counts to the precision it is written in.
    ('StudyDate = { min = "20260101", max = "20260131" }', {"StudyDate": "20260131"}, True),
    ('StudyDate = { min = "20260101", max = "20260131" }', {"StudyDate": "20260201"}, False),
    ("StudyDate = { min = 2026-01-01 }", {"StudyDate": "20251231"}, False),
    ("StudyDate = 2026-01-01", {"StudyDate": "20260101"}, True),
    ('StudyTime = { min = "0800", max = "1759" }', {"StudyTime": "175959.9"}, True),
    ('StudyTime = { min = "0800", max = "1759" }', {"StudyTime": "180000"}, False),
    ("StudyTime = { min = 08:00:00 }", {"StudyTime": "07:59:59"}, False),
    ('StudyTime = { max = "1200" }', {"StudyTime": ""}, False),
    ('AcquisitionDateTime = { max = "20260131" }', {"AcquisitionDateTime": "20260131235959"}, True),
    # Ages.
    ('PatientAge = { max = "018Y" }', {"PatientAge": "006M"}, True),
    ('PatientAge = { max = "018Y" }', {"PatientAge": "019Y"}, False),
    ('PatientAge = { min = "002W" }', {"PatientAge": "013D"}, False),
    ('PatientAge = { min = "002W" }', {"PatientAge": "old"}, False),
    # any, all and not nest.
    ('any = [{ Modality = "CT" }, { PatientID = "1", Modality = "MR" }]', {"Modality": "MR", "PatientID": "1"}, True),
    ('any = [{ Modality = "CT" }, { PatientID = "1", Modality = "MR" }]', {"Modality": "MR"}, False),
    ('all = [{ ImageType = "PRIMARY" }, { ImageType = "AXIAL" }]', {"ImageType": "PRIMARY\\AXIAL"}, True),
    ('all = [{ ImageType = "PRIMARY" }, { ImageType = "AXIAL" }]', {"ImageType": "PRIMARY"}, False),
    ('not = { Modality = "CT", PatientID = "1" }', {"Modality": "CT", "PatientID": "2"}, True),
    ('not = { Modality = "CT", PatientID = "1" }', {"Modality": "CT", "PatientID": "1"}, False),
    ('not = { PatientID = "*" }', {}, True),
    ('not = { not = { Modality = "CT" } }', {"Modality": "CT"}, True),
    ('not = { any = [{ Modality = "CT" }, { Modality = "MR" }] }', {"Modality": "MR"}, False),
    # SOP classes by name, as an attribute too.
    ('SOPClassUID = "CTImageStorage"', {"SOPClassUID": b"1.2.840.10008.5.1.4.1.1.2\0"}, True),
    # Sequences by path.
    ("RequestAttributesSequence = { exists = false }", {}, True),
]


@pytest.mark.parametrize(
    ("match", "values", "expected"), CASES, ids=[f"{match} of {values}" for match, values, _ in CASES]
)
def test_a_condition_of_an_attribute(match: str, values: dict[str, Any], expected: bool, tmp_path: Path) -> None:
    rules = rules_of(tmp_path, one_rule(match))
    assert (decide(rules, data_set(**values)).verdict is Verdict.ROUTE) is expected


ARRIVALS: list[tuple[str, dict[str, Any], bool]] = [
    ('CallingAET = "CT*"', {"calling_ae": "CT01"}, True),
    ('CallingAET = ["MR*", "CT01"]', {"calling_ae": "CT01"}, True),
    ('CallingAET = "ct*"', {"calling_ae": "CT01"}, False),
    ('CallingAET = { regex = "^CT[0-9]+$" }', {"calling_ae": "CT01"}, True),
    ("CallingAET = { exists = false }", {"calling_ae": ""}, True),
    ('CalledAET = "ROUTER"', {}, True),
    ('PeerAddress = "10.1.0.0/16"', {"peer_address": "10.1.2.3"}, True),
    ('PeerAddress = "10.1.0.0/16"', {"peer_address": "::ffff:10.1.2.3"}, True),
    ('PeerAddress = "10.1.0.0/16"', {"peer_address": "10.2.2.3"}, False),
    ('PeerAddress = ["10.9.9.9", "fe80::/10"]', {"peer_address": "fe80::1"}, True),
    ('PeerAddress = "10.1.*"', {"peer_address": "10.1.2.3"}, True),
    ('PeerAddress = "10.1.2.3"', {"peer_address": "elsewhere"}, False),
    ('Listener = "0.0.0.0:104"', {"listener": "0.0.0.0:104"}, True),
    ('SOPClass = "CT Image Storage"', {"sop_class": "1.2.840.10008.5.1.4.1.1.2"}, True),
    ('SOPClass = "CTImageStorage"', {"sop_class": "1.2.840.10008.5.1.4.1.1.4"}, False),
    ('SOPClass = "1.2.840.10008.5.1.4.1.1.2*"', {"sop_class": "1.2.840.10008.5.1.4.1.1.2.1"}, True),
    ('SOPClass = "1.3.46.670589.11.0.0.12.1"', {"sop_class": "1.3.46.670589.11.0.0.12.1"}, True),
    ('TransferSyntax = ["JPEG2000Lossless", "RLE Lossless"]', {"transfer_syntax": "1.2.840.10008.1.2.5"}, True),
    ('Size = { min = "1MiB" }', {"size": 1 << 20}, True),
    ('Size = { min = "1MiB" }', {"size": (1 << 20) - 1}, False),
    ('Size = { min = "1kB", max = 5000 }'.replace("kB", "KB"), {"size": 3000}, True),
    ("Size = 100", {"size": 100}, True),
]


@pytest.mark.parametrize(("match", "arrival", "expected"), ARRIVALS, ids=[f"{m} of {a}" for m, a, _ in ARRIVALS])
def test_a_condition_of_the_arrival(match: str, arrival: dict[str, Any], expected: bool, tmp_path: Path) -> None:
    assert (decide(rules_of(tmp_path, one_rule(match)), **arrival).verdict is Verdict.ROUTE) is expected


def test_text_is_decoded_with_specific_character_set_before_it_is_compared(tmp_path: Path) -> None:
    rules = rules_of(tmp_path, one_rule('StudyDescription = "Müller*", InstitutionName = { regex = "^Zürich$" }'))
    for term, codec in (("ISO_IR 100", "latin-1"), ("ISO_IR 192", "utf-8")):
        values = {
            key: text.encode(codec) for key, text in (("StudyDescription", "Müller 1"), ("InstitutionName", "Zürich"))
        }
        found = decide(rules, data_set(SpecificCharacterSet=term, **values))
        assert found.verdict is Verdict.ROUTE


def test_the_rules_say_which_attributes_they_look_at(tmp_path: Path) -> None:
    rules = rules_of(
        tmp_path,
        '[[rule]]\nname = "r"\nto = ["pacs"]\nmatch = { CallingAET = "X", any = [{ Modality = "CT" }] }\n'
        'not = { "RequestAttributesSequence.1.AccessionNumber" = "A" }',
    )
    assert rules.wanted == {(0x00080060,), (0x00400275, 1, 0x00080050)}


def simple_match(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return simple_match(pattern[1:], text) or (bool(text) and simple_match(pattern, text[1:]))
    return bool(text) and pattern[0] in ("?", text[0]) and simple_match(pattern[1:], text[1:])


@given(st.text("ab*?.^$\\é\n(", min_size=1, max_size=7), st.text("ab.^$\\é\n(", max_size=7))
def test_wildcards_mean_what_the_definition_says(pattern: str, text: str) -> None:
    assert wildcard(pattern)(text) is simple_match(pattern, text)


@pytest.mark.parametrize(
    ("rules", "verdict"),
    [
        # What cannot be read is neither yes nor no.
        ('[[rule]]\nname = "a"\nmatch = { PatientID = "1" }\nto = ["pacs"]', Verdict.HOLD),
        ('[[rule]]\nname = "a"\nnot = { PatientID = "1" }\nto = ["pacs"]', Verdict.HOLD),
        ('[[rule]]\nname = "a"\nmatch = { PatientID = { exists = false } }\nto = ["pacs"]', Verdict.HOLD),
        ('[[rule]]\nname = "a"\nmatch = { PatientID = "1" }\ndiscard = true', Verdict.HOLD),
        # Unless something else settles the matter.
        ('[[rule]]\nname = "a"\nmatch = { PatientID = "1", CallingAET = "X" }\ndiscard = true', Verdict.REJECT),
        ('[[rule]]\nname = "a"\nany = [{ PatientID = "1" }, { CallingAET = "CT*" }]\nto = ["pacs"]', Verdict.ROUTE),
        ('[[rule]]\nname = "a"\nnot = { PatientID = "1", CallingAET = "X" }\nto = ["pacs"]', Verdict.ROUTE),
        (
            '[[rule]]\nname = "a"\nto = ["pacs"]\n[[rule]]\nname = "b"\nmatch = { PatientID = "1" }\nto = ["ai"]',
            Verdict.ROUTE,
        ),
        # A rule that might have stopped the others or dropped the object: held, so that it goes nowhere wrong.
        (
            '[[rule]]\nname = "a"\nmatch = { PatientID = "1" }\nto = ["pacs"]\nfinal = true\n'
            '[[rule]]\nname = "b"\nto = ["ai"]',
            Verdict.HOLD,
        ),
        (
            '[[rule]]\nname = "a"\nmatch = { PatientID = "1" }\ndiscard = true\n[[rule]]\nname = "b"\nto = ["ai"]',
            Verdict.HOLD,
        ),
    ],
)
def test_what_cannot_be_read_goes_nowhere_wrong(rules: str, verdict: Verdict, tmp_path: Path) -> None:
    decision = decide(rules_of(tmp_path, rules, on_no_match="reject"), data_set(available=False))
    assert decision.verdict is verdict
    assert "ai" not in decision.destinations


NEVER = """
any = [
  { PatientName = "nobody*x?" },
  { PatientName = { regex = "^no.body$" } },
  { Rows = { min = 70000 } },
  { StudyDate = { within = "1d", regex = "x" } },
  { StudyDate = { max = "00010101" }, PatientID = "1" },
  { SliceThickness = { min = 3, max = 3 }, Rows = 1 },
  { PatientAge = { min = "999Y", max = "999Y" } },
  { StudyTime = { min = "235959.999999" }, PatientID = "1" },
]
"""


def test_a_number_beyond_all_measure_is_none(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, one_rule(f"Size = {'9' * 400}"))
    assert problem.endswith("must be a number")


@given(
    st.binary(max_size=40),
    st.sampled_from(["PatientName", "StudyDate", "SliceThickness", "Rows", "PatientAge", "StudyTime"]),
)
def test_no_bytes_make_a_rule_fail(data: bytes, keyword: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rules = rules_of(Path(folder), f'[[rule]]\nname = "r"\nto = ["pacs"]\n{NEVER}', failed=_fail)
    assert decide(rules, data_set(**{keyword: data, "SpecificCharacterSet": data[:8]})).rules == ()


def _fail(error: Exception) -> None:
    raise AssertionError("a rule failed") from error


@pytest.mark.parametrize("implicit", [True, False])
def test_pixel_data_exists_although_nobody_reads_it(implicit: bool, tmp_path: Path) -> None:
    rules = rules_of(
        tmp_path,
        one_rule('PixelData = { exists = true }, "RequestAttributesSequence.0.AccessionNumber" = "A1"'),
    )
    item = Dataset()
    item.AccessionNumber = "A1"
    dataset = Dataset()
    dataset.RequestAttributesSequence = [item]
    dataset.add_new(0x7FE00010, "OW", bytes(100_000))
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, dataset)
    syntax = uids.IMPLICIT_VR_LITTLE_ENDIAN if implicit else uids.EXPLICIT_VR_LITTLE_ENDIAN
    inspector = DatasetInspector(syntax, rules.wanted, Limits())
    inspector.feed(buffer.getvalue())
    assert decide(rules, inspector.finish()).verdict is Verdict.ROUTE
