"""The whole demo, from servers to checks."""

import re
import secrets
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import backtest_kit_mongo as bk
from backtest_kit_mongo.domains.table import CANDLE
from backtest_kit_verify.demo import audited
from backtest_kit_verify.demo.book import Host
from backtest_kit_verify.demo.candles import Cached, Series, cache_windows, load_series
from backtest_kit_verify.demo.checks import Outcome
from backtest_kit_verify.demo.connection import Connection, connected
from backtest_kit_verify.demo.errors import DemoError
from backtest_kit_verify.demo.evidence import Evidence, count_documents, expect, read_back, stored_records
from backtest_kit_verify.demo.fleet import WORKER, Fleet, HostRun, Process
from backtest_kit_verify.demo.strategy import VARIANTS
from backtest_kit_verify.demo.trader import Task

__all__ = ["DATABASE", "LAST_BARS", "Options", "new_run_id", "run_demo"]

DATABASE = "backtest-kit-demo"
LAST_BARS = 1000
SHARING_FEWER_THAN = 3
"""With fewer symbols each is traded by all variants, so that several processes always share what they can."""
KILL_AT = 0.4
AUDIT_STALLED_S = 60.0
"""No audit record for so long means that none will come; twice what a worker takes to claim another's entries."""
STOP_S = 15.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for; see the command's help.

    Attributes:
        worker: run one; otherwise the database's own must be at work.
        restarts: how often hosts may fail and are started again, in all.
    """

    candles: Path | None = None
    last_bars: int | None = LAST_BARS
    kill: bool = False
    run: str = ""
    database: str = DATABASE
    worker: bool = True
    restarts: int = 0


def new_run_id() -> str:
    """Short, new and sortable."""
    return f"{time.strftime('%y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def run_demo(options: Options, console: Console) -> Outcome:
    """Run it; `console` gets the progress.

    Raises:
        DemoError: the input is unusable or a process hangs.
        EmbeddedError, BacktestKitError: servers or settings are unusable.
    """
    run_id = options.run or new_run_id()
    if not re.fullmatch(r"[A-Za-z0-9_-]+", run_id):
        raise DemoError(f"A run is named with letters, digits, - and _, not {run_id!r}.")
    series = load_series(options.candles, options.last_bars)
    for one in series:
        dropped = one.available - len(one.candles)
        older = f" ({dropped:,} older ones are left out)" if dropped else ""
        console.print(f"{one.symbol} {one.interval}: {len(one.candles):,} candles{older}")
    with connected(options.database) as connection:
        console.print(f"Run {run_id} in database {options.database} on {connection.note}", soft_wrap=True)
        lease_s = int(connection.variables["CC_LEASE_MS"]) / 1000
        console.print(f"A Redis that is new to the database caches nothing for one lease time ({lease_s:g} s).")
        with _own_setup(connection):
            return _on_servers(options, run_id, series, connection, console)


@contextmanager
def _own_setup(connection: Connection) -> Iterator[None]:
    """This process is one more host: it caches the candles and reads everything back."""
    bk.setup(**dict[str, Any](connection.variables))
    try:
        yield
    finally:
        bk.shutdown()


def _on_servers(
    options: Options, run_id: str, series: Sequence[Series], connection: Connection, console: Console
) -> Outcome:
    environment = connection.environment()
    variants = tuple(VARIANTS) if len(series) < SHARING_FEWER_THAN else ("medium",)
    pairs = [(Host(run_id, name, one.symbol, one.interval, one.exchange), one) for one in series for name in variants]
    runs = [HostRun(Task(host, tuple(one.windows)), len(one.candles)) for host, one in pairs]
    worker = Process(WORKER, environment) if options.worker else None
    if worker is not None:
        worker.begin()
    try:
        with _progress(console) as progress:
            cached = _cache_candles(series, progress)
            fleet = Fleet(runs, environment, KILL_AT if options.kill else None, options.restarts)
            _replay(fleet, runs, progress)
            evidence = _gather(run_id, pairs, series, progress)
        consumed = audited.is_consumed()
    finally:
        worker_exit = 0 if worker is None else worker.end(signal.SIGTERM, STOP_S)
    fetched, stored = (sum(numbers) for numbers in zip(*cached, strict=True))
    console.print(f"candles: {fetched:,} fetched, {stored:,} from the store")
    if worker is not None and worker_exit:
        console.print("The worker said last:", *worker.output, sep="\n", markup=False, soft_wrap=True)
    return Outcome(runs, series, evidence, worker_exit, consumed, options.kill, worker is None)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Bars that cannot be redrawn are noise in a file.
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _cache_candles(series: Sequence[Series], progress: Progress) -> list[Cached]:
    bar = progress.add_task("caching candles", total=sum(len(one.candles) for one in series))
    return [cache_windows(one, lambda count: progress.advance(bar, count)) for one in series]


def _replay(fleet: Fleet, runs: Sequence[HostRun], progress: Progress) -> None:
    bars = {id(run): progress.add_task(run.task.host.label, total=run.bars_total) for run in runs}

    def on_progress(run: HostRun) -> None:
        label = run.task.host.label
        again = f" [yellow](killed at {run.killed.after_bars:,}, restarted)[/]" if run.killed else ""
        again += f" [yellow](failed {len(run.failures)} times, restarted)[/]" if run.failures else ""
        progress.update(bars[id(run)], completed=run.bars, description=label + again)

    with fleet:
        fleet.run(on_progress)


def _gather(
    run_id: str, pairs: Sequence[tuple[Host, Series]], series: Sequence[Series], progress: Progress
) -> Evidence:
    expected = expect(pairs)
    keys = tuple(expected.last)
    records = stored_records(keys)
    events = sum(record.rev for record in records.values())
    bar = progress.add_task("audit", total=events)
    audited.await_audit(run_id, events, AUDIT_STALLED_S, lambda count: progress.update(bar, completed=count))
    bar = progress.add_task("reading back", total=len(keys))
    read = read_back(keys, lambda count: progress.advance(bar, count))
    collection = bk.get_mongo()[bk.get_config().database][CANDLE.collection]
    contexts = [{"exchangeName": one.exchange, "symbol": one.symbol, "interval": one.interval} for one in series]
    return Evidence(
        expected=expected,
        records=records,
        read=read,
        documents=count_documents(run_id),
        revisions=audited.revisions(run_id),
        candles=[_stored_candles(one) for one in series],
        candle_audits=[audited.candle_batches(one) for one in series],
        candle_documents=[collection.count_documents(context) for context in contexts],
    )


def _stored_candles(series: Series) -> list[object] | None:
    found: list[object] = []
    for since_ms, count in series.windows:
        window = bk.PersistCandleAdapter.read_candles_data(
            series.symbol, series.interval, series.exchange, count, since_ms, 0
        )
        if window is None:
            return None
        found.extend(window)
    return found
