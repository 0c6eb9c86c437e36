"""`bkm audit segment` and `bkm audit drop`: what is old goes into files, and then out of the database."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backtest_kit_mongo.audit.log import open_log
from backtest_kit_mongo.operate.backup.archive import Draft, open_backup
from backtest_kit_mongo.operate.deletion import note
from backtest_kit_mongo.operate.segments import drop_segment, export_segment
from backtest_kit_mongo.terminal import echo

from .bars import bar
from .moments import past_date
from .opening import opened

__all__ = ["drop", "segment"]


def segment(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Absent or empty: one for each segment.")],
    until: Annotated[str, typer.Option("--until", help="Records that were sealed before: a date, or milliseconds.")],
) -> None:
    """Put all records that were sealed before a moment into DIR, with the seals and with checksums.

    Each record is compared with its seal on the way. Make an anchor first (`bkm audit anchor`): with it, and DIR, the
    records can be proven without this database. `bkm audit drop DIR` then takes their payloads out of it.

    [bold]Examples[/]

    [cyan]bkm audit segment /archive/audit-2026-q3 --until 2026-10-01[/]

    Exit status: 0; 1 when a record is not what was sealed, or a server or disk failed; 2 when an argument is wrong.
    """
    with opened(open_log) as log, bar(Console(stderr=True), "records", None) as (progress, task):
        moment = min(past_date(until, "--until"), datetime.now(UTC))
        made = export_segment(
            log.database,
            Draft(directory),
            moment,
            lambda count, total: progress.update(task, advance=count, total=total),
        )
    records, seals = made.parts
    echo(
        f"{records.documents:,} records of {seals.documents:,} seals, {made.size_bytes / 1e6:,.1f} MB, in {directory} "
        f"(segment {made.name})"
    )


def drop(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What `bkm audit segment` has made.")],
    why: Annotated[str, typer.Option("--why", help="Why; kept with your name and the time.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Drop without asking.")] = False,
) -> None:
    """Take out of the database what a segment holds: payloads go, hashes stay, and `verify` holds as before.

    The checksums are compared first, and each record with the one in the database. Of each document the newest record
    stays whole: recovery goes on from it. Of the others key, times, writer and the hash that was sealed stay,
    because workers would take a record that is gone for a change that was lost. Keep DIR: what was dropped is nowhere
    else, and `bkm trace` does not find its signals any more.

    [bold]Examples[/]

    [cyan]bkm audit drop /archive/audit-2026-q3 --why 'retention of three months'[/]

    Exit status: 0; 1 when the segment is damaged or of another database, or a server failed (run it again); 2 when an
    argument is wrong.
    """
    with opened(open_log) as log:
        found = open_backup(directory)
        with bar(Console(stderr=True), "checking", found.manifest.size_bytes) as (progress, task):
            found.check(lambda count: progress.advance(task, count))
        question = f"Drop the payloads of {found.manifest.source} from the database?"
        if not (yes or (sys.stdin.isatty() and typer.confirm(question, err=True))):
            echo("Nothing was dropped: add --yes.")
            return
        said = note(f"segment {found.manifest.name}" + (f": {why}" if why else ""))
        with bar(Console(stderr=True), "dropping", None) as (progress, task):
            done = drop_segment(
                log.database, found, said, lambda count, total: progress.update(task, advance=count, total=total)
            )
    echo(
        f"{done.dropped:,} payloads dropped, their hashes stay: {done.before_bytes / 1e6:,.1f} MB became "
        f"{done.after_bytes / 1e6:,.1f} MB, before compression; {done.newest:,} records stay whole as their documents' "
        f"newest; {done.empty:,} had none"
    )
