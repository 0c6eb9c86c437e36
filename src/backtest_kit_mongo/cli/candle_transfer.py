"""What `bkm candles import`, `export` and `fetch` do: candles in and out, with progress bars."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.progress import Progress, TaskID

from backtest_kit_mongo.adapters.contracts import CandleReport
from backtest_kit_mongo.candles import files
from backtest_kit_mongo.candles.columns import Columns, take
from backtest_kit_mongo.candles.file_tables import PIPE
from backtest_kit_mongo.candles.frame import Candles
from backtest_kit_mongo.candles.intervals import INTERVALS, REFUSED, grid_of
from backtest_kit_mongo.errors import BacktestKitError, CallerError, EnvironmentFault
from backtest_kit_mongo.operate.fetching import Fetched, Source, fetch
from backtest_kit_mongo.terminal import echo, escape

from .bars import bar as _bar
from .candle_store import CandleStore, Chosen, moment_text, require_range
from .moments import past_ms, when_ms

__all__ = [
    "ImportStopped",
    "How",
    "Named",
    "export_files",
    "export_text",
    "fetch_candles",
    "import_files",
    "named_files",
]

CHUNK: Final = 10_000
"""Candles stored at once: one bulk write and one change event, and what the progress bar moves by."""


class ImportStopped(EnvironmentFault):
    """The store failed while a file was imported. A part of the file is stored."""


class How(NamedTuple):
    """How files are imported.

    Attributes:
        sparse: see `plausible.py`; the user says that the interval is right.
        replace: replace stored candles that have other values.
        dry_run: only say how many would be replaced.
        said: what the user says of the lines of the files.
    """

    said: files.Said
    sparse: bool = False
    replace: bool = False
    dry_run: bool = False


class Named(NamedTuple):
    """A file and the series that it holds."""

    path: Path
    symbol: str
    interval: str


@dataclass(slots=True)
class Imported:
    """What became of the candles of one file.

    Attributes:
        new: stored now.
        known: stored before, with the same values or, `conflicts` of them, with others; what was stored is kept.
        unclosed: not closed yet, so refused.
        replaced: stored before with other values, and replaced, or in a dry run to be replaced; None if nobody asked
            for it.
        error: why the file could not be used; nothing of it is stored. One that was left out has no symbol and
            interval.
        notes: what was found out or assumed of the file.
    """

    file: str
    symbol: str | None = None
    interval: str | None = None
    candles: int = 0
    new: int = 0
    known: int = 0
    conflicts: int = 0
    unclosed: int = 0
    replaced: int | None = None
    error: str | None = None
    notes: list[str] = field(default_factory=list)

    def add(self, report: CandleReport) -> None:
        self.new += report.inserted
        self.known += report.known
        self.conflicts += len(report.conflicts)
        self.unclosed += len(report.unclosed)

    def __str__(self) -> str:
        reported = [
            f"{self.candles:,} candles of {self.symbol} {self.interval}",
            f"{self.new:,} new",
            f"{self.known:,} known",
        ]
        if self.replaced is not None:
            reported.append(f"{self.replaced:,} replaced")
        more = ((self.conflicts, "conflicts, see `bkm candles conflicts`"), (self.unclosed, "refused: not closed yet"))
        return f"{self.file}: {', '.join((*reported, *(f'{count:,} {what}' for count, what in more if count)))}"


def named_files(
    paths: Sequence[Path], symbol: str | None, interval: str | None, offset: str | None = None
) -> tuple[list[Named], list[Imported]]:
    """The files to import and their series: what is given, else what a file's name says; and what of a directory is
    left out.

    Raises:
        CallerError: there is no such file, its name does not say what it holds, the interval is unknown, or files that
            are named after different series would be stored as one.
    """
    if interval is not None:
        grid_of(interval)
    found = []
    names: dict[tuple[str, str], files.SeriesName] = {}
    inside = files.find(paths, symbol, interval)
    for path in inside.files:
        said = files.series_of(path)
        of, every = (symbol, interval) if said is None else (symbol or said.symbol, interval or said.interval)
        if path != PIPE and not files.has_candles(path):
            raise files.WrongFile(f"{path}: {files.KINDS}.")
        if of is None or every is None:
            raise files.WrongFile(f"{path}: {files.UNNAMED}")
        every = f"{every}+{offset}" if offset else every
        if every not in INTERVALS:
            raise files.WrongFile(f"{path}: {REFUSED}, not {every!r:.40}.")
        found.append(Named(path, of, every))
        if said is not None and said != names.setdefault((of, every), said):
            raise CallerError(
                f"{path} and the files of {' '.join(names[of, every])} would all become {of} {every}, and what is "
                "stored stays: import each series for itself."
            )
    return found, [Imported(str(path), error=f"{path}: left out: {why}") for path, why in inside.left_out.items()]


def import_files(
    store: CandleStore,
    named: Sequence[Named],
    left_out: Sequence[Imported],
    exchange: str,
    messages: Console,
    how: How,
    *,
    as_json: bool,
) -> bool:
    """Import one file after the other; returns whether all could be used. One that cannot is reported and left out.

    Raises:
        ImportStopped: the store failed; the message says how far the file had come.
    """
    done = []
    began_s = time.perf_counter()
    every: list[Named | Imported] = [*named, *left_out]
    for one in every:
        imported = one if isinstance(one, Imported) else _imported(store, one, exchange, messages, how)
        if imported.error is not None:
            messages.print(f"[red]Error:[/] {escape(imported.error)}", soft_wrap=True)
        if as_json:
            echo(json.dumps(asdict(imported)))
        elif imported.error is None:
            echo(str(imported))
        done.append(imported)
    if how.dry_run:
        messages.print("Nothing was stored or replaced: these are the candles that --replace would replace; add --yes.")
    elapsed_s, count = time.perf_counter() - began_s, sum(one.candles for one in done)
    messages.print(f"{count:,} candles in {elapsed_s:.1f} s ({count / elapsed_s:,.0f} candles/s).")
    return not any(one.error for one in done)


def _imported(store: CandleStore, one: Named, exchange: str, messages: Console, how: How) -> Imported:
    imported = Imported(str(one.path), one.symbol, one.interval)
    try:
        with messages.status(f"Reading {escape(one.path.name)} ..."):
            columns, grid = files.read_file(
                one.path, grid_of(one.interval), said=how.said, sparse=how.sparse, on_note=imported.notes.append
            )
        one, imported.interval = one._replace(interval=grid.name), grid.name
        for note in imported.notes:
            messages.print(f"{escape(one.path.name)}: {escape(note)}", soft_wrap=True, highlight=False)
        imported.candles = len(columns)
        if how.replace:
            imported.replaced = _replace(store, one, columns, exchange, dry_run=how.dry_run)
        if not how.dry_run:
            _store(store, one, columns, exchange, imported, messages)
    except CallerError as error:
        # Not all know of files. And nothing of this one was used.
        imported.error = str(error) if str(one.path) in str(error) else f"{one.path}: {error}"
        imported.candles = 0
    return imported


def _replace(store: CandleStore, one: Named, columns: Columns, exchange: str, *, dry_run: bool) -> int:
    from backtest_kit_mongo.operate.removal import replace

    instance = store.instance(exchange, one.symbol, one.interval)
    return replace(instance, store.removal(instance), instance.checked(columns, sparse=True), dry_run=dry_run).candles


def _store(
    store: CandleStore, one: Named, columns: Columns, exchange: str, imported: Imported, messages: Console
) -> None:
    instance = store.instance(exchange, one.symbol, one.interval)
    with _bar(messages, one.path.name, len(columns)) as (progress, task):
        for start in range(0, len(columns), CHUNK):
            chunk = take(columns, slice(start, start + CHUNK))
            try:
                imported.add(instance.write_candles(chunk, sparse=True))  # The file was looked at as a whole.
            except BacktestKitError as error:
                raise ImportStopped(
                    f"{one.path}: stopped at candle {start + 1:,} of {len(columns):,}, which opens at "
                    f"{moment_text(int(chunk.timestamp[0]))}: {error} All candles before it are stored, perhaps some "
                    "of the next "
                    f"{len(chunk):,}. The same command goes on: what is stored is recognised."
                ) from error
            progress.advance(task, len(chunk))


def export_files(
    store: CandleStore, chosen: Chosen, directory: Path, suffix: str, since: str | None, until: str | None
) -> None:
    """Write one file a series.

    Raises:
        OSError: a file cannot be written; those that were named are complete.
        ParquetMissing: the suffix is Parquet's and pyarrow is not installed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for candles in _chosen(store, chosen, since, until):
        path = directory / files.name_of(candles.symbol, candles.interval, suffix)
        files.write_file(candles.columns, path)
        echo(f"{path}: {len(candles):,} candles")


