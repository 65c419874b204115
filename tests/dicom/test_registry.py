"""The registries (PS3.6), read without the package that they come in."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import datadict
from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary
from pydicom._uid_dict import UID_dictionary

from router.dicom import dictionary, registry

REPEATING = [
    int(digits.replace("x", digit), 16) for digits in RepeatersDictionary for digit in "02468aceACE13f"
]  # fmt: skip


def test_they_are_pydicoms():
    """To which other packages add some of their own."""
    assert len(registry.elements()) > 4000 and registry.elements().items() <= DicomDictionary.items()
    assert registry.repeating_elements() == RepeatersDictionary
    assert len(registry.uids()) > 400 and registry.uids().items() <= UID_dictionary.items()


@given(st.one_of(st.sampled_from(REPEATING), st.sampled_from(sorted(DicomDictionary)), st.integers(0, 0xFFFFFFFF)))
def test_an_element_is_what_pydicom_says(tag: int):
    try:
        multiplicity, keyword = datadict.dictionary_VM(tag), datadict.dictionary_keyword(tag)
    except KeyError:
        multiplicity = keyword = ""
    assert (dictionary.keyword_of(tag) or "") == keyword
    assert dictionary.is_single(tag) == (multiplicity == "1")


def test_a_router_that_looks_things_up_does_not_bring_pydicom():
    """It takes longer to import than all of the router, and as much memory as a quarter of it."""
    code = (
        "import sys, router.app.supervisor; from router.dicom import dictionary, uids;"
        "assert dictionary.tag_of('Modality') and dictionary.vr_of(0x60003000) and uids.name_of('1.2.840.10008.1.1');"
        "sys.exit('pydicom' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_registry_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch):
    registry._load.cache_clear()
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    try:
        with pytest.raises(ImportError, match="not installed, or of a version"):
            registry.elements()
    finally:
        registry._load.cache_clear()
