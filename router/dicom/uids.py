"""UIDs: what is a valid one, which transfer syntaxes exist, which SOP classes are not for storage, and their names.

PS3.5 §9 (UID), PS3.5 §10 and Annex A (transfer syntaxes), PS3.6 Annex A (the registry). The tables that receiving
needs are here; the full registry of names is loaded at the first question for a name. Nothing here knows of
presentation contexts.
"""

from __future__ import annotations

import difflib
import re
import uuid
from dataclasses import dataclass
from functools import lru_cache

from router._walker import valid_uid as valid_uid
from router.dicom import registry

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"


def clean(value: bytes | str) -> str:
    """A UID as peers mean it: padding of NUL or space trimmed at both ends. Bytes are read as Latin-1, so this never
    raises."""
    text = value if isinstance(value, str) else value.decode("latin-1")
    return text.strip("\0 ")


def new_uid(number: int | None = None) -> str:
    """A UID under 2.25 (PS3.5 B.2) from a 128-bit ``number``; without one, from a random UUID."""
    return f"2.25.{uuid.uuid4().int if number is None else number & (1 << 128) - 1}"


# Transfer syntaxes -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TransferSyntax:
    """How a data set is encoded (PS3.5 §10)."""

    uid: str
    name: str
    keyword: str
    explicit: bool = True
    """Explicit VR."""
    little_endian: bool = True
    deflated: bool = False
    encapsulated: bool = True
    """Pixel Data comes in fragments (PS3.5 A.4)."""


def _native(uid: str, name: str, keyword: str, **how: bool) -> TransferSyntax:
    return TransferSyntax(uid, name, keyword, encapsulated=False, **how)


_SYNTAXES = (
    _native(IMPLICIT_VR_LITTLE_ENDIAN, "Implicit VR Little Endian", "ImplicitVRLittleEndian", explicit=False),
    _native(EXPLICIT_VR_LITTLE_ENDIAN, "Explicit VR Little Endian", "ExplicitVRLittleEndian"),
    _native(EXPLICIT_VR_BIG_ENDIAN, "Explicit VR Big Endian", "ExplicitVRBigEndian", little_endian=False),
    _native(
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
        "Deflated Explicit VR Little Endian",
        "DeflatedExplicitVRLittleEndian",
        deflated=True,
    ),
    _native("1.2.840.10008.1.2.4.94", "JPIP Referenced", "JPIPReferenced"),
    _native("1.2.840.10008.1.2.4.95", "JPIP Referenced Deflate", "JPIPReferencedDeflate", deflated=True),
    _native("1.2.840.10008.1.2.4.204", "JPIP HTJ2K Referenced", "JPIPHTJ2KReferenced"),
    _native("1.2.840.10008.1.2.4.205", "JPIP HTJ2K Referenced Deflate", "JPIPHTJ2KReferencedDeflate", deflated=True),
    # GE private: implicit VR little endian but for big endian Pixel Data, so the framing is the default one.
    _native("1.2.840.113619.5.2", "GE Private Implicit VR Big Endian", "GEPrivateImplicitVRBigEndian", explicit=False),
)

