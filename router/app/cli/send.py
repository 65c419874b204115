"""``send``: C-STORE of files and folders to any peer (PS3.4 Annex B), each in the transfer syntax it is stored in."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
from click.termui import progressbar

from router.app.cli import address, exits
from router.app.cli.address import Address
from router.app.cli.console_log import ConsoleLog
from router.app.cli.dicom_client import (
    CallOptions,
    TlsOptions,
    call_options,
    check_calling,
    log_for,
    open_association,
    run_loop,
    tls_options,
    with_title,
)
from router.app.cli.exits import Failure
from router.app.cli.files import DicomFile, FileData, find
from router.app.cli.options import json_option, print_json
from router.app.cli.tables import duration, say, size
from router.dimse.statuses import StatusClass, classify
from router.errors import RouterError
from router.model import InstanceInfo, Origin
from router.services.storage_scu import StorageScu, StoreResponse

CONTEXTS = 128
OUT_OF_RESOURCES = 0xA7
"""High byte of the statuses that say so (PS3.4 Table B.2-1)."""
SHOWN = 10
"""Failed files that are named; --json names all."""

_ORIGIN = Origin(listener="", peer="", calling_ae="", called_ae="", address="")


@dataclass(slots=True)
class Report:
    """What became of the files."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[tuple[Path, str]] = field(default_factory=list)
    sent: int = 0
    sent_bytes: int = 0
    skipped: int = 0
    seconds: float = 0.0
    stopped: Failure | None = None
    """Why sending ended before its time."""

    def answered(self, file: DicomFile, response: StoreResponse) -> None:
        self.statuses[response.status] += 1
        if classify(response.status) in (StatusClass.SUCCESS, StatusClass.WARNING):
            self.sent += 1
            self.sent_bytes += file.size
            return
        # The comment is the peer's: shown to who sent the object, never logged.
        comment = f": {response.comment}" if response.comment else ""
        self.failures.append((file.path, f"0x{response.status:04X} {meaning(response.status)}{comment}"))

    @property
    def exit_code(self) -> int:
        if self.stopped is not None:
            return self.stopped.exit_code
        if not self.failures:
            return exits.OK
        busy = sum(count for status, count in self.statuses.items() if status >> 8 == OUT_OF_RESOURCES)
        return exits.TRY_LATER if busy == len(self.failures) else exits.FAILED


def meaning(status: int) -> str:
    """A C-STORE status in words (PS3.4 Table B.2-1, PS3.7 Annex C)."""
    exact = {
        0x0000: "success",
        0x0110: "processing failure",
        0x0111: "duplicate SOP instance",
        0x0117: "invalid SOP instance",
        0x0122: "SOP class not supported",
        0x0124: "not authorized",
        0x0210: "duplicate invocation",
        0x0211: "unrecognized operation",
        0x0212: "mistyped argument",
        0xB000: "coercion of data elements",
        0xB006: "elements discarded",
        0xB007: "data set does not match SOP class",
    }
    if status in exact:
        return exact[status]
    high = {0xA7: "refused: out of resources", 0xA9: "data set does not match SOP class"}
    if status >> 8 in high:
        return high[status >> 8]
    return "cannot understand" if status >> 12 == 0xC else str(classify(status))


