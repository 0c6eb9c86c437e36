"""`bkm audit`: ask the audit log. All of it only reads.

What a program may want goes to standard output, everything said to the user to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backtest_kit_mongo.audit import Anchor, Gap, Report, gaps, verify
from backtest_kit_mongo.audit.export import export_jsonl, export_parquet, to_json
from backtest_kit_mongo.audit.keytext import format_key
from backtest_kit_mongo.audit.log import Snapshot
from backtest_kit_mongo.audit.records import AuditRecord
from backtest_kit_mongo.audit.show import line, timeline
from backtest_kit_mongo.errors import CallerError
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.terminal import echo, escape

from .audit_anchors import anchor, consistency, kept_anchors, prove
from .audit_erasing import erase_command
from .audit_opening import KeyText, open_audit_log
from .audit_segments import drop, segment
from .moments import past_date, simulated_ms

__all__ = ["ExitCode", "audit"]


audit = typer.Typer(
    name="audit",
    help="Ask the audit log: every change of every document, sealed.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Domain = Annotated[str | None, typer.Option("--domain", help="Only this domain.")]
Symbol = Annotated[str | None, typer.Option("--symbol", help="Only keys with this symbol, for example BTC/USDT.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


audit.command()(anchor)
audit.command()(prove)
audit.command("erase")(erase_command)
audit.command()(consistency)
audit.command()(segment)
audit.command()(drop)


@audit.callback()
def _group() -> None:
    """Ask the audit log: every change of every document, sealed. Servers come from the CC_ variables."""


@audit.command("verify")
def verify_command(
    anchor: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER:HASH",
            help="A seal as an earlier verify printed it; tells whether anything before it was rewritten.",
        ),
    ] = None,
    anchors: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Lines that `bkm audit anchor` made, or the URI of the database where they are; each is checked.",
        ),
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(metavar="PEM", help="With --anchors: each must be signed by this Ed25519 key.")
    ] = None,
    findings_max: Annotated[int, typer.Option("--findings", min=1, help="Stop after so many findings.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Find the records and seals that were altered, deleted or doubled, the first of them first.

    Every sealed record is compared with its seal, every seal with the one before it. Records wait about a second to be
    sealed. With anchors, kept outside the database, even a log that was rewritten or shortened as a whole is found out:
    `bkm audit anchor`.

    [bold]Examples[/]

    [cyan]bkm audit verify[/]

    [cyan]bkm audit verify --anchor 1234:9f2c...[/]     nothing before seal 1234 has changed since

    [cyan]bkm audit verify --anchors /mnt/other/anchors.jsonl[/]     the log as each anchor saw it

    [cyan]bkm audit verify --json | jq .findings[/]

    Exit status: 0 when all is as it was sealed, 4 when not, 1 when that could not be found out.
    """
    console = Console(stderr=True)
    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with open_audit_log() as log:
        known = Anchor.parse(anchor) if anchor else None
        kept, foreign = kept_anchors(anchors, public_key)
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("verifying", total=None)
            report = verify(
                log.database,
                anchor=known,
                anchors=kept,
                findings_max=findings_max,
                on_progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
        holes = list(islice(gaps(log.database), 100))
    report.findings[:0] = foreign
    if len(report.findings) >= findings_max:
        console.print(f"Stopped after {findings_max:,} findings; there may be more: --findings.")
    _print_report(report, holes, as_json=as_json)
    if not report.clean:
        raise typer.Exit(ExitCode.DIFFERS)


def _print_report(report: Report, holes: Sequence[Gap], *, as_json: bool) -> None:
    found = [{"kind": one.kind.value, "where": one.where, "detail": one.detail} for one in report.findings]
    waiting = [
        {"key": format_key(one.domain, one.key), "document": one.document_id, "missing": one.missing} for one in holes
    ]
    last = None if report.last is None else str(report.last)
    if as_json:
        counts = {
            name: getattr(report, name) for name in ("clean", "seals", "records", "unsealed", "erased", "restores")
        }
        echo(json.dumps({**counts, "anchor": last, "findings": found, "gaps": waiting}, indent=2))
        return
    for one in found:
        echo(f"{one['kind']}: {one['where']}: {one['detail']}")
    for hole in waiting:
        echo(f"gap, not tampering: {hole['key']} ({hole['document']}) misses revisions {hole['missing']}")
    echo(f"{'clean' if report.clean else 'NOT CLEAN'}: {report.records:,} records in {report.seals:,} seals")
    if report.erased:
        echo(f"erased payloads: {report.erased:,}; `bkm audit show KEY` says by whom and why")
    for said in report.restores:
        echo(f"restored: {said}")
    echo(f"not sealed yet: {report.unsealed:,}")
    echo(f"anchor: {last or 'none yet'}")


@audit.command()
def tail(
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="How many of the newest records.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new records until Ctrl-C.")] = False,
    domain: Domain = None,
    symbol: Symbol = None,
    as_json: AsJson = False,
) -> None:
    """Show the newest records.

    [bold]Examples[/]

    [cyan]bkm audit tail[/]

    [cyan]bkm audit tail --follow --domain signal --symbol BTC/USDT[/]

    [cyan]bkm audit tail -n 0 --follow --json | jq .payload[/]
    """
    with open_audit_log() as log:
        chosen = log.follow if follow else log.tail
        for record in chosen(count, domain=domain, symbol=symbol):
            echo(to_json(record) if as_json else line(record))
            sys.stdout.flush()  # A pipe would hold a followed record back.


