"""Keywords, tags and VRs (PS3.6 §6)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom._dicom_dict import DicomDictionary

import router
from router.dicom import dictionary


def test_keyword_and_tag():
    assert dictionary.tag_of("Modality") == 0x00080060
    assert dictionary.keyword_of(0x00080060) == "Modality"
    assert dictionary.tag_of("Modalty") is None
    assert dictionary.keyword_of(0x00191001) is None


@pytest.mark.parametrize(
    ("tag", "vr"),
    [
        (0x00080060, "CS"),
        (0x00400275, "SQ"),
        (0x00280106, "US"),  # US or SS
        (0x7FE00010, "OB"),  # OB or OW
        (0x60003000, "OB"),  # repeating group 60xx
        (0x60023000, "OB"),
        (0x00080000, "UL"),  # group length
        (0x00190010, "LO"),  # private creator
        (0x00191001, None),
    ],
)
def test_vr(tag, vr):
    assert dictionary.vr_of(tag) == vr


@pytest.mark.parametrize("text", ["0019,10ab", "(0019,10AB)", "0019, 10ab", "001910ab", " 0019,10ab "])
def test_tags_as_people_write_them(text):
    assert dictionary.parse_tag(text) == 0x001910AB


@pytest.mark.parametrize("text", ["", "Modality", "0019", "0019,10a", "0019,10abc", "0019,10gg"])
def test_what_is_no_tag(text):
    assert dictionary.parse_tag(text) is None


def test_tags_are_printed_as_they_are_read():
    assert dictionary.format_tag(0x001910AB) == "0019,10ab"
    assert dictionary.parse_tag(dictionary.format_tag(0xFFFCFFFC)) == 0xFFFCFFFC


@pytest.mark.parametrize(
    ("wrong", "right"), [("Modalty", "Modality"), ("modality", "Modality"), ("PatientId", "PatientID")]
)
def test_did_you_mean(wrong, right):
    assert dictionary.suggestions(wrong)[0] == right


def test_nothing_is_suggested_for_nonsense():
    assert dictionary.suggestions("qqqqqqqqqq") == []


def test_the_dictionary_is_not_loaded_by_importing_it():
    code = "import sys, router.dicom.dictionary, router.dicom.inspect; sys.exit('pydicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_walkers_table_of_sequences_is_the_dictionarys():
    text = (Path(router.__file__).parent / "_sequence_tags.pxi").read_text()
    table = [int(number, 16) for number in re.findall(r"0x([0-9A-F]{8})", text)]
    assert table == sorted(set(table))
    assert f"SEQUENCE_TAG_COUNT = {len(table)}" in text
    # A newer dictionary may have more of them; none of ours may be anything else.
    assert {DicomDictionary[tag][0] for tag in table if tag in DicomDictionary} == {"SQ"}
    assert len(table) > 1200


def test_only_what_the_dictionary_gives_one_value_is_single():
    assert dictionary.is_single(0x00080060)
    assert not dictionary.is_single(0x00080008)
    assert not dictionary.is_single(0x001910AB)
