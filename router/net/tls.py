"""TLS as PS3.15 Annex B wants it: the profiles, the contexts made of a site's files, and what a failure means in words.

Everything here is files and OpenSSL; who moves the bytes is ``tls_transport``.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

from router.errors import RouterError, TlsFailure
from router.model import PresentedCertificate, TlsSettings
from router.net.x509 import Certificate, pem_blocks, read_certificate, read_revocation_list
from router.secret import SecretError, readable_by_others

PROFILES = {
    # PS3.15 §B.12: TLS 1.2 and 1.3; for 1.2 what RFC 9325 §4.2 recommends.
    "bcp195": (
        "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
        "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
    ),
    # PS3.15 §B.13, a closed list. Of it, what OpenSSL has with full-length tags; DHE shall not be used where its length
    # cannot be set, as here.
    "modified": (
        "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
        "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-CCM:"
        "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-CCM"
    ),
}
"""Name to the cipher suites of TLS 1.2. Those of TLS 1.3 are OpenSSL's: AES-GCM and ChaCha20-Poly1305, which both
profiles permit."""
ALIASES = {"bcp195-nd": "bcp195", "bcp195-ex": "bcp195", "8996": "bcp195", "8996-mod": "modified"}
"""Names of the predecessors §B.9 to §B.11 (whose first was "bcp195" too) and of DCMTK's options. None weakens §B.12."""

# Level 2 of OpenSSL: RSA and DHE of 2048 bits, elliptic curves of 224 (there is none below 256 among those offered), no
# signatures with SHA-1.
_STRENGTH = ":@SECLEVEL=2"
DAY = 86_400.0
WARN_DAYS = (7, 30)
MAX_FILE = 4 << 20
MAX_PASSWORD = 1024
"""Bytes that OpenSSL takes."""
MINIMUM_BITS = {"RSA": 2048, "EC": 256}


_DIGEST = re.compile(r"[0-9a-f]{64}")


def public_key(text: str) -> str:
    """The SHA-256 of a public key as we write it, of how ``openssl`` and others print it. Raises ValueError."""
    value = text.replace(":", "").lower()
    if not _DIGEST.fullmatch(value):
        raise ValueError(
            "must be the SHA-256 of a public key, 64 hexadecimal digits: openssl x509 -in FILE -noout -pubkey | "
            "openssl pkey -pubin -outform DER | openssl dgst -sha256"
        )
    return value


class TlsFilesError(RouterError):
    """A certificate, key, CA or CRL file cannot be used; the text says which and what would do."""


class Credentials:
    """What one listener or destination shows and trusts, as its files were read last.

    Args:
        server_side: Of a listener.

    Raises:
        TlsFilesError: As ``reload``.
    """

    def __init__(self, settings: TlsSettings, *, server_side: bool) -> None:
        self.settings = settings
        self.server_side = server_side
        self.context: ssl.SSLContext
        self.certificate: Certificate | None = None
        """Ours, if there is one."""
        self.reload()

    def reload(self) -> None:
        """Read the files again; blocking. What is open keeps what it was opened with.

        Raises:
            TlsFilesError: And everything stays as it was.
        """
        context = make_context(self.settings, server_side=self.server_side)
        settings = self.settings
        certificate = certificates_of(settings.certificate)[0] if settings.certificate else None
        self.context, self.certificate = context, certificate

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, host: str) -> ssl.SSLObject:
        """One connection's TLS. ``host``: what a destination's certificate must be for, unless the site says
        otherwise."""
        name = None if self.server_side else (self.settings.server_name or host)
        return self.context.wrap_bio(incoming, outgoing, server_side=self.server_side, server_hostname=name)

    def check_peer(self, connection: ssl.SSLObject) -> None:
        """After the handshake, before the first byte: what OpenSSL was not asked to look at.

        Raises:
            TlsFailure: The key is none of those that are pinned, or it is pinned alone and its certificate is out of
                date.
        """
        pinned = self.settings.public_keys
        if not pinned:
            return
        der = connection.getpeercert(binary_form=True)
        try:
            certificate = read_certificate(der or b"")
        except ValueError:
            raise TlsFailure("the peer's certificate cannot be read", "tls_certificate") from None
        if certificate.public_key not in pinned:
            raise TlsFailure("the peer's public key is none of those that are pinned", "tls_certificate")
        if not certificate.not_before <= time.time() <= certificate.not_after:
            raise TlsFailure("the peer's certificate is expired or not yet valid", "tls_certificate")