def export_text(store: CandleStore, chosen: Chosen, since: str | None, until: str | None) -> None:
    """Write one series as CSV to standard output.

    Raises:
        CallerError: more than one series is chosen.
    """
    found = list(_chosen(store, chosen, since, until))
    if len(found) > 1:
        series = ", ".join(f"{each.symbol} {each.interval}" for each in found)
        raise CallerError(f"Standard output takes one series, chosen are {series}; add --symbol and --interval.")
    files.write_csv(found[0].columns, sys.stdout)


def _chosen(store: CandleStore, chosen: Chosen, since: str | None, until: str | None) -> Iterator[Candles]:
    spans = store.spans(chosen, required=True)
    return (store.read(series, span, since, until) for series, span in spans.items())


def fetch_candles(
    store: CandleStore,
    source: Source,
    exchange: str,
    symbol: str,
    since: str,
    until: str | None,
    messages: Console,
    *,
    sparse: bool = False,
) -> Fetched:
    """Fetch what is missing of one series and say what came of it.

    Raises:
        FetchFailed: the exchange failed; what was fetched before is stored.
    """
    first = source.grid.ceil(past_ms(since, "--since"))
    last = source.grid.ceil(when_ms(until, "--until")) if until else source.clock_ms()
    require_range(first, last, source.interval)
    instance = store.instance(exchange, symbol, source.interval)
    with _bar(messages, symbol, None) as (progress, task):
        moved = partial(_moved, progress, task)
        write = partial(instance.write_candles, sparse=sparse)
        fetched = fetch(source, instance.read_candles, write, first, last, moved)
    more = (
        (len(fetched.conflicts), "conflicts, see `bkm candles conflicts`"),
        *((count, f"rows left out, {column}: {why}") for column, (count, why) in fetched.reasons.items()),
    )
    reported = [f"{fetched.inserted:,} new", f"{fetched.missing:,} still missing"]
    reported += [f"{count:,} {what}" for count, what in more if count]
    end = f"up to {moment_text(fetched.until)}"
    echo(f"{exchange} {symbol} {source.interval} {end}: {', '.join(reported)} ({fetched.requests:,} requests)")
    return fetched


def _moved(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)