_ENCAPSULATED = """
1.98 EncapsulatedUncompressedExplicitVRLittleEndian Encapsulated Uncompressed Explicit VR Little Endian
4.50 JPEGBaseline8Bit JPEG Baseline (Process 1)
4.51 JPEGExtended12Bit JPEG Extended (Process 2 and 4)
4.52 JPEGExtended35 JPEG Extended (Process 3 and 5)
4.53 JPEGSpectralSelectionNonHierarchical68 JPEG Spectral Selection, Non-Hierarchical (Process 6 and 8)
4.54 JPEGSpectralSelectionNonHierarchical79 JPEG Spectral Selection, Non-Hierarchical (Process 7 and 9)
4.55 JPEGFullProgressionNonHierarchical1012 JPEG Full Progression, Non-Hierarchical (Process 10 and 12)
4.56 JPEGFullProgressionNonHierarchical1113 JPEG Full Progression, Non-Hierarchical (Process 11 and 13)
4.57 JPEGLossless JPEG Lossless, Non-Hierarchical (Process 14)
4.58 JPEGLosslessNonHierarchical15 JPEG Lossless, Non-Hierarchical (Process 15)
4.59 JPEGExtendedHierarchical1618 JPEG Extended, Hierarchical (Process 16 and 18)
4.60 JPEGExtendedHierarchical1719 JPEG Extended, Hierarchical (Process 17 and 19)
4.61 JPEGSpectralSelectionHierarchical2022 JPEG Spectral Selection, Hierarchical (Process 20 and 22)
4.62 JPEGSpectralSelectionHierarchical2123 JPEG Spectral Selection, Hierarchical (Process 21 and 23)
4.63 JPEGFullProgressionHierarchical2426 JPEG Full Progression, Hierarchical (Process 24 and 26)
4.64 JPEGFullProgressionHierarchical2527 JPEG Full Progression, Hierarchical (Process 25 and 27)
4.65 JPEGLosslessHierarchical28 JPEG Lossless, Hierarchical (Process 28)
4.66 JPEGLosslessHierarchical29 JPEG Lossless, Hierarchical (Process 29)
4.70 JPEGLosslessSV1 JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14 [Selection Value 1])
4.80 JPEGLSLossless JPEG-LS Lossless Image Compression
4.81 JPEGLSNearLossless JPEG-LS Lossy (Near-Lossless) Image Compression
4.90 JPEG2000Lossless JPEG 2000 Image Compression (Lossless Only)
4.91 JPEG2000 JPEG 2000 Image Compression
4.92 JPEG2000MCLossless JPEG 2000 Part 2 Multi-component Image Compression (Lossless Only)
4.93 JPEG2000MC JPEG 2000 Part 2 Multi-component Image Compression
4.100 MPEG2MPML MPEG2 Main Profile / Main Level
4.100.1 MPEG2MPMLF Fragmentable MPEG2 Main Profile / Main Level
4.101 MPEG2MPHL MPEG2 Main Profile / High Level
4.101.1 MPEG2MPHLF Fragmentable MPEG2 Main Profile / High Level
4.102 MPEG4HP41 MPEG-4 AVC/H.264 High Profile / Level 4.1
4.102.1 MPEG4HP41F Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.1
4.103 MPEG4HP41BD MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1
4.103.1 MPEG4HP41BDF Fragmentable MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1
4.104 MPEG4HP422D MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video
4.104.1 MPEG4HP422DF Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video
4.105 MPEG4HP423D MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video
4.105.1 MPEG4HP423DF Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video
4.106 MPEG4HP42STEREO MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2
4.106.1 MPEG4HP42STEREOF Fragmentable MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2
4.107 HEVCMP51 HEVC/H.265 Main Profile / Level 5.1
4.108 HEVCM10P51 HEVC/H.265 Main 10 Profile / Level 5.1
4.110 JPEGXLLossless JPEG XL Lossless
4.111 JPEGXLJPEGRecompression JPEG XL JPEG Recompression
4.112 JPEGXL JPEG XL
4.201 HTJ2KLossless High-Throughput JPEG 2000 Image Compression (Lossless Only)
4.202 HTJ2KLosslessRPCL High-Throughput JPEG 2000 with RPCL Options Image Compression (Lossless Only)
4.203 HTJ2K High-Throughput JPEG 2000 Image Compression
8.1 DeflatedImageFrameCompression Deflated Image Frame Compression
5 RLELossless RLE Lossless
"""

_REGISTRY: dict[str, TransferSyntax] = {syntax.uid: syntax for syntax in _SYNTAXES}
for _line in _ENCAPSULATED.strip().splitlines():
    _suffix, _keyword, _name = _line.split(maxsplit=2)
    _uid = "1.2.840.10008.1.2." + _suffix
    _REGISTRY[_uid] = TransferSyntax(_uid, _name, _keyword)


def lookup(uid: str) -> TransferSyntax | None:
    """The transfer syntax, or None for one we do not know: its data sets are opaque to us and carried all the same."""
    return _REGISTRY.get(uid)


# SOP classes -----------------------------------------------------------------------------------------------

