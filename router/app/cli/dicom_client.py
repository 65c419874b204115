"""What ``echo``, ``send`` and ``check --connect`` share: DCMTK's options, an association, its failures in words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import click

from router.app.cli import address, exits
from router.app.cli.address import Address
from router.app.cli.console_log import DEBUG, NORMAL, QUIET, VERBOSE, ConsoleLog
from router.app.cli.exits import Failure
from router.errors import AssociationAborted, AssociationRejected, DeliveryError, TlsFailure
from router.model import TlsSettings
from router.net.dialer import associate
from router.net.tls import Credentials, TlsFilesError, public_key
from router.services.storage_scu import StorageScu, propose
from router.ul.association import AssociationSettings

Command = TypeVar("Command", bound=Callable[..., Any])
Result = TypeVar("Result")

# PS3.8 Table 9-21: (source, reason) of an A-ASSOCIATE-RJ.
REJECTIONS = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognized: does the peer know us by this title and address?",
    (1, 7): "called AE title not recognized: is this the peer's title?",
    (2, 1): "no reason given (ACSE)",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """How to call; times in seconds."""

    calling: str = "DICOM_ROUTER"
    connect_timeout: float = 10.0
    acse_timeout: float = 30.0
    response_timeout: float = 300.0
    max_pdu: int = 131_072
    async_operations: int = 1
    credentials: Credentials | None = None
    """For TLS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """What the command line says of TLS."""

    identity: tuple[str, str] | None = None
    """Key file, certificate file."""
    anonymous: bool = False
    ca: str = ""
    pins: tuple[str, ...] = ()

    def credentials(self, peer: Address) -> Credentials | None:
        """None: plain DICOM is asked for. Raises click.BadParameter, Failure."""
        if not (peer.tls or self.identity or self.anonymous):
            if self.ca or self.pins:
                raise click.UsageError("this is plain DICOM: write dicoms://AET@host:port, or +tls KEY CERTIFICATE")
            return None
        try:
            pins = tuple(public_key(text) for text in self.pins)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--tls-pin") from None
        key, certificate = self.identity or ("", "")
        try:
            return Credentials(
                TlsSettings(certificate=certificate, key=key, ca=self.ca, public_keys=pins), server_side=False
            )
        except TlsFilesError as error:
            raise Failure(str(error)) from None


_FILE = click.Path(exists=True, dir_okay=False)


def tls_options(command: Command) -> Command:
    """DCMTK's options of TLS. The command gets ``tls_identity``, ``anonymous_tls``, ``tls_ca``, ``tls_pin``."""
    for option in (
        click.option(
            "--tls-pin",
            "tls_pin",
            multiple=True,
            metavar="SHA256",
            help="Public key that the peer must have, instead of its host name.",
        ),
        click.option(
            "+cf", "--add-cert-file", "--tls-ca", "tls_ca", type=_FILE, help="Trusted CAs (PEM). Default: the system's."
        ),
        click.option("+tla", "--anonymous-tls", is_flag=True, help="TLS without a certificate, as dicoms:// does."),
        click.option(
            "+tls",
            "--enable-tls",
            "--tls",
            "tls_identity",
            nargs=2,
            type=_FILE,
            metavar="KEY CERTIFICATE",
            help="TLS with a certificate (PEM files).",
        ),
    ):
        command = option(command)
    return command


