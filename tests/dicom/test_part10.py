"""The head of Part 10 files, written and read (PS3.10 §7.1)."""

from __future__ import annotations

import io

import pydicom
import pytest

from router import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from router.dicom.part10 import file_meta, read_part10
from router.errors import DatasetError
from router.model import InstanceInfo, Origin, Status
from tests.dicom.samples import paths
from tests.support.plain_dataset import EXPLICIT


def instance(calling_ae: str = "CT1", sop_instance: str = "1.2.3") -> InstanceInfo:
    origin = Origin(listener="0.0.0.0:11112", peer="ct1", calling_ae=calling_ae, called_ae="ROUTER", address="10.0.0.1")
    return InstanceInfo(
        id=1,
        sop_class="1.2.840.10008.5.1.4.1.1.2",
        sop_instance=sop_instance,
        transfer_syntax="1.2.840.10008.1.2.1",
        origin=origin,
        received=0.0,
        size=0,
        checksum=bytes(16),
    )


def test_pydicom_reads_what_is_written():
    data = EXPLICIT.element(0x00080060, "CS", b"CT")
    read = pydicom.dcmread(io.BytesIO(file_meta(instance()) + data))
    meta = read.file_meta
    assert meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == IMPLEMENTATION_VERSION_NAME
    assert meta.SourceApplicationEntityTitle == "CT1"
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.FileMetaInformationGroupLength == len(file_meta(instance())) - 144
    assert read.Modality == "CT"


def test_every_element_is_even():
    assert len(file_meta(instance("A", "1.2.34"))) % 2 == 0
    assert len(file_meta(instance("AB", "1.2.345"))) % 2 == 0


def test_a_strange_calling_ae_title_does_not_matter():
    for calling in ("", "ÄÖ", "\u4e2d", "X" * 40):
        assert read_part10(io.BytesIO(file_meta(instance(calling)))).sop_instance == "1.2.3"


def test_what_is_written_is_read_back():
    head = file_meta(instance())
    file = io.BytesIO(head + b"data set")
    meta = read_part10(file)
    assert (meta.sop_class, meta.sop_instance) == ("1.2.840.10008.5.1.4.1.1.2", "1.2.3")
    assert (meta.transfer_syntax, meta.calling_ae) == ("1.2.840.10008.1.2.1", "CT1")
    assert meta.data_offset == len(head)
    assert file.read() == b"data set"


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_bigendian.dcm", "rtplan.dcm", "JPEG2000.dcm", "image_dfl.dcm"]
)
def test_sample_files_are_read_as_pydicom_reads_them(name):
    path = paths()[name]
    expected = pydicom.dcmread(path, stop_before_pixels=True).file_meta
    with path.open("rb") as file:
        meta = read_part10(file)
        assert file.tell() == meta.data_offset
    assert meta.sop_class == expected.MediaStorageSOPClassUID
    assert meta.sop_instance == expected.MediaStorageSOPInstanceUID
    assert meta.transfer_syntax == expected.TransferSyntaxUID


@pytest.mark.parametrize("data", [b"", b"DICM", bytes(132), b"\x08\0\5\0CS\x0a\0ISO_IR 100"])
def test_what_is_no_part_10_file_is_refused(data):
    with pytest.raises(DatasetError) as refused:
        read_part10(io.BytesIO(data))
    assert refused.value.status == Status.CANNOT_UNDERSTAND


def test_meta_information_cut_anywhere_never_runs_into_the_data():
    head = file_meta(instance())
    for end in range(132, len(head)):
        try:
            meta = read_part10(io.BytesIO(head[:end]))
        except DatasetError as error:
            assert error.status == Status.CANNOT_UNDERSTAND
        else:
            assert meta.data_offset <= end


def test_an_enormous_meta_element_is_refused():
    head = file_meta(instance())[:132] + EXPLICIT.header(0x00020102, "OB", 0xFFFFFFF0)
    with pytest.raises(DatasetError, match="too long"):
        read_part10(io.BytesIO(head))


def test_without_a_transfer_syntax_it_is_the_default():
    assert read_part10(io.BytesIO(bytes(128) + b"DICM")).transfer_syntax == "1.2.840.10008.1.2"