# SOP classes of other services (PS3.6 Annex A). One line is a prefix and the last components under it.
_NOT_STORAGE_TABLE = """
1.2.840.10008.1 1 9 40 42
1.2.840.10008.1.20 1 2
1.2.840.10008.3.1.2.1 1 4
1.2.840.10008.3.1.2.2 1
1.2.840.10008.3.1.2.3 1 2 3 4 5
1.2.840.10008.3.1.2.5 1 4 5
1.2.840.10008.3.1.2.6 1
1.2.840.10008.5.1.1 1 2 4 9 14 15 16 18 22 23 24 26 31 32 33 40
1.2.840.10008.5.1.1.4 1 2
1.2.840.10008.5.1.1.9 1
1.2.840.10008.5.1.1.16 376
1.2.840.10008.5.1.1.18 1
1.2.840.10008.5.1.1.24 1
1.2.840.10008.5.1.4.1.1.200 4 5 6
1.2.840.10008.5.1.4.1.1.201 2 3 4 5 6
1.2.840.10008.5.1.4.1.2.1 1 2 3
1.2.840.10008.5.1.4.1.2.2 1 2 3
1.2.840.10008.5.1.4.1.2.3 1 2 3
1.2.840.10008.5.1.4.1.2.4 2 3
1.2.840.10008.5.1.4.1.2.5 3
1.2.840.10008.5.1.4.20 1 2 3
1.2.840.10008.5.1.4 31 32 33 41 42
1.2.840.10008.5.1.4.32 1 2 3
1.2.840.10008.5.1.4.34 2 3 8 9
1.2.840.10008.5.1.4.34.4 1 2 3 4
1.2.840.10008.5.1.4.34.6 1 2 3 4 5
1.2.840.10008.5.1.4.37 1 2 3
1.2.840.10008.5.1.4.38 2 3 4
1.2.840.10008.5.1.4.39 2 3 4
1.2.840.10008.5.1.4.43 2 3 4
1.2.840.10008.5.1.4.44 2 3 4
1.2.840.10008.5.1.4.45 2 3 4
1.2.840.10008.10 1 2 3 4
"""

NOT_STORAGE: frozenset[str] = frozenset(
    f"{prefix}.{last}"
    for prefix, *lasts in (line.split() for line in _NOT_STORAGE_TABLE.strip().splitlines())
    for last in lasts
)


def is_storage_class(uid: str) -> bool:
    """True unless the SOP class is known to be of another service: private, retired and future classes are taken."""
    return uid not in NOT_STORAGE


# Names -----------------------------------------------------------------------------------------------------


def _squeeze(name: str) -> str:
    """Names compare without case, spaces and punctuation: "CT Image Storage" is CTImageStorage."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@lru_cache(maxsize=1)
def _names() -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """(squeezed name to UID of SOP classes, the same of transfer syntaxes, UID to keyword)."""
    classes: dict[str, str] = {}
    syntaxes: dict[str, str] = {}
    keywords: dict[str, str] = {}
    for uid, (name, kind, _, _, keyword) in registry.uids().items():
        if not keyword:
            continue
        keywords[uid] = keyword
        into = {"SOP Class": classes, "Meta SOP Class": classes, "Transfer Syntax": syntaxes}.get(kind)
        if into is not None:
            into[_squeeze(name)] = into[_squeeze(keyword)] = uid
            into[_squeeze(name.removesuffix(" SOP Class"))] = uid
    for syntax in _REGISTRY.values():
        syntaxes.setdefault(_squeeze(syntax.keyword), syntax.uid)
        syntaxes.setdefault(_squeeze(syntax.name), syntax.uid)
        keywords.setdefault(syntax.uid, syntax.keyword)
    return classes, syntaxes, keywords


def sop_class_uid(name: str) -> str | None:
    """The UID of a SOP class by keyword or name ("CTImageStorage", "CT Image Storage"), or None."""
    return _names()[0].get(_squeeze(name))


def transfer_syntax_uid(name: str) -> str | None:
    """The UID of a transfer syntax by keyword or name ("JPEG2000Lossless", "RLE Lossless"), or None."""
    return _names()[1].get(_squeeze(name))


def name_of(uid: str) -> str:
    """The keyword of a registered UID; the UID itself if it is none."""
    return _names()[2].get(uid, uid)


def suggest_sop_class(name: str) -> list[str]:
    """Keywords close to a misspelt SOP class name, best first."""
    return _suggest(name, _names()[0])


def suggest_transfer_syntax(name: str) -> list[str]:
    """Keywords close to a misspelt transfer syntax name, best first."""
    return _suggest(name, _names()[1])


def _suggest(name: str, names: dict[str, str]) -> list[str]:
    close = difflib.get_close_matches(_squeeze(name), names, n=3, cutoff=0.75)
    return list(dict.fromkeys(name_of(names[match]) for match in close))
