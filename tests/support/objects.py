"""Synthetic instances, and the sample files that pydicom's packages ship."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from router.dicom.part10 import read_part10


def synthetic(
    *,
    size: int = 16384,
    sop_instance: str | None = None,
    study: str | None = None,
    modality: str = "CT",
    seed: int = 0,
    **attributes: object,
) -> Dataset:
    """A small valid CT-like instance whose pixels make up about ``size`` bytes."""
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = sop_instance or generate_uid()
    dataset.StudyInstanceUID = study or generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.Modality = modality
    dataset.PatientID = "SYNTHETIC1"
    dataset.PatientName = "Synthetic^Patient"
    dataset.StudyDescription = "TEST"
    dataset.AccessionNumber = "A1"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    side = max(1, int((size // 2) ** 0.5))
    dataset.Rows = dataset.Columns = side
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    block = hashlib.sha256(f"{seed}{dataset.SOPInstanceUID}".encode()).digest()
    length = side * side * 2
    dataset.add_new(0x7FE00010, "OW", (block * (length // 32 + 1))[:length])
    return dataset


def encode(dataset: Dataset, *, implicit: bool = False, little: bool = True) -> bytes:
    """The data set as it goes over the wire, without file meta."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = implicit
    buffer.is_little_endian = little
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def save(dataset: Dataset, path: Path, transfer_syntax: str = ExplicitVRLittleEndian) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = UID(transfer_syntax)
    file = FileDataset(None, dataset, file_meta=meta, preamble=b"\0" * 128)
    file.save_as(path, enforce_file_format=True)
    return path


@dataclass(frozen=True)
class Sample:
    """One sample file: the data set's bytes as a sender would put them on the wire."""

    path: Path
    sop_class: str
    sop_instance: str
    transfer_syntax: str
    data: bytes


def read_sample(path: Path) -> Sample:
    with path.open("rb") as file:
        meta = read_part10(file)
        return Sample(path, meta.sop_class, meta.sop_instance, meta.transfer_syntax, file.read())


def data_set_bytes(path: Path) -> bytes:
    """What stands after the file meta of a Part 10 file."""
    return read_sample(path).data


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def received(folder: Path) -> dict[str, list[str]]:
    """SOP Instance UID to the SHA-256 of each data set found below ``folder``, in any file name but hidden ones: those
    are being written."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        if not path.name.startswith(".") and path.is_file() and path.stat().st_size > 132:
            sample = read_sample(path)
            found.setdefault(sample.sop_instance, []).append(sha256(sample.data))
    return found
