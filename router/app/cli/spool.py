"""``spool verify`` and ``spool export``: the stored data, also when nothing else works any more."""

from __future__ import annotations

import os
from pathlib import Path

import click

from router.app.cli import exits
from router.app.cli.exits import Failure
from router.app.cli.options import config_option, find_config, json_option, print_json
from router.app.cli.tables import say, size
from router.errors import ConfigError, RouterError
from router.model import InstanceInfo, format_id


@click.group(short_help="Verify or export what the spool holds.")
def spool() -> None:
    """The stored data, read beside a running router or without one. Nothing in the spool is changed.

    \b
    Examples:
      dicom-router spool verify
      dicom-router spool export /mnt/rescue
    """


def folder_of(config: Path | None, data_dir: Path | None) -> Path:
    """The spool's folder: of ``--data-dir``, else of the configuration. Raises Failure."""
    if data_dir is None:
        from router.app.config import load_config

        try:
            data_dir = load_config(find_config(config), os.environ).data_dir
        except ConfigError as error:
            raise Failure(
                "\n".join([*error.problems, "or name the folder with --data-dir"]), exits.BAD_CONFIG
            ) from None
    return data_dir / "spool"


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="[node] data_dir, if there is no configuration to take it from.",
)


@spool.command(short_help="Read everything and compare it with its checksums.")
@config_option
@data_dir_option
@json_option
def verify(config: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Read every record and compare it with its checksum. Exits 1 if anything is damaged.

    Records that a crash tore before they were answered, and those being written right now, count as unfinished: nobody
    was told that they are stored.

    \b
    Examples:
      dicom-router spool verify
      dicom-router spool verify --data-dir /var/lib/dicom-router --json
    """
    from router.app.cli import stored

    try:
        reports = [stored.examine(path) for path in stored.segments(folder_of(config, data_dir))]
    except (RouterError, OSError) as error:
        raise Failure(str(error)) from None
    damaged = [record for report in reports for record in report.damaged]
    headers = [report.number for report in reports if report.header_damaged]
    whole = sum(report.whole for report in reports)
    octets = sum(report.size for report in reports)
    unfinished = sum(report.unfinished for report in reports)
    rows = [
        {
            "segment": record.location.segment,
            "offset": record.location.offset,
            "instance": format_id(record.info.id) if record.info is not None else None,
            "sop_instance": record.info.sop_instance if record.info is not None else None,
            "problem": record.problem,
        }
        for record in damaged
    ]
    if as_json:
        found = {"segments": len(reports), "whole": whole, "bytes": octets, "unfinished": unfinished}
        print_json({**found, "damaged": rows, "damaged_headers": headers})
    else:
        say(f"{whole} records ({size(octets)}) in {len(reports)} segments are whole, {unfinished} unfinished")
        for row in rows:
            what = row["sop_instance"] or "an unknown instance"
            place = f"segment {row['segment']} at {row['offset']}"
            say(f"damaged: {what} in {place}: {row['problem']}", err=True, colour="red")
        for number in headers:
            click.secho(f"damaged: the header of segment {number}; its records explain themselves", fg="red", err=True)
    raise SystemExit(exits.FAILED if damaged or headers else exits.OK)


@spool.command(short_help="Write stored objects as DICOM files.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.argument("selectors", metavar="[UID|ACCESSION|ID]...", nargs=-1)
@config_option
@data_dir_option
@json_option
def export(folder: Path, selectors: tuple[str, ...], config: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Write what the spool holds, or the instances, series and studies named, to FOLDER as DICOM Part 10 files, data
    sets byte for byte, synced. Files are named by instance id. Works without ledger, configuration and running router.

    \b
    Examples:
      dicom-router spool export /mnt/rescue
      dicom-router spool export /mnt/rescue 1.2.840.99.1 ACC20260001
      dicom-router spool export /mnt/rescue --data-dir /var/lib/dicom-router
    """
    try:
        written, octets, damaged = _export(folder_of(config, data_dir), folder, frozenset(selectors))
    except OSError as error:
        raise Failure(f"{error.filename or folder}: {error.strerror}", exits.FAILED) from None
    except RouterError as error:
        raise Failure(str(error)) from None
    if as_json:
        print_json({"written": written, "bytes": octets, "not_whole": damaged})
    else:
        say(f"{written} files ({size(octets)}) written to {folder}")
        if damaged:
            click.secho(
                f"{damaged} records are not whole and were left out: dicom-router spool verify", fg="red", err=True
            )
    raise SystemExit(exits.FAILED if damaged or (selectors and not written) else exits.OK)


def _export(source: Path, target: Path, selectors: frozenset[str]) -> tuple[int, int, int]:
    """(files, bytes of data sets, records that are not whole). A record that was moved is there twice, by one id."""
    from router.app.cli import stored
    from router.dicom.part10 import file_meta
    from router.folders import make_folder
    from router.spool import durable

    make_folder(target, 0o700)
    written: set[int] = set()
    broken: set[int] = set()
    octets = unknown = 0
    for path in stored.segments(source):
        with stored.opened(path) as segment:
            if segment is None:
                continue
            for record in segment.records():
                info = record.info
                if info is None:
                    unknown += 1
                    continue
                if (selectors and not _named(info, selectors)) or info.id in written:
                    continue
                if not record.ok:
                    broken.add(info.id)
                    continue
                name = target / f"{format_id(info.id)}.dcm"
                part = name.with_suffix(".part")
                with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                    file.write(file_meta(info))
                    for piece in segment.data_set(record):
                        file.write(piece)
                    file.flush()
                    durable.sync_data(file.fileno())
                part.replace(name)
                written.add(info.id)
                octets += info.size
    durable.sync_directory(target)
    return len(written), octets, len(broken - written) + (0 if selectors else unknown)


def _named(info: InstanceInfo, selectors: frozenset[str]) -> bool:
    names = {info.sop_instance, info.series, info.study, info.accession, format_id(info.id)} - {""}
    return not selectors.isdisjoint(names)
