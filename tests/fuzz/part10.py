"""The head of a Part 10 file (PS3.10 §7.1): read or refused, never further than there is, and as pydicom reads it."""

from __future__ import annotations

from io import BytesIO

from pydicom.dataelem import RawDataElement
from pydicom.filereader import data_element_generator

from router.dicom.part10 import read_part10
from router.errors import DatasetError
from tests.support.plain_walk import LONG, SHORT

PREFIX = bytes(128) + b"DICM"
NAMES = {2: "sop_class", 3: "sop_instance", 0x10: "transfer_syntax", 0x16: "calling_ae"}


def check(data: bytes) -> None:
    """The input is what follows the preamble and ``DICM``."""
    file = BytesIO(PREFIX + data)
    try:
        meta = read_part10(file)
    except DatasetError:
        return
    assert 132 <= meta.data_offset <= 132 + len(data)
    assert file.tell() == meta.data_offset
    assert data[meta.data_offset - 132 :][:2] != b"\2\0" or len(data) - (meta.data_offset - 132) < 8
    theirs: dict[int, str] = {}
    for element in data_element_generator(BytesIO(data[: meta.data_offset - 132]), False, True):
        if (
            not isinstance(element, RawDataElement)
            or element.length == 0xFFFFFFFF
            or str(element.VR) not in SHORT | LONG
        ):
            return  # what pydicom guesses there is another guess
        theirs[int(element.tag) & 0xFFFF] = (element.value or b"").decode("latin-1").strip("\0 ")
    for element_number, name in NAMES.items():
        if element_number in theirs:
            assert getattr(meta, name) == theirs[element_number]
