"""What the router reads of a certificate or revocation list itself: validity, public key, alternative names
(RFC 5280 §4.1, §5.1, in DER).

Trust is OpenSSL's matter. This tells whose key it was that OpenSSL let in, and until when a file of ours is good, for
which the standard library has no words. Every length is checked against what encloses it.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address

_SEQUENCE, _INTEGER, _BIT_STRING, _OCTET_STRING, _OID, _BOOLEAN = 0x30, 0x02, 0x03, 0x04, 0x06, 0x01
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_EMAIL, _DNS, _URI, _IP = 0x81, 0x82, 0x86, 0x87
_SUBJECT_ALT_NAME = bytes.fromhex("551d11")
_RSA = bytes.fromhex("2a864886f70d010101")
_EC = bytes.fromhex("2a8648ce3d0201")
_CURVE_BITS = {
    bytes.fromhex("2a8648ce3d030107"): 256,
    bytes.fromhex("2b81040022"): 384,
    bytes.fromhex("2b81040023"): 521,
    bytes.fromhex("2b81040021"): 224,
    bytes.fromhex("2a8648ce3d030101"): 192,
}
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Certificate:
    not_before: float
    """Epoch seconds."""
    not_after: float
    public_key: str
    """SHA-256 of the SubjectPublicKeyInfo, lower-case hexadecimal."""
    key_kind: str
    """``RSA``, ``EC`` or ``other``."""
    key_bits: int
    """0 where the kind is other, or the curve is none that has a name here."""
    names: tuple[str, ...]
    """Subject alternative names in lower case: DNS names, addresses, e-mail addresses, URIs."""


@dataclass(frozen=True, slots=True)
class RevocationList:
    next_update: float | None
    """Epoch seconds from when on OpenSSL takes it for outdated."""


def pem_blocks(data: bytes, kind: str) -> list[bytes]:
    """The DER of every ``-----BEGIN kind-----`` block. Raises ValueError for one that is not base64."""
    found = []
    for match in _PEM.finditer(data):
        if match[1] == kind.encode():
            try:
                found.append(binascii.a2b_base64(match[2], strict_mode=False))
            except binascii.Error:
                raise ValueError("a PEM block is not base64") from None
    return found


def read_certificate(der: bytes) -> Certificate:
    """Raises ValueError for what is no certificate."""
    fields = list(_items(_only(_only(der, _SEQUENCE), _SEQUENCE)))
    if fields and fields[0][0] == _VERSION:
        fields = fields[1:]
    # serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo, then what is optional
    if len(fields) < 6:
        raise ValueError("a certificate without its parts")
    validity = list(_items(_inside(fields[3], _SEQUENCE)))
    if len(validity) != 2:
        raise ValueError("a certificate without validity")
    kind, bits = _key(_inside(fields[5], _SEQUENCE))
    extensions = next((content for tag, content, _ in fields[6:] if tag == _EXTENSIONS), b"")
    return Certificate(
        not_before=_time(validity[0]),
        not_after=_time(validity[1]),
        public_key=hashlib.sha256(fields[5][2]).hexdigest(),
        key_kind=kind,
        key_bits=bits,
        names=tuple(_alternative_names(extensions)) if extensions else (),
    )


def read_revocation_list(der: bytes) -> RevocationList:
    """Raises ValueError for what is none."""
    times = [item for item in _items(_only(_only(der, _SEQUENCE), _SEQUENCE)) if item[0] in (_UTC_TIME, 0x18)]
    if not times:
        raise ValueError("a revocation list without its date")
    return RevocationList(_time(times[1]) if len(times) > 1 else None)


# DER -------------------------------------------------------------------------------------------------------

_Item = tuple[int, bytes, bytes]
"""Tag, content, the whole with its header."""


def _items(data: bytes) -> Iterator[_Item]:
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            raise ValueError("DER is cut")
        tag, length, begin = data[at], data[at + 1], at + 2
        if tag & 0x1F == 0x1F:
            raise ValueError("DER tag of several bytes")
        if length & 0x80:
            count = length & 0x7F
            if not 1 <= count <= 4 or begin + count > len(data):
                raise ValueError("DER length is wrong")
            length = int.from_bytes(data[begin : begin + count], "big")
            begin += count
        end = begin + length
        if end > len(data):
            raise ValueError("DER is cut")
        yield tag, data[begin:end], data[at:end]
        at = end


def _inside(item: _Item, tag: int) -> bytes:
    if item[0] != tag:
        raise ValueError(f"DER tag {item[0]:#x} where {tag:#x} belongs")
    return item[1]


def _only(data: bytes, tag: int) -> bytes:
    """The content of the first item, which must be one of this tag."""
    for item in _items(data):
        return _inside(item, tag)
    raise ValueError("DER is empty")


def _time(item: _Item) -> float:
    tag, content, _ = item
    text = content.decode("ascii", "replace")
    if tag == _UTC_TIME:
        # RFC 5280 §4.1.2.5.1: 50 and above are of the last century.
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time where one belongs")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _key(info: bytes) -> tuple[str, int]:
    parts = list(_items(info))
    if len(parts) != 2:
        raise ValueError("a public key without its parts")
    algorithm = list(_items(_inside(parts[0], _SEQUENCE)))
    bits = _inside(parts[1], _BIT_STRING)[1:]
    if not algorithm:
        raise ValueError("a public key without algorithm")
    if algorithm[0][1] == _RSA:
        modulus = _only(_only(bits, _SEQUENCE), _INTEGER)
        return "RSA", int.from_bytes(modulus, "big").bit_length()
    if algorithm[0][1] == _EC:
        return "EC", _CURVE_BITS.get(algorithm[1][1], 0) if len(algorithm) > 1 else 0
    return "other", 0


def _alternative_names(extensions: bytes) -> Iterator[str]:
    for extension in _items(_only(extensions, _SEQUENCE)):
        parts = list(_items(_inside(extension, _SEQUENCE)))
        if len(parts) < 2 or parts[0][1] != _SUBJECT_ALT_NAME:
            continue
        for tag, content, _ in _items(_only(_inside(parts[-1], _OCTET_STRING), _SEQUENCE)):
            if tag in (_EMAIL, _DNS, _URI):
                yield content.decode("ascii", "replace").lower()
            elif tag == _IP:
                yield str(ip_address(content))