class Sending:
    """Sends files over one association after another: a new one for more than 128 kinds, and after one was lost."""

    def __init__(
        self, peer: Address, options: CallOptions, log: ConsoleLog, report: Report, progress: Callable[[], None]
    ) -> None:
        self.peer = peer
        self.options = options
        self.log = log
        self.report = report
        self.progress = progress

    async def run(self, files: list[DicomFile]) -> None:
        """Cancelling it is safe: the association is aborted, and what was not answered is not counted."""
        waiting = deque(sorted(files, key=lambda file: file.pair)) if _kinds(files) > CONTEXTS else deque(files)
        barren = 0
        while waiting:
            before = len(waiting)
            pairs = _first_kinds(waiting)
            try:
                scu = await open_association(self.peer, self.options, pairs, self.log)
            except Failure as failure:
                self.report.stopped = failure
                return
            try:
                await self._over(scu, waiting, set(pairs))
            finally:
                if scu.alive:
                    scu.abort()
            # An association that ends again and again without an answer would go on for ever.
            barren = barren + 1 if len(waiting) >= before - 1 and waiting else 0
            if barren == 2:
                self.report.stopped = Failure(f"{self.peer}: associations end without an answer; gave up")
                return

    async def _over(self, scu: StorageScu, waiting: deque[DicomFile], proposed: set[tuple[str, str]]) -> None:
        outstanding: dict[asyncio.Future[StoreResponse], DicomFile] = {}
        while (waiting and waiting[0].pair in proposed and scu.alive) or outstanding:
            while scu.room and waiting and waiting[0].pair in proposed:
                file = waiting.popleft()
                if file.pair not in scu.accepted:
                    self._failed(file, "the peer accepted no presentation context for it")
                    continue
                try:
                    source = await FileData.open(file)
                except OSError as error:
                    self._failed(file, error.strerror or type(error).__name__)
                    continue
                except RouterError as error:
                    self._failed(file, str(error))
                    continue
                if not scu.alive:
                    waiting.appendleft(file)
                    break
                outstanding[scu.store(_info(file), source)] = file
            if not outstanding:
                continue
            done, _ = await asyncio.wait(outstanding, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                self._ended(outstanding.pop(future), future)
        if scu.alive:
            await scu.release()

    def _ended(self, file: DicomFile, future: asyncio.Future[StoreResponse]) -> None:
        error = future.exception()
        if error is None:
            response = future.result()
            self.report.answered(file, response)
            self.log.info("stored", file=str(file.path), status=f"0x{response.status:04X}")
            self.progress()
        elif isinstance(error, RouterError):
            self._failed(file, str(error))
        else:
            raise error

    def _failed(self, file: DicomFile, why: str) -> None:
        self.report.failures.append((file.path, why))
        self.progress()


def _kinds(files: list[DicomFile]) -> int:
    return len({file.pair for file in files})


def _first_kinds(waiting: deque[DicomFile]) -> list[tuple[str, str]]:
    found: dict[tuple[str, str], None] = {}
    for file in waiting:
        if file.pair not in found:
            if len(found) == CONTEXTS:
                break
            found[file.pair] = None
    return list(found)


def _info(file: DicomFile) -> InstanceInfo:
    return InstanceInfo(
        id=0,
        sop_class=file.sop_class,
        sop_instance=file.sop_instance,
        transfer_syntax=file.transfer_syntax,
        origin=_ORIGIN,
        received=0.0,
        size=file.size,
        checksum=b"",
    )


@click.command(short_help="C-STORE files and folders to a peer.")
@click.argument("peer", metavar="AET@HOST:PORT")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option(
    "--window",
    type=click.IntRange(1, 256),
    default=16,
    show_default=True,
    help="Objects under way at once, if the peer grants an asynchronous operations window.",
)
@click.option("+sd", "+r", "ignored", is_flag=True, hidden=True, help="DCMTK's: folders are always searched.")
@call_options
@tls_options
@json_option
def send(
    peer: str,
    paths: tuple[str, ...],
    window: int,
    ignored: bool,
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
    """C-STORE files, and all that is in folders, to a peer: data sets byte for byte, each in its own transfer syntax.

    Files that are no DICOM are passed over in folders, and are errors when named. Exits 0 if there was something and
    all of it was answered with success or a warning, 69 if the peer cannot be reached, 75 if it is busy or full, 1
    otherwise.

    \b
    Examples:
      dicom-router send ROUTER@127.0.0.1:11112 ~/images
      dicom-router send -aet CT1 PACS@10.1.2.3:104 slice1.dcm slice2.dcm
      dicom-router send 10.1.2.3 104 -aec PACS image.dcm
      dicom-router send dicoms://PACS@pacs.hospital:2762 +tls key.pem cert.pem +cf ca.pem ~/images
    """
    if len(paths) > 1 and paths[0].isdigit() and not Path(paths[0]).exists() and "@" not in peer:
        found, paths = Address(peer, address.port_of(paths[0]), ""), paths[1:]
    else:
        found = address.parse(peer)
    found = with_title(found, called)
    options = CallOptions(
        calling=check_calling(calling),
        connect_timeout=timeout,
        acse_timeout=acse_timeout,
        response_timeout=response_timeout,
        max_pdu=max_pdu,
        async_operations=window,
        credentials=TlsOptions(
            identity=tls_identity, anonymous=anonymous_tls, ca=tls_ca or "", pins=tls_pin
        ).credentials(found),
    )
    report = Report()
    files: list[DicomFile] = []
    for item in find([Path(path) for path in paths]):
        if isinstance(item, DicomFile):
            files.append(item)
        elif item.named:
            report.failures.append((item.path, item.why))
        else:
            report.skipped += 1
    if not files and not report.failures:
        report.stopped = Failure("nothing to send: no DICOM files there")
    if files:
        _send(
            found,
            options,
            log_for(quiet=quiet, verbose=verbose, debug=debug),
            report,
            files,
            show=not (quiet or as_json),
        )
    if as_json:
        print_json(_as_json(found, report, len(files)))
    else:
        _tell(found, report, len(files), quiet)
    raise SystemExit(report.exit_code)


def _send(
    peer: Address, options: CallOptions, log: ConsoleLog, report: Report, files: list[DicomFile], *, show: bool
) -> None:
    started = time.monotonic()
    bar = progressbar(length=len(files), label=f"to {peer}", show_pos=True, file=sys.stderr, hidden=not show)
    with bar:
        run_loop(Sending(peer, options, log, report, partial(bar.update, 1)).run(files))
    report.seconds = time.monotonic() - started


def _as_json(peer: Address, report: Report, found: int) -> dict[str, object]:
    return {
        "peer": str(peer),
        "files": found,
        "sent": report.sent,
        "bytes": report.sent_bytes,
        "seconds": round(report.seconds, 3),
        "skipped": report.skipped,
        "statuses": {f"0x{status:04X}": count for status, count in sorted(report.statuses.items())},
        "failures": [{"file": str(path), "why": why} for path, why in report.failures],
        "stopped": report.stopped.message if report.stopped else None,
    }


def _tell(peer: Address, report: Report, found: int, quiet: bool) -> None:
    if not quiet:
        rate = f", {report.sent / report.seconds:.0f} a second" if report.seconds and report.sent else ""
        took = f"{report.seconds:.1f}s" if report.seconds < 120 else duration(report.seconds)
        say(f"{report.sent} of {found} files ({size(report.sent_bytes)}) stored at {peer} in {took}{rate}")
        for status, count in sorted(report.statuses.items()):
            say(f"  {count:>7}  0x{status:04X}  {meaning(status)}")
        if report.skipped:
            say(f"  {report.skipped:>7}  passed over: no DICOM files")
    for path, why in report.failures[:SHOWN]:
        say(f"{path}: {why}", err=True)
    if len(report.failures) > SHOWN:
        click.echo(f"and {len(report.failures) - SHOWN} more; --json names all", err=True)
    if report.stopped is not None:
        report.stopped.show()