def call_options(command: Command) -> Command:
    """DCMTK's options. The command gets ``calling``, ``called``, ``timeout``, ``acse_timeout``, ``response_timeout``,
    ``max_pdu``, ``verbose``, ``debug``, ``quiet``."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Errors only."),
        click.option("-d", "--debug", is_flag=True, help="Everything that happens on the association."),
        click.option("-v", "--verbose", is_flag=True, help="More of what happens."),
        click.option(
            "-pdu",
            "--max-pdu",
            "max_pdu",
            type=click.IntRange(4096, 1 << 20),
            default=131_072,
            show_default=True,
            help="Largest PDU we take, bytes.",
        ),
        click.option(
            "-td",
            "--response-timeout",
            "response_timeout",
            type=click.FloatRange(0.1),
            default=300.0,
            show_default=True,
            help="Seconds to wait for a response.",
        ),
        click.option(
            "-ta",
            "--acse-timeout",
            "acse_timeout",
            type=click.FloatRange(0.1),
            default=30.0,
            show_default=True,
            help="Seconds to wait for the association to be accepted.",
        ),
        click.option(
            "-to",
            "--timeout",
            "timeout",
            type=click.FloatRange(0.1),
            default=10.0,
            show_default=True,
            help="Seconds to connect.",
        ),
        click.option("-aec", "--called", "called", help="Called AE title, if PEER names none. Default: ANY-SCP."),
        click.option(
            "-aet", "--calling", "calling", default="DICOM_ROUTER", show_default=True, help="Calling AE title: ours."
        ),
    ):
        command = option(command)
    return command


def with_title(found: Address, called: str | None) -> Address:
    """The address with its AE title settled: its own, ``-aec``, or DCMTK's default."""
    title = called or found.ae_title or "ANY-SCP"
    if not address.ae_title_fits(title):
        raise click.BadParameter(f"{title!r}: an AE title has 1 to 16 characters, no backslash", param_hint="-aec")
    return replace(found, ae_title=title)


def check_calling(calling: str) -> str:
    """The calling AE title if it is one; raises click.BadParameter."""
    if not address.ae_title_fits(calling):
        raise click.BadParameter(f"{calling!r}: an AE title has 1 to 16 characters, no backslash", param_hint="-aet")
    return calling


def log_for(*, quiet: bool, verbose: bool, debug: bool) -> ConsoleLog:
    return ConsoleLog(DEBUG if debug else VERBOSE if verbose else QUIET if quiet else NORMAL)


def run_loop(main: Coroutine[Any, Any, Result]) -> Result:
    """Run on uvloop where it exists, as the router does."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


async def open_association(
    peer: Address, options: CallOptions, pairs: Iterable[tuple[str, str]], log: ConsoleLog
) -> StorageScu:
    """One association with a context per (SOP class, transfer syntax). Cancelling it is safe.

    Raises:
        Failure: In words, with the exit code that fits.
    """
    request = propose(
        pairs,
        called_ae=peer.ae_title,
        calling_ae=options.calling,
        max_pdu=options.max_pdu,
        async_operations=options.async_operations,
    )
    settings = AssociationSettings(max_pdu=options.max_pdu, acse_timeout=options.acse_timeout, idle_timeout=None)
    try:
        connection = await associate(
            peer.host,
            peer.port,
            request,
            settings,
            connect_timeout=options.connect_timeout,
            log=log,
            credentials=options.credentials,
        )
    except (AssociationRejected, AssociationAborted, DeliveryError) as error:
        raise as_failure(peer, options.calling, error) from None
    log.info("association accepted", peer=str(peer), contexts=len(connection.accept.contexts))
    return StorageScu(connection, response_timeout=options.response_timeout, log=log)


def as_failure(peer: Address, calling: str, error: Exception) -> Failure:
    """An error of the association in words, with its exit code."""
    if isinstance(error, AssociationRejected):
        why = REJECTIONS.get((error.source, error.reason), "for an unknown reason")
        kind = "permanently" if error.permanent else "for now"
        numbers = f"result {error.result}, source {error.source}, reason {error.reason}"
        text = f"{peer} rejected {calling} {kind}: {why} ({numbers})"
        return Failure(text, exits.FAILED if error.permanent else exits.TRY_LATER)
    if isinstance(error, TlsFailure):
        return Failure(f"{peer}: no TLS: {error}")
    if isinstance(error, DeliveryError) and error.temporary:
        return Failure(f"{peer}: {error}", exits.UNREACHABLE)
    return Failure(f"{peer}: {error}")
