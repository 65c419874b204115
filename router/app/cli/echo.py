"""``echo``: C-ECHO to any peer (PS3.4 Annex A)."""

from __future__ import annotations

import time

import click

from router.app.cli import address
from router.app.cli.address import Address
from router.app.cli.console_log import ConsoleLog
from router.app.cli.dicom_client import (
    CallOptions,
    TlsOptions,
    as_failure,
    call_options,
    check_calling,
    log_for,
    open_association,
    run_loop,
    tls_options,
    with_title,
)
from router.app.cli.exits import Failure
from router.app.cli.options import json_option, print_json
from router.errors import AssociationAborted, DeliveryError
from router.services.verification import VERIFICATION_CONTEXT


async def echo_once(peer: Address, options: CallOptions, log: ConsoleLog) -> float:
    """Seconds from the request to the C-ECHO-RSP with status 0x0000. Raises Failure otherwise."""
    scu = await open_association(peer, options, [VERIFICATION_CONTEXT], log)
    started = time.monotonic()
    try:
        status = await scu.echo()
    except (AssociationAborted, DeliveryError) as error:
        scu.abort()
        raise as_failure(peer, options.calling, error) from None
    seconds = time.monotonic() - started
    await scu.release()
    if status != 0:
        raise Failure(f"{peer} answered C-ECHO with status 0x{status:04X}")
    return seconds


@click.command(short_help="C-ECHO a peer.")
@click.argument("peer", nargs=-1, required=True, metavar="AET@HOST:PORT")
@call_options
@tls_options
@json_option
def echo(
    peer: tuple[str, ...],
    calling: str,
    called: str | None,
    timeout: float,
    acse_timeout: float,
    response_timeout: float,
    max_pdu: int,
    tls_identity: tuple[str, str] | None,
    anonymous_tls: bool,
    tls_ca: str | None,
    tls_pin: tuple[str, ...],
    verbose: bool,
    debug: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """C-ECHO: is this peer there, and does it accept us?

    Exits 0 if it answered with success, 69 if it cannot be reached, 75 if it is busy, 1 if it refused.

    \b
    Examples:
      dicom-router echo PACS@10.1.2.3:104
      dicom-router echo -aet CT1 ROUTER@127.0.0.1:11112
      dicom-router echo 10.1.2.3 104 -aec PACS
      dicom-router echo dicoms://PACS@pacs.hospital:2762 +tls key.pem cert.pem +cf ca.pem
    """
    if len(peer) == 1:
        found = address.parse(peer[0])
    elif len(peer) == 2:
        found = Address(peer[0], address.port_of(peer[1]), "")
    else:
        raise click.UsageError("One peer at a time: AET@host:port")
    found = with_title(found, called)
    options = CallOptions(
        calling=check_calling(calling),
        connect_timeout=timeout,
        acse_timeout=acse_timeout,
        response_timeout=response_timeout,
        max_pdu=max_pdu,
        credentials=TlsOptions(
            identity=tls_identity, anonymous=anonymous_tls, ca=tls_ca or "", pins=tls_pin
        ).credentials(found),
    )
    seconds = run_loop(echo_once(found, options, log_for(quiet=quiet, verbose=verbose, debug=debug)))
    if as_json:
        print_json({"peer": str(found), "status": 0, "seconds": round(seconds, 6)})
    elif not quiet:
        click.echo(f"{found} answered in {seconds * 1000:.1f} ms")
