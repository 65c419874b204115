"""UIDs, transfer syntaxes and SOP classes (PS3.5 §9, PS3.6 Annex A)."""

from __future__ import annotations

import re

import pynetdicom  # noqa: F401 (adds the newest transfer syntaxes to the dictionary that the test compares with)
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom._uid_dict import UID_dictionary

from router.dicom import uids


@pytest.mark.parametrize("uid", ["1", "0.0", "1.2.840.10008.1.2", "2.25." + "9" * 39, "1." * 31 + "12", "1.02.3"])
def test_valid_uids(uid):
    assert uids.valid_uid(uid)


@pytest.mark.parametrize(
    "uid",
    ["", ".", "..", "1.", ".1", "1..2", "1.2a", "1.2 ", "1.2\0", "1.2\n", "../x", "1,2", "1.٣", "1" * 65, "-1.2"],
)
def test_invalid_uids(uid):
    assert not uids.valid_uid(uid)


@given(st.one_of(st.text("019. a\u0661", max_size=8), st.text("1.", min_size=60, max_size=67)))
def test_a_uid_is_digits_with_single_dots_between_them(text):
    assert uids.valid_uid(text) == (len(text) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)*", text) is not None)


def test_cleaning_trims_nul_and_space_and_never_raises():
    assert uids.clean(b"1.2.3\0") == "1.2.3"
    assert uids.clean(b" 1.2.3  \0\0") == "1.2.3"
    assert uids.clean("1.2.3\0") == "1.2.3"
    assert uids.clean(b"\xff\xfe") == "ÿþ"


def test_new_uids():
    assert uids.new_uid(7) == "2.25.7"
    assert uids.valid_uid(uids.new_uid((1 << 128) - 1))
    assert uids.new_uid() != uids.new_uid()
    assert uids.valid_uid(uids.new_uid())


@pytest.mark.parametrize(
    ("uid", "explicit", "little_endian", "deflated", "encapsulated"),
    [
        ("1.2.840.10008.1.2", False, True, False, False),
        ("1.2.840.10008.1.2.1", True, True, False, False),
        ("1.2.840.10008.1.2.2", True, False, False, False),
        ("1.2.840.10008.1.2.1.99", True, True, True, False),
        ("1.2.840.10008.1.2.1.98", True, True, False, True),
        ("1.2.840.10008.1.2.4.90", True, True, False, True),
        ("1.2.840.10008.1.2.4.95", True, True, True, False),
        ("1.2.840.10008.1.2.5", True, True, False, True),
        ("1.2.840.113619.5.2", False, True, False, False),
    ],
)
def test_transfer_syntaxes(uid, explicit, little_endian, deflated, encapsulated):
    syntax = uids.lookup(uid)
    assert syntax is not None
    assert (syntax.explicit, syntax.little_endian) == (explicit, little_endian)
    assert (syntax.deflated, syntax.encapsulated) == (deflated, encapsulated)


def test_an_unknown_transfer_syntax_is_none():
    assert uids.lookup("1.2.3.4") is None


def test_the_registry_agrees_with_the_standard():
    # Left out on purpose: no data set of ours can be in them.
    strange = ("1.2.840.10008.1.2.6.1", "1.2.840.10008.1.2.6.2", "1.2.840.10008.1.20")
    for uid, (name, kind, _, _, keyword) in UID_dictionary.items():
        if kind != "Transfer Syntax" or uid in strange or uid.startswith("1.2.840.10008.1.2.7."):
            continue
        syntax = uids.lookup(uid)
        assert syntax is not None, name
        assert (syntax.keyword, syntax.name) == (keyword, name)


@pytest.mark.parametrize(
    "uid",
    ["1.2.840.10008.1.1", "1.2.840.10008.1.20.1", "1.2.840.10008.5.1.4.31", "1.2.840.10008.5.1.4.1.2.2.1"],
)
def test_classes_of_other_services_are_no_storage(uid):
    assert not uids.is_storage_class(uid)


@pytest.mark.parametrize(
    "uid", ["1.2.840.10008.5.1.4.1.1.2", "1.3.46.670589.11.0.0.12.1", "1.2.840.10008.5.1.4.1.1.999"]
)
def test_storage_private_and_future_classes_are_taken(uid):
    assert uids.is_storage_class(uid)


def test_no_storage_class_of_the_standard_is_left_out():
    for uid, (name, kind, *_) in UID_dictionary.items():
        if kind in ("SOP Class", "Meta SOP Class") and name and "Commitment" not in name:
            assert uids.is_storage_class(uid) == ("Storage" in name), name


@pytest.mark.parametrize("name", ["CTImageStorage", "CT Image Storage", "ct image storage"])
def test_sop_classes_by_name(name):
    assert uids.sop_class_uid(name) == "1.2.840.10008.5.1.4.1.1.2"


def test_names_that_end_in_sop_class_may_leave_it_out():
    assert uids.sop_class_uid("Verification") == uids.sop_class_uid("Verification SOP Class") == uids.VERIFICATION


def test_transfer_syntaxes_by_name():
    assert uids.transfer_syntax_uid("JPEG2000Lossless") == "1.2.840.10008.1.2.4.90"
    assert uids.transfer_syntax_uid("RLE Lossless") == "1.2.840.10008.1.2.5"
    assert uids.transfer_syntax_uid("GEPrivateImplicitVRBigEndian") == "1.2.840.113619.5.2"


def test_a_name_of_the_other_kind_is_unknown():
    assert uids.sop_class_uid("RLELossless") is None
    assert uids.transfer_syntax_uid("CTImageStorage") is None


def test_names_of_uids():
    assert uids.name_of("1.2.840.10008.5.1.4.1.1.4") == "MRImageStorage"
    assert uids.name_of("1.2.3.4") == "1.2.3.4"


def test_did_you_mean():
    assert uids.suggest_sop_class("CTImgeStorage")[0] == "CTImageStorage"
    assert uids.suggest_transfer_syntax("JPEG2000Losless")[0] == "JPEG2000Lossless"
    assert uids.suggest_sop_class("zzzzzz") == []
