"""The inputs that fuzzing begins with, named by what they are, synthetic or from pydicom's samples without pixels.

    python -m tests.fuzz.seeds

writes them into the corpora; what a fuzzer found is beside them, named by its hash.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

from tests.dicom.samples import paths
from tests.fuzz.targets import CORPORA, TARGETS
from tests.fuzz.values import VRS
from tests.support.plain_command import encode_c_echo_rq, encode_c_store_rq, encode_response, parse_command
from tests.support.plain_dataset import BIG, EXPLICIT, IMPLICIT, UNDEFINED, Encoding
from tests.ul.bench import (
    APPLICATION_ITEM,
    CONTEXT_ITEM,
    CT,
    RELEASE_RP,
    RELEASE_RQ,
    USER_ITEM,
    VERIFICATION,
    abort_pdu,
    accept_pdu,
    item,
    maximum,
    p_data,
    pdv,
    proposal,
    reject_pdu,
    request_pdu,
)
from tests.ul.bench import (
    EXPLICIT as EXPLICIT_UID,
)
from tests.ul.bench import (
    IMPLICIT as IMPLICIT_UID,
)

ECHO = encode_c_echo_rq(1)
STORE = encode_c_store_rq(7, CT, "1.2.3.4", ("MOVER", 5))


def _pdu() -> dict[str, bytes]:
    message = p_data(pdv(1, 3, ECHO)) + p_data(pdv(1, 3, STORE[:40]), pdv(1, 1, STORE[40:]))
    return {
        "conversation": b"\1\2" + request_pdu() + p_data(pdv(1, 3, ECHO)) + RELEASE_RQ,
        "byte-by-byte": b"\1\1" + p_data(pdv(1, 0, b"abc"), pdv(1, 2, b"")) + RELEASE_RP + abort_pdu(2, 2),
        "two-pdvs": b"\0\5" + message[:90],
        "pdv-beyond-its-pdu": b"\0\0" + struct.pack(">BBIIBB", 4, 0, 12, 0xFFFFFFFF, 1, 2) + bytes(6),
        "pdv-of-length-1": b"\0\3" + struct.pack(">BBIIB", 4, 0, 5, 1, 1),
        "rest-too-short-for-a-pdv": b"\0\3" + struct.pack(">BBI", 4, 0, 10) + pdv(1, 2, b"x") + bytes(3),
        "length-of-4-gigabytes": b"\2\0" + struct.pack(">BBI", 1, 0, 0xFFFFFFFF),
        "longer-than-announced": b"\3\7" + p_data(pdv(1, 2, bytes(90))),
        "http": b"\0\0GET / HTTP/1.1\r\n\r\n",
    }


def _association() -> dict[str, bytes]:
    roles = b"".join(item(0x54, struct.pack(">H", len(uid)) + uid.encode() + b"\1\1") for uid in (CT, VERIFICATION))
    identity = item(0x58, b"\2\1\0\4user\0\4pass")
    extended = item(0x56, struct.pack(">H", len(CT)) + CT.encode() + b"\2\0\1")
    user = item(0x50, maximum(16384) + item(0x52, b"1.2.3") + item(0x53, b"\0\0\0\1") + roles + extended + identity)
    contexts = proposal(1, CT, EXPLICIT_UID, IMPLICIT_UID) + proposal(3, VERIFICATION, IMPLICIT_UID)
    whole = request_pdu(APPLICATION_ITEM, contexts, user)
    echo = p_data(pdv(1, 3, ECHO))
    store = p_data(pdv(1, 3, STORE)) + p_data(pdv(1, 0, b"\x08\0\x60\0")) + p_data(pdv(1, 2, b"CS\2\0CT"))
    crowd = request_pdu(APPLICATION_ITEM, *(proposal(2 * n + 1, CT, IMPLICIT_UID) for n in range(8)))
    return {
        "echo-and-release": b"\0\5" + request_pdu() + echo + RELEASE_RQ,
        "store": b"\0\0" + whole + store + RELEASE_RQ,
        "decided-late": b"\2\7" + whole + store + RELEASE_RQ,
        "rejected": b"\6\3" + request_pdu() + echo + abort_pdu(0, 0),
        "accepted": b"\1\4" + accept_pdu() + p_data(pdv(1, 3, encode_response(parse_command(ECHO), 0))) + RELEASE_RQ,
        "refused": b"\1\0" + reject_pdu(1, 1, 7),
        "release-answered": b"\1\2" + accept_pdu() + RELEASE_RP,
        "second-request": b"\0\2" + request_pdu() + request_pdu() + abort_pdu(2, 6),
        "too-many-contexts": b"\0\0" + crowd,
        "wrong-context-id": b"\0\3" + request_pdu() + p_data(pdv(9, 3, ECHO)),
        "unknown-items": b"\0\6" + request_pdu(item(0x7F, b"abc"), APPLICATION_ITEM, CONTEXT_ITEM, USER_ITEM),
        "data-before-a-request": b"\0\2" + echo,
    }


def _command() -> dict[str, bytes]:
    def element(number: int, value: bytes, group: int = 0) -> bytes:
        return struct.pack("<HHI", group, number, len(value)) + value

    failure = encode_response(parse_command(STORE), 0xA700, "no room")
    return {
        "c-echo-rq": ECHO,
        "c-store-rq": STORE,
        "c-store-rsp": failure,
        "n-event-report": element(2, b"1.2") + element(0x100, b"\0\1") + element(0x1003, b"1.2.3\0"),
        "requested-uids": element(3, b"1.2 ") + element(0x100, b"\1\0") + element(0x1001, b" 1.2\0"),
        "twice-the-field": element(0x100, b"\1\0") + element(0x100, b"\x30\0") + element(0x800, b"\1\1"),
        "long-number": element(0x100, b"\1\0\2\0") + element(0x110, b"\7") + element(0x120, b""),
        "other-group": element(0x100, b"\1\0") + element(0x110, b"\7\0", 8),
        "no-field": element(0x110, b"\7\0"),
        "length-of-4-gigabytes": element(0x100, b"\1\0") + struct.pack("<HHI", 0, 2, 0xFFFFFFFF),
        "cut-short": STORE[:-3],
        "one-byte-of-an-element": STORE[:-9],
        "element-beyond-the-command-set": STORE[:-1],
        "element-far-beyond-the-command-set": element(0x100, b"\1\0")
        + struct.pack("<HHI", 0, 0x902, 9000)
        + b"comment",
    }


def _message() -> dict[str, bytes]:
    def fragment(context: int, control: int, data: bytes) -> bytes:
        return bytes((context, control, len(data))) + data

    return {
        "echo": fragment(1, 3, ECHO),
        "store": fragment(3, 1, STORE[:50])
        + fragment(3, 3, STORE[50:])
        + fragment(3, 0, b"data")
        + fragment(3, 2, b""),
        "two-messages": fragment(255, 3, ECHO) + fragment(1, 3, ECHO),
        "pdv-in-pieces": fragment(1, 7, STORE[:30]) + fragment(1, 3, STORE[30:]) + fragment(1, 6, b"ab"),
        "other-context-within": fragment(1, 1, STORE[:30]) + fragment(3, 3, STORE[30:]),
        "element-beyond-the-command-set": fragment(1, 3, STORE[:-1]),
        "data-first": fragment(1, 2, b"data"),
        "command-over-its-limit": fragment(1, 1, bytes(150)) + fragment(1, 3, bytes(150)),
    }


def _small(encoding: Encoding) -> bytes:
    accession = encoding.element(0x00080050, "SH", b"A1")
    inner = encoding.sequence(0x00400275, encoding.item(encoding.element(0x00400007, "LO", b"chest ")), undefined=True)
    return b"".join(
        (
            encoding.element(0x00080005, "CS", b"ISO_IR 100"),
            encoding.element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
            encoding.element(0x00080018, "UI", b"1.2.3.4\0"),
            encoding.element(0x00191001, "UN", b"private!"),
            encoding.element(0x00280010, "US", b"\0\2" if encoding is BIG else b"\2\0"),
            encoding.sequence(0x00400275, encoding.item(accession + inner, undefined=True), encoding.item(accession)),
            encoding.element(0x7FE00010, "OW", bytes(4)),
        )
    )


def _dataset() -> dict[str, bytes]:
    inside = IMPLICIT.item(IMPLICIT.element(0x00080050, "SH", b"A1"), undefined=True) + IMPLICIT.bare(0xFFFEE0DD, 0)
    deep = EXPLICIT.element(0x00080050, "SH", b"A1")
    for _ in range(4):
        deep = EXPLICIT.sequence(0x00400275, EXPLICIT.item(deep, undefined=True), undefined=True)
    meta = EXPLICIT.element(0x00020010, "UI", b"1.2.840.10008.1.2\0")
    found = {
        "explicit": b"\0\0" + _small(EXPLICIT),
        "implicit": b"\1\3" + _small(IMPLICIT),
        "big-endian": b"\2\1" + _small(BIG),
        "encapsulated": b"\0\4" + EXPLICIT.fragments(b"", b"abcd", b"ef"),
        "un-of-undefined-length": b"\0\2" + EXPLICIT.header(0x00400275, "UN", UNDEFINED) + inside,
        "nested-four-deep": b"\3\2" + deep,
        "no-depth-allowed": b"\6\0" + deep,
        "with-meta-information": b"\1\2" + meta + IMPLICIT.element(0x00080060, "CS", b"CT"),
        "vr-of-the-future": b"\0\3" + EXPLICIT.tag(0x00080001) + b"XY\0\0" + struct.pack("<I", 4) + b"abcd",
        "no-vr-in-explicit": b"\0\2" + IMPLICIT.element(0x00080060, "CS", b"CT"),
        "odd-and-padded": b"\1\2" + IMPLICIT.element(0x00080060, "CS", b"CTX") + b"\0",
        "cut-short": b"\0\3" + _small(EXPLICIT)[:-3],
        "length-of-4-gigabytes": b"\1\0" + struct.pack("<HHI", 8, 0x60, 0xFFFFFFFE),
        "half-a-long-header": b"\0\0" + EXPLICIT.header(0x7FE00010, "OB", UNDEFINED)[:8],
        "header-cut-before-a-long-value": b"\0\3" + EXPLICIT.element(0x00100020, "LO", bytes(250)) * 8,
        "delimiter-alone": b"\1\0" + IMPLICIT.bare(0xFFFEE00D, 0),
        "item-beyond-its-sequence": b"\0\2" + EXPLICIT.header(0x00400275, "SQ", 10) + EXPLICIT.bare(0xFFFEE000, 90),
    }
    with paths()["nested_priv_SQ.dcm"].open("rb") as file:
        found["sample-nested-private"] = b"\1\5" + file.read()[336:1300]
    return found


def _values() -> dict[str, bytes]:
    vrs = {vr: index for index, vr in enumerate(VRS)}

    def value(vr: str, content: bytes, character_set: bytes = b"", big: bool = False) -> bytes:
        return bytes((vrs[vr], big)) + character_set + b"\n" + content

    return {
        "code-string": value("CS", b"ORIGINAL\\PRIMARY\\AXIAL "),
        "name-in-kanji": value("PN", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", b"\\ISO 2022 IR 87"),
        "name-in-hangul": value("PN", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce", b"\\ISO 2022 IR 149"),
        "name-in-katakana": value("PN", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3", b"ISO_IR 13"),
        "utf-8": value("LO", "Gr\u00fc\u00dfe\\2".encode(), b"ISO_IR 192"),
        "gb18030": value("LO", b"\xcd\xf5^\xd0\xa1\\x", b"GB18030"),
        "unknown-set": value("SH", b"\xff\xfe", b"KLINGON"),
        "decimals": value("DS", b"1.50\\nan\\1e400\\1_0\\ -2 "),
        "doubles": value("FD", struct.pack("<3d", 0.5, float("inf"), float("nan"))),
        "singles-big-endian": value("FL", struct.pack(">f", 0.1) + b"x", big=True),
        "tags": value("AT", b"\x08\0\x60\0\x10"),
        "free-text": value("UT", b" a\\b \0"),
        "of-no-vr": value("", b"text\1"),
    }


def _part10() -> dict[str, bytes]:
    group = b"".join(
        (
            EXPLICIT.element(0x00020001, "OB", b"\0\1"),
            EXPLICIT.element(0x00020002, "UI", CT.encode() + b"\0"),
            EXPLICIT.element(0x00020003, "UI", b"1.2.3.4\0"),
            EXPLICIT.element(0x00020010, "UI", b"1.2.840.10008.1.2.1\0"),
            EXPLICIT.element(0x00020016, "AE", b"MODALITY"),
        )
    )
    length = EXPLICIT.element(0x00020000, "UL", struct.pack("<I", len(group)))
    return {
        "whole": length + group + EXPLICIT.element(0x00080060, "CS", b"CT"),
        "no-group-length": group,
        "nothing": b"",
        "cut-within-a-value": group[:30],
        "cut-within-a-header": group[:9],
        "length-of-4-gigabytes": EXPLICIT.header(0x00020001, "OB", 0xFFFFFFFF),
    }


def _rules() -> dict[str, bytes]:
    folder = Path(__file__).parents[1] / "routing" / "cases"
    names = ("operators", "tests", "keys", "discard", "tables", "syntax_escape", "windows")
    found = {f"{name}.toml": (folder / f"{name}.toml").read_bytes()[:1500] for name in names}
    found["whole.toml"] = b"""[[rule]]
name = "CT of VIPs"
match = { Modality = ["CT", "MR"], PatientID = "VIP*", Rows = { min = 100, max = 600 } }
any = [{ StudyDate = { within = "7 days" } }, { PatientAge = { max = "018Y" } }]
not = { PatientName = { regex = "^TEST" } }
to = ["pacs", "ai"]
priority = "stat"
final = true

[[rule]]
name = "everything"
to = "vna"

[[test]]
name = "a phantom"
given = { Modality = "CT", PatientID = "1" }
to = ["vna"]
"""
    found["dotted.toml"] = (
        b'rule = [{ name = "a.b", match."RequestAttributesSequence.0.AccessionNumber" = { exists = true },'
        b' to = ["pacs"] }]\n'
    )
    return found


SEEDS = {
    "pdu": _pdu,
    "association": _association,
    "command": _command,
    "message": _message,
    "dataset": _dataset,
    "values": _values,
    "part10": _part10,
    "rules": _rules,
}


def main() -> int:
    for name in TARGETS:
        folder = CORPORA / name
        folder.mkdir(parents=True, exist_ok=True)
        for seed, data in SEEDS[name]().items():
            (folder / seed).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
