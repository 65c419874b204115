"""A certificate authority for one test, with everything that can be wrong with a certificate."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Identity:
    certificate: Path
    key: Path
    public_key_sha256: str
    issued: x509.Certificate


def digest(key: Key) -> str:
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    hasher = hashes.Hash(hashes.SHA256())
    hasher.update(spki)
    return hasher.finalize().hex()


def new_key(kind: str) -> Key:
    """``EC`` (P-256), or ``RSA`` with its bits behind it."""
    if kind == "EC":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=int(kind.removeprefix("RSA")))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.UniformResourceIdentifier(name) if ":" in name else x509.DNSName(name)


@dataclass
class Authority:
    """Its files are in ``folder``: ``<name>.pem`` the CA, ``<name>.crl`` what it revoked, and those it issues."""

    folder: Path
    name: str = "ca"
    key: Key = field(default_factory=lambda: new_key("EC"))
    revoked: list[int] = field(default_factory=list)
    above: Authority | None = None
    """Who vouches for it; None: it does so itself. What it issues brings its certificate along."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(self.name))
            .issuer_name(_name(self.above.name if self.above else self.name))
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + 3650 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
        )
        self.certificate = builder.sign(self.above.key if self.above else self.key, hashes.SHA256())
        self.file = self.folder / f"{self.name}.pem"
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(
        self,
        name: str,
        *names: str,
        begins: timedelta = -DAY,
        ends: timedelta = 365 * DAY,
        kind: str = "EC",
        key: Key | None = None,
        self_signed: bool = False,
    ) -> Identity:
        """A certificate for ``names``; without any, for 127.0.0.1 and localhost."""
        key = key or new_key(kind)
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(name) if self_signed else self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([_general(one) for one in names or ("127.0.0.1", "localhost")]),
                critical=False,
            )
        )
        issued = builder.sign(key if self_signed else self.key, hashes.SHA256())
        certificate, private = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        brought = self.certificate.public_bytes(Encoding.PEM) if self.above else b""
        certificate.write_bytes(issued.public_bytes(Encoding.PEM) + brought)
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        private.chmod(0o600)
        return Identity(certificate, private, digest(key), issued)

    def revoke(self, *identities: Identity | Authority, ends: timedelta = 30 * DAY) -> Path:
        """Write the list, with these in it."""
        self.revoked += [
            (one.certificate if isinstance(one, Authority) else one.issued).serial_number for one in identities
        ]
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - 60 * DAY)
            .next_update(now + ends)
        )
        for number in self.revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(number).revocation_date(now - DAY).build()
            )
        path = self.folder / f"{self.name}.crl"
        path.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return path
