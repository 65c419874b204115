"""A data set is judged while it streams past, in any transfer syntax, and half an image is never whole."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dicom import uids
from router.dicom.attributes import Attributes
from router.dicom.inspect import ALWAYS, DatasetInspector
from router.errors import DatasetError
from router.model import Limits, Status
from tests.dicom.samples import BROKEN, paths, sample, samples
from tests.support.plain_dataset import BIG, EXPLICIT, IMPLICIT, Encoding
from tests.support.plain_walk import Walk

LIMITS = Limits()
WANTED = frozenset({(0x00081030,), (0x00280010,), (0x00180050,), (0x00081140, 0, 0x00081155), (0x00280009,)})


def data_set(encoding: Encoding) -> bytes:
    rows = encoding.element(0x00280010, "US", (2).to_bytes(2, "little" if encoding.little else "big"))
    return b"".join(
        (
            encoding.element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
            encoding.element(0x00080018, "UI", b"1.2.3\0"),
            encoding.element(0x00080060, "CS", b"CT"),
            encoding.element(0x0020000D, "UI", b"1.2.3.4\0"),
            rows,
            encoding.element(0x7FE00010, "OW", bytes(32)),
        )
    )


def deflated(data: bytes, level: int = 9) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    return compressor.compress(data) + compressor.flush()


def inspect(transfer_syntax: str, *pieces: bytes, limits: Limits = LIMITS) -> Attributes:
    inspector = DatasetInspector(transfer_syntax, WANTED, limits)
    for piece in pieces:
        inspector.feed(piece)
    assert inspector.size == sum(map(len, pieces))
    return inspector.finish()


def status(transfer_syntax: str, *pieces: bytes, limits: Limits = LIMITS) -> int:
    with pytest.raises(DatasetError) as refused:
        inspect(transfer_syntax, *pieces, limits=limits)
    return refused.value.status


@pytest.mark.parametrize(
    ("transfer_syntax", "data"),
    [
        (uids.IMPLICIT_VR_LITTLE_ENDIAN, data_set(IMPLICIT)),
        (uids.EXPLICIT_VR_LITTLE_ENDIAN, data_set(EXPLICIT)),
        (uids.EXPLICIT_VR_BIG_ENDIAN, data_set(BIG)),
        (uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, deflated(data_set(EXPLICIT))),
    ],
    ids=["implicit", "explicit", "big endian", "deflated"],
)
class TestTransferSyntaxes:
    def test_attributes(self, transfer_syntax, data):
        attributes = inspect(transfer_syntax, data)
        assert attributes.available
        assert not attributes.has_meta
        assert attributes.texts((0x00080018,)) == ("1.2.3",)
        assert attributes.texts((0x00080060,)) == ("CT",)
        assert attributes.numbers((0x00280010,)) == (2,)
        assert attributes.texts((0x00100020,)) is None

    def test_byte_by_byte(self, transfer_syntax, data):
        attributes = inspect(transfer_syntax, *(data[i : i + 1] for i in range(len(data))))
        assert attributes.texts((0x0020000D,)) == ("1.2.3.4",)

    def test_a_data_set_without_its_last_byte_is_refused(self, transfer_syntax, data):
        assert status(transfer_syntax, data[:-1]) == Status.FRAMING_ERROR


def test_an_unknown_transfer_syntax_is_opaque():
    attributes = inspect("1.2.3.4", b"anything at all")
    assert not attributes.available
    assert attributes.texts((0x00080018,)) is None


def test_nothing_raises_while_data_comes():
    inspector = DatasetInspector(uids.EXPLICIT_VR_LITTLE_ENDIAN, WANTED, LIMITS)
    inspector.feed(EXPLICIT.item(b"") * 3)
    first = inspector.error
    assert first is not None
    inspector.feed(bytes(100))
    assert inspector.error is first
    assert inspector.size == 124
    with pytest.raises(DatasetError) as refused:
        inspector.finish()
    assert refused.value is first


def test_a_data_set_that_begins_with_group_0002():
    meta = EXPLICIT.element(0x00020010, "UI", b"1.2.840.10008.1.2\0")
    inspector = DatasetInspector(uids.IMPLICIT_VR_LITTLE_ENDIAN, WANTED, LIMITS)
    inspector.feed(meta + data_set(IMPLICIT))
    assert inspector.has_meta
    attributes = inspector.finish()
    assert attributes.has_meta
    assert attributes.texts((0x00080018,)) == ("1.2.3",)


def test_limits_are_those_of_the_configuration():
    tight = replace(LIMITS, sequence_depth=1, elements=6, header_bytes=20)
    sequence = EXPLICIT.sequence(0x00400275, EXPLICIT.item(EXPLICIT.sequence(0x00081140)))
    assert status(uids.EXPLICIT_VR_LITTLE_ENDIAN, sequence, limits=tight) == Status.NESTED_TOO_DEEP
    many = EXPLICIT.element(0x00191010, "SH", b"") * 7
    assert status(uids.EXPLICIT_VR_LITTLE_ENDIAN, many, limits=tight) == Status.TOO_MANY_ELEMENTS
    attributes = inspect(uids.EXPLICIT_VR_LITTLE_ENDIAN, data_set(EXPLICIT), limits=tight)
    assert not attributes.available


# Deflated --------------------------------------------------------------------------------------------------

DEFLATED = uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN


def test_one_nul_may_follow_a_deflated_data_set():
    data = deflated(data_set(EXPLICIT))
    assert inspect(DEFLATED, data + b"\0").available
    assert inspect(DEFLATED, data, b"\0").available


def test_a_gzip_trailer_is_taken_but_nothing_longer():
    data = deflated(data_set(EXPLICIT))
    assert inspect(DEFLATED, data + b"CRC_SIZE" + b"\0").available
    assert inspect(DEFLATED, data, b"CRC_", b"SIZE").available
    assert status(DEFLATED, data + bytes(10)) == Status.FRAMING_ERROR
    assert status(DEFLATED, data, bytes(5), bytes(5)) == Status.FRAMING_ERROR


def test_damaged_deflate_is_refused():
    data = bytearray(deflated(data_set(EXPLICIT)))
    data[:4] = b"\xff\xff\xff\xff"
    assert status(DEFLATED, bytes(data)) == Status.FRAMING_ERROR


def test_a_deflated_data_set_cut_anywhere_is_refused():
    data = deflated(data_set(EXPLICIT))
    for end in range(len(data)):
        assert status(DEFLATED, data[:end]) == Status.FRAMING_ERROR


def test_broken_framing_inside_of_deflate_is_refused():
    assert status(DEFLATED, deflated(data_set(EXPLICIT)[:-1])) == Status.FRAMING_ERROR


def test_inflating_stops_at_its_ratio():
    zeros = EXPLICIT.element(0x00191010, "OB", bytes(1 << 20)) * 4
    attributes = inspect(DEFLATED, deflated(data_set(EXPLICIT)[:-44] + zeros + data_set(EXPLICIT)[-44:]))
    assert not attributes.available
    assert attributes.texts((0x00080018,)) == ("1.2.3",)


def test_inflating_stops_at_its_limit():
    limits = replace(LIMITS, header_bytes=100_000, inflate_ratio=1 << 20)
    values = EXPLICIT.element(0x00191010, "OB", bytes(range(256)) * 1000)
    assert not inspect(DEFLATED, deflated(values * 4), limits=limits).available


def test_attributes_are_whole_when_inflating_stops_within_pixel_data():
    data = data_set(EXPLICIT)[:-44] + EXPLICIT.element(0x7FE00010, "OW", bytes(4 << 20))
    attributes = inspect(DEFLATED, deflated(data))
    assert attributes.available
    assert attributes.texts((0x0020000D,)) == ("1.2.3.4",)


# Samples ---------------------------------------------------------------------------------------------------


def test_every_sample_is_whole_but_the_truncated_ones():
    refused = set()
    for name, meta, data in samples():
        try:
            inspect(meta.transfer_syntax, data)
        except DatasetError as error:
            assert error.status == Status.FRAMING_ERROR
            refused.add(name)
    assert len(samples()) > 100
    assert refused <= BROKEN


def test_every_sample_gives_what_the_plain_walk_gives():
    for name, meta, data in samples():
        syntax = uids.lookup(meta.transfer_syntax)
        if syntax is None or syntax.deflated or name in BROKEN:
            continue
        walk = Walk(syntax.explicit, syntax.little_endian, ALWAYS | WANTED)
        walk.walk(data)
        inspector = DatasetInspector(meta.transfer_syntax, WANTED, LIMITS)
        for start in range(0, len(data), 1000):
            inspector.feed(memoryview(data)[start : start + 1000])
        values: Any = inspector.finish()._values
        assert values == walk.values, name


COMPARED = ("SOPClassUID", "SOPInstanceUID", "Modality", "StudyInstanceUID", "PatientID", "AccessionNumber", "Rows")


def test_every_sample_reads_as_pydicom_reads_it():
    wanted = frozenset((pydicom.datadict.tag_for_keyword(keyword),) for keyword in COMPARED)
    for name, meta, data in samples():
        if name in BROKEN:
            continue
        inspector = DatasetInspector(meta.transfer_syntax, wanted, LIMITS)
        inspector.feed(data)
        attributes = inspector.finish()
        path = paths()[name]
        expected = pydicom.dcmread(path, stop_before_pixels=True)
        for keyword in COMPARED:
            tag = pydicom.datadict.tag_for_keyword(keyword)
            assert tag is not None
            value = expected.get(keyword)
            if keyword not in expected:
                assert attributes.texts((tag,)) is None, (path.name, keyword)
            elif value is None or str(value).strip() == "":
                assert attributes.texts((tag,)) == (), (path.name, keyword)
            else:
                assert attributes.texts((tag,)) == (str(value).strip(),), (path.name, keyword)


SMALL = ["CT_small.dcm", "MR_small_bigendian.dcm", "rtplan.dcm", "JPEG2000.dcm", "nested_priv_SQ.dcm", "test-SR.dcm"]


@pytest.mark.parametrize("name", SMALL)
def test_samples_cut_short_are_refused_unless_cut_between_elements(name):
    meta, data = sample(name)
    syntax = uids.lookup(meta.transfer_syntax)
    assert syntax is not None
    between = element_ends(data, syntax.explicit, syntax.little_endian)
    step = max(1, len(data) // 3000)
    for end in sorted({*range(min(len(data), 4000)), *range(0, len(data), step), *between}):
        inspector = DatasetInspector(meta.transfer_syntax, WANTED, LIMITS)
        inspector.feed(memoryview(data)[:end])
        if end in between:
            inspector.finish()
        else:
            with pytest.raises(DatasetError):
                inspector.finish()


def element_ends(data: bytes, explicit: bool, little_endian: bool) -> set[int]:
    """Where an element of the data set itself ends: after those a data set may end."""

    class Ends(Walk):
        def element(self, level: Any) -> None:
            if len(self.levels) == 1:
                ends.add(self.at)
            super().element(level)

    ends: set[int] = set()
    Ends(explicit, little_endian).walk(data)
    return ends | {len(data)}


@pytest.mark.parametrize("name", SMALL)
def test_samples_cut_into_two_buffers_anywhere(name):
    meta, data = sample(name)
    expected: Any = inspect(meta.transfer_syntax, data)
    step = max(1, len(data) // 1000)
    for cut in range(0, len(data), step):
        found: Any = inspect(meta.transfer_syntax, data[:cut], data[cut:])
        assert found._values == expected._values


@given(
    damage=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4),
    name=st.sampled_from(SMALL),
)
def test_damaged_samples_are_judged_alike(damage, name):
    meta, original = sample(name)
    data = bytearray(original)
    for at, byte in damage:
        data[at % len(data)] = byte
    syntax = uids.lookup(meta.transfer_syntax)
    assert syntax is not None
    walk = Walk(syntax.explicit, syntax.little_endian, ALWAYS | WANTED)
    refused = None
    try:
        walk.walk(bytes(data))
    except DatasetError as error:
        refused = error.status
    inspector = DatasetInspector(meta.transfer_syntax, WANTED, LIMITS)
    inspector.feed(data)
    try:
        found: Any = inspector.finish()
    except DatasetError as error:
        assert error.status == refused
    else:
        assert refused is None
        assert found._values == walk.values


def test_the_head_is_known_once_pixel_data_begins() -> None:
    data = data_set(EXPLICIT)
    inspector = DatasetInspector("1.2.840.10008.1.2.1", WANTED, LIMITS)
    inspector.feed(data[:-44])  # up to the header of Pixel Data
    assert inspector.head() is None
    inspector.feed(data[-44:-10])
    head = inspector.head()
    assert head is not None
    assert head.texts((0x00080018,)) == ("1.2.3",)
    inspector.feed(data[-10:])
    assert inspector.head_was_all
    inspector.finish()


def test_what_is_collected_behind_the_pixels_is_told() -> None:
    inspector = DatasetInspector("1.2.840.10008.1.2.1", WANTED | {(0xFFFCFFFC,)}, LIMITS)
    inspector.feed(data_set(EXPLICIT))
    assert inspector.head() is not None
    inspector.feed(EXPLICIT.element(0x00081030, "LO", b"LATE"))
    assert not inspector.head_was_all


@pytest.mark.parametrize("transfer_syntax", ["1.2.840.10008.1.2.1.99", "1.2.3.4"])
def test_of_what_cannot_be_walked_no_head_is_known(transfer_syntax: str) -> None:
    inspector = DatasetInspector(transfer_syntax, WANTED, LIMITS)
    inspector.feed(deflated(data_set(EXPLICIT)))
    assert inspector.head() is None