def make_context(settings: TlsSettings, *, server_side: bool) -> ssl.SSLContext:
    """An OpenSSL context of a profile and a site's files.

    Raises:
        TlsFilesError: A file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(PROFILES[settings.profile] + _STRENGTH)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # A DICOM association lasts: resuming sessions would save little, and outlive a revoked certificate.
    context.options |= ssl.OP_NO_TICKET
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a certificate in `ca` is trusted for itself, too
    if server_side:
        context.num_tickets = 0
        context.verify_mode = {
            "required": ssl.CERT_REQUIRED,
            "optional": ssl.CERT_OPTIONAL,
            "none": ssl.CERT_NONE,
        }[settings.client_certificates]
    elif settings.public_keys:
        # The key says who it is, so the name need not; without `ca` it says everything (``Credentials.check_peer``).
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED if settings.ca else ssl.CERT_NONE
    try:
        if settings.ca:
            _trust(context, settings.ca)
        elif context.verify_mode is not ssl.CERT_NONE:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if settings.crl:
            _revoke(context, settings.crl)
        if settings.certificate:
            _identify(context, settings)
    except OSError as error:
        raise TlsFilesError(f"a file went away while it was read: {error.strerror}") from None
    return context


def _trust(context: ssl.SSLContext, file: str) -> None:
    certificates_of(file)
    try:
        context.load_verify_locations(cafile=file)
    except ssl.SSLError as error:
        raise TlsFilesError(f"ca {file}: {_reason(error)}") from None


def _revoke(context: ssl.SSLContext, file: str) -> None:
    revocation_list_of(file)
    try:
        context.load_verify_locations(cafile=file)
    except ssl.SSLError as error:
        raise TlsFilesError(f"crl {file}: {_reason(error)}") from None
    # Of every certificate on the way, those of authorities too: there must be a list of each authority.
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def _identify(context: ssl.SSLContext, settings: TlsSettings) -> None:
    certificates_of(settings.certificate)
    _read(settings.key)
    if readable_by_others(Path(settings.key).stat()):
        raise TlsFilesError(f"key {settings.key} can be read by others: chmod go= {settings.key}")

    asked = False

    def password() -> str:
        nonlocal asked
        asked = True
        if settings.key_password is None:
            raise TlsFilesError(f"key {settings.key} is encrypted; say key_password, there is nobody to ask")
        try:
            secret = settings.key_password.read()
        except SecretError as error:
            raise TlsFilesError(f"key_password {error}") from None
        if len(secret.encode()) > MAX_PASSWORD:
            raise TlsFilesError(f"key_password {settings.key_password}: longer than {MAX_PASSWORD} bytes")
        return secret

    try:
        context.load_cert_chain(settings.certificate, settings.key, password)
    except ssl.SSLError as error:
        words = {
            "KEY_VALUES_MISMATCH": "key and certificate do not belong together",
            "KEY_TYPE_MISMATCH": "key and certificate do not belong together",
            "EE_KEY_TOO_SMALL": "the key is too weak: RSA needs 2048 bits, EC 256",
            "CA_KEY_TOO_SMALL": "the key of its CA is too weak: RSA needs 2048 bits, EC 256",
            "CA_MD_TOO_WEAK": "it is signed with SHA-1 or weaker",
        }
        # Of a password that does not fit OpenSSL says no more than that it failed.
        text = words.get(error.reason or "", "key_password does not open the key" if asked else _reason(error))
        raise TlsFilesError(f"certificate {settings.certificate}, key {settings.key}: {text}") from None


def _read(file: str) -> bytes:
    try:
        with open(file, "rb") as source:
            data = source.read(MAX_FILE + 1)
    except OSError as error:
        raise TlsFilesError(f"{file}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise TlsFilesError(f"{file}: larger than {MAX_FILE >> 20} MiB")
    return data


def certificates_of(file: str) -> list[Certificate]:
    """At least one. Raises TlsFilesError."""
    try:
        found = [read_certificate(der) for der in pem_blocks(_read(file), "CERTIFICATE")]
    except ValueError as error:
        raise TlsFilesError(f"{file}: a certificate in it cannot be read: {error}") from None
    if not found:
        raise TlsFilesError(f"{file}: has no certificate in PEM")
    return found


def revocation_list_of(file: str) -> float | None:
    """When the first of the lists in a file ends, epoch seconds; None: never. Raises TlsFilesError."""
    try:
        found = [read_revocation_list(der) for der in pem_blocks(_read(file), "X509 CRL")]
    except ValueError as error:
        raise TlsFilesError(f"{file}: a revocation list in it cannot be read: {error}") from None
    if not found:
        raise TlsFilesError(f"{file}: has no revocation list in PEM (BEGIN X509 CRL)")
    return min((one.next_update for one in found if one.next_update is not None), default=None)


def examine(settings: TlsSettings, now: float, *, server_side: bool) -> tuple[list[str], list[str]]:
    """Everything that is wrong with the files of a listener or destination, and everything that soon will be.

    Args:
        now: Epoch seconds.
    """
    problems: list[str] = []
    warnings: list[str] = []
    try:
        make_context(settings, server_side=server_side)
    except TlsFilesError as error:
        problems.append(str(error))
    for what, file, ends in _ends(settings, now, problems):
        left = ends - now
        if left <= 0:
            problems.append(f"{what} {file} is expired")
            continue
        within = next((days for days in WARN_DAYS if left < days * DAY), None)
        if within is not None:
            warnings.append(f"{what} {file} expires in less than {within} days")
    if settings.key_password is not None and not problems and b"ENCRYPTED" not in _read(settings.key):
        warnings.append(f"key {settings.key} is not encrypted: key_password has no use")
    if server_side and settings.certificate and not problems and not certificates_of(settings.certificate)[0].names:
        warnings.append(f"certificate {settings.certificate} names no host (subjectAltName): who looks refuses it")
    return problems, warnings


def _ends(settings: TlsSettings, now: float, problems: list[str]) -> Iterator[tuple[str, str, float]]:
    """What ends when. A CA's end is that of the last of its certificates: one may replace another."""
    try:
        if settings.certificate:
            ours = certificates_of(settings.certificate)[0]
            if ours.not_before > now:
                problems.append(f"certificate {settings.certificate} is not yet valid: is the clock right?")
            if 0 < ours.key_bits < MINIMUM_BITS.get(ours.key_kind, 0) and not problems:
                problems.append(f"certificate {settings.certificate}: its key is too weak ({ours.key_bits} bits)")
            yield "certificate", settings.certificate, ours.not_after
        if settings.ca:
            yield "ca", settings.ca, max(one.not_after for one in certificates_of(settings.ca))
        if settings.crl and (ends := revocation_list_of(settings.crl)) is not None:
            # Lists are renewed every few days or weeks: their end is told when it has come.
            yield "crl", settings.crl, ends if ends <= now else now + 365 * DAY
    except TlsFilesError:
        return  # a problem already