@audit.command()
def show(key: KeyText, as_json: AsJson = False) -> None:
    """Show all that ever happened to a key, with the differences from revision to revision.

    [bold]Examples[/]

    [cyan]bkm audit show signal/BTC%2FUSDT/trend/binance[/]

    [cyan]bkm audit show storage/live/b7c1 --json[/]
    """
    with open_audit_log() as log:
        records = log.timeline(key)
        shown = False
        for text in map(to_json, records) if as_json else timeline(records):
            shown = True
            echo(text)
    if not shown:
        Console(stderr=True).print("No record of this key.")


@audit.command()
def step(name: Annotated[str, typer.Argument(metavar="STEP")], as_json: AsJson = False) -> None:
    """Show all records of one step, whose id `tail` and `show` print. Goes through the whole log.

    [bold]Examples[/]

    [cyan]bkm audit step 7c020cd4f12e3c50[/]
    """
    with open_audit_log() as log:
        records = log.of_step(name)
    for record in records:
        echo(to_json(record) if as_json else line(record))
    if not records:
        Console(stderr=True).print("No record of this step.")


@audit.command()
def asof(
    key: KeyText,
    when: Annotated[
        str | None, typer.Option(metavar="T", help="Simulation time: milliseconds, or a date as 2024-01-01T12:00.")
    ] = None,
    at: Annotated[str | None, typer.Option(metavar="WALL", help="Wall clock: a date, or milliseconds.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a key held at some moment. Dates without a zone are UTC.

    With --when it never looks ahead: it is the newest revision whose simulation time is not later. With --at it is the
    newest one written by then, by the writers' clocks. A removed document reads as absent.

    [bold]Examples[/]

    [cyan]bkm audit asof state/b7c1/levels --when 2024-01-01T12:00[/]

    [cyan]bkm audit asof signal/BTC%2FUSDT/trend/binance --at 2024-01-01T12:00:30+02:00[/]
    """
    console = Console(stderr=True)
    with open_audit_log() as log:
        if (when is None) == (at is None):
            raise CallerError("give either --when (simulation time) or --at (wall clock)")
        asked = {"at": past_date(at, "--at")} if at else {"when": simulated_ms(str(when), "--when")}
        found = log.asof(key, **asked)
        is_known = found.record is not None or any(True for _ in log.timeline(key))
    _print_snapshot(found, console, is_known=is_known, as_json=as_json)


@audit.command()
def export(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; without it, standard output.")] = None,
    file_format: Annotated[
        Literal["jsonl", "parquet"], typer.Option("--format", help="parquet needs the extra `parquet` and --out.")
    ] = "jsonl",
    domain: Domain = None,
    symbol: Symbol = None,
) -> None:
    """Write the audit log for other programs. A file appears only when it is complete.

    JSON has no infinity, dates or bytes; in payloads they are written as MongoDB's Extended JSON.

    [bold]Examples[/]

    [cyan]bkm audit export --out audit.jsonl[/]

    [cyan]bkm audit export --domain signal | jq -c '[.rev, .payload]'[/]

    [cyan]bkm audit export --format parquet --out audit.parquet[/]
    """
    console = Console(stderr=True)
    with open_audit_log() as log:
        if out is None and file_format == "parquet":
            raise CallerError("--format parquet needs --out FILE")
        total = log.count(domain=domain, symbol=symbol)
        with Progress(console=console, transient=True) as progress:
            records = progress.track(log.records(domain=domain, symbol=symbol), total=total, description="exporting")
            count = export_jsonl(records, sys.stdout) if out is None else _write(records, out, file_format)
    console.print(f"{count:,} records{f' in {escape(str(out))}' if out else ''}.", soft_wrap=True)


def _write(records: Iterable[AuditRecord], out: Path, file_format: str) -> int:
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        if file_format == "parquet":
            count = export_parquet(records, partial)
        else:
            with partial.open("w", encoding="utf-8") as file:
                count = export_jsonl(records, file)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _print_snapshot(found: Snapshot, console: Console, *, is_known: bool, as_json: bool) -> None:
    record = found.record
    if as_json:
        of_record = None if record is None else json.loads(to_json(record))
        echo(json.dumps({"exists": found.exists, "record": of_record, "lost": found.lost}, indent=2))
    elif record is None:
        # A key that exists may have no record: no worker ran, or none that keeps an audit log.
        reported = "no revision is that old" if is_known else "the audit log has no record of this key"
        echo(f"absent: {reported}")
    else:
        echo(line(record))
        echo(json.dumps(json.loads(to_json(record))["payload"], indent=2) if found.exists else "absent: removed")
    if found.lost:
        revisions = ", ".join(map(str, found.lost))
        console.print(
            f"[yellow]Revisions {revisions} directly after it are lost; one of them may already have been in force.[/]"
        )
