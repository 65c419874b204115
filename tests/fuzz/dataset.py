"""The data set walker (PS3.5 §7) against its plain reference and pydicom: one verdict, one position, the same values.

The walker under small limits and large, fed as the network cuts it; the inspector around it, with the data set deflated
too; and the values, which rules and people may ask for whatever the peer made of them.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from io import BytesIO
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.filereader import data_element_generator

from router._walker import ElementWalker
from router.dicom.attributes import Attributes, Path
from router.dicom.inspect import ALWAYS, DatasetInspector
from router.errors import DatasetError
from router.model import Limits
from tests.fuzz.inputs import chosen, pieces, split
from tests.support.plain_walk import LONG, SHORT, Walk

SYNTAXES = (
    ("1.2.840.10008.1.2.1", True, True),
    ("1.2.840.10008.1.2", False, True),
    ("1.2.840.10008.1.2.2", True, False),
)
DEFLATED = "1.2.840.10008.1.2.1.99"
LIMITS = (
    {"max_depth": 64, "max_elements": 200_000, "max_header_bytes": 8 << 20},
    {"max_depth": 2, "max_elements": 12, "max_header_bytes": 100},
    {"max_depth": 0, "max_elements": 3, "max_header_bytes": 8 << 20},
)
SEQUENCE = 0x00400275
WANTED: frozenset[Path] = ALWAYS | {
    (0x00080008,),
    (0x00100010,),
    (0x00280010,),
    (0x00191001,),
    (SEQUENCE,),
    (SEQUENCE, 0, 0x00080050),
    (SEQUENCE, 1, 0x00080050),
    (SEQUENCE, 0, SEQUENCE, 0, 0x00400007),
    (0x7FE00010,),
}


def check(data: bytes) -> None:
    """Options: transfer syntax and limits, cuts."""
    options, stream = split(data, 2)
    uid, explicit, little = chosen(SYNTAXES, options[0])
    limits = LIMITS[options[0] // 3 % len(LIMITS)]
    walk = Walk(explicit, little, WANTED, **limits)
    expected = judged(lambda: walk.walk(stream), walk)
    for cut in {0, options[1]}:
        walker = ElementWalker(explicit=explicit, little_endian=little, wanted=WANTED, **limits)
        assert judged(lambda walker=walker, cut=cut: fed(walker, pieces(stream, cut)), walker) == expected  # type: ignore[misc]
        if not isinstance(expected, int):
            assert walker.position == len(stream)
    inspected(uid, stream, options[1], limits, expected)
    if isinstance(expected, int):
        return
    asked(Attributes(walk.values, little_endian=little))
    if limits is LIMITS[0] and not walk.has_meta and bool(walker.explicit) == explicit:
        as_pydicom_reads(stream, explicit, little)


def fed(walker: ElementWalker, stream: list[bytes]) -> None:
    for piece in stream:
        walker.feed(piece)
    walker.finish()


def judged(walk: Any, walker: Any) -> Any:
    """What was collected, or the status that the data set is refused with."""
    try:
        walk()
    except DatasetError as error:
        return int(error.status)
    return walker.values, walker.unavailable, bool(walker.truncated), bool(walker.has_meta)


def inspected(uid: str, stream: bytes, cut: int, limits: dict[str, int], expected: Any) -> None:
    """The inspector says what the walker says, of the deflated data set too."""
    deflate = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = deflate.compress(stream) + deflate.flush()
    ways = [(uid, stream), *([(DEFLATED, deflated)] if uid == SYNTAXES[0][0] else [])]
    for syntax, encoded in ways:
        inspector = DatasetInspector(
            syntax,
            WANTED,
            Limits(
                sequence_depth=limits["max_depth"],
                elements=limits["max_elements"],
                header_bytes=limits["max_header_bytes"],
            ),
        )
        for piece in pieces(encoded, cut):
            inspector.feed(piece)
            inspector.head()
        try:
            attributes = inspector.finish()
        except DatasetError as error:
            assert int(error.status) == expected
            continue
        if syntax == DEFLATED and len(stream) > limits["max_header_bytes"]:
            continue  # what is past the limit is not inflated
        assert not isinstance(expected, int)
        assert attributes._values == expected[0]
        assert attributes.available is not expected[2]


def asked(attributes: Attributes) -> None:
    """Any value can be asked for as text and as numbers."""
    firsts = attributes.firsts(sorted(WANTED))
    for path, first in zip(sorted(WANTED), firsts, strict=True):
        texts, numbers = attributes.texts(path), attributes.numbers(path)
        assert first == next(iter(texts or ()), "")
        assert (texts is None) == (numbers is None)
        assert (attributes.seen(path) is True) == (texts is not None)


def as_pydicom_reads(stream: bytes, explicit: bool, little: bool) -> None:
    """Each element up to the first of undefined length is where pydicom finds it."""
    theirs: dict[Path, bytes] = {}
    with suppress(
        LookupError, ValueError
    ):  # pydicom looks into values meanwhile: a character set that it does not know
        for element in data_element_generator(BytesIO(stream), not explicit, little):
            if not isinstance(element, RawDataElement) or element.length == 0xFFFFFFFF:
                break
            if explicit and (element.VR is None or str(element.VR) not in SHORT | LONG):
                break  # what pydicom guesses there is another guess
            theirs.setdefault((int(element.tag),), element.value or b"")
    walker = ElementWalker(explicit=explicit, little_endian=little, wanted=frozenset(theirs))
    walker.feed(stream)
    walker.finish()
    values = {path: value for path, (vr, value) in walker.values.items() if vr != "SQ"}
    sequences = {path for path, (vr, _) in walker.values.items() if vr == "SQ"}
    assert values == {path: value for path, value in theirs.items() if path not in sequences}