def presented(connection: ssl.SSLObject | None) -> PresentedCertificate | None:
    """The certificate that the peer showed and OpenSSL verified; None: it showed none, or this is not TLS."""
    der = None if connection is None else connection.getpeercert(binary_form=True)
    if not der:
        return None
    try:
        found = read_certificate(der)
    except ValueError:
        return None
    return PresentedCertificate(found.public_key, found.names)


# Failures --------------------------------------------------------------------------------------------------

_WORDS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": ("the peer showed no certificate", "tls_no_certificate"),
    "UNSUPPORTED_PROTOCOL": ("the peer offers nothing newer than TLS 1.1", "tls_version"),
    "UNKNOWN_PROTOCOL": ("the peer offers nothing newer than TLS 1.1", "tls_version"),
    "VERSION_TOO_LOW": ("the peer offers nothing newer than TLS 1.1", "tls_version"),
    "TLSV1_ALERT_PROTOCOL_VERSION": ("the peer speaks none of our versions of TLS", "tls_version"),
    "NO_SHARED_CIPHER": ("no cipher suite that both sides take", "tls_cipher"),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": (
        "the peer refused: no cipher suite that both sides take, or it wants a certificate",
        "tls_refused",
    ),
    "WRONG_VERSION_NUMBER": ("the peer does not speak TLS on this port", "tls_plain_peer"),
    "HTTP_REQUEST": ("the peer speaks HTTP on this port", "tls_plain_peer"),
}
_REFUSES_OURS = frozenset(
    (
        "TLSV1_ALERT_UNKNOWN_CA",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV1_ALERT_DECRYPT_ERROR",
    )
)


def failure(error: ssl.SSLError) -> TlsFailure:
    """In words of ours and OpenSSL's, none of the peer's."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsFailure(f"the peer's certificate is refused: {error.verify_message}", "tls_certificate")
    if reason in _REFUSES_OURS:
        return TlsFailure(f"the peer refuses our certificate ({_reason(error)})", "tls_refused")
    return TlsFailure(*_WORDS.get(reason, (f"TLS failed ({_reason(error)})", "tls_handshake")))


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or type(error).__name__).lower().replace("_", " ")
