"""The whole demo, from servers to checks."""

from __future__ import annotations

import random
import re
import secrets
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import backtest_kit_mongo as bk
from backtest_kit import declare
from backtest_kit.events import Event
from backtest_kit.loading import load_strategy
from backtest_kit.moments import minute_text
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_verify.children import Process
from backtest_kit_verify.demo.candles import Series, load_series, store
from backtest_kit_verify.demo.checks import Outcome
from backtest_kit_verify.demo.connection import Connection, connected
from backtest_kit_verify.demo.errors import DemoError
from backtest_kit_verify.demo.evidence import Evidence, gather
from backtest_kit_verify.demo.fleet import KILL_BETWEEN, WORKER, Fleet, HostRun
from backtest_kit_verify.demo.host import STRATEGY, Task
from backtest_kit_verify.demo.swept import sweep
from backtest_kit_verify.undisturbed import replayed

__all__ = ["DATABASE", "LAST_MINUTES", "Options", "run_demo"]

DATABASE: Final = "backtest-kit-demo"
LAST_MINUTES: Final = 600
SHARING_FEWER_THAN: Final = 3
"""With fewer symbols each is traded by all variants, so that several processes always share what they can."""
SPARE_S: Final = 0.5
"""Beyond the lease time, until the cache is open for certain."""
STOP_S: Final = 15.0
IN_MEMORY: Final = {domain.name: "memory" for domain in DOMAINS if domain.name != "candle"}


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for; see the command's help.

    Attributes:
        worker: run one; otherwise the database's own must be at work.
    """

    candles: Path | None = None
    last_minutes: int | None = LAST_MINUTES
    kill: bool = False
    run: str = ""
    database: str = DATABASE
    worker: bool = True


def run_demo(options: Options, console: Console) -> Outcome:
    """Run it; `console` gets the progress.

    Raises:
        DemoError: the input is unusable or a process hangs.
        EmbeddedError, BacktestKitError: servers or settings are unusable.
    """
    run_id = options.run or f"{time.strftime('%y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
    if not re.fullmatch(r"[A-Za-z0-9_-]+", run_id):
        raise DemoError(f"A run is named with letters, digits, - and _, not {run_id!r}.")
    series = load_series(options.candles, options.last_minutes)
    for one in series:
        span = f"{minute_text(one.start_ms)} to {minute_text(one.end_ms)}"
        console.print(f"{one.symbol}: {len(one.candles):,} candles of a minute; traded from {span}", soft_wrap=True)
    with connected(options.database) as connection:
        console.print(f"Run {run_id} in database {options.database} on {connection.note}", soft_wrap=True)
        lease_s = int(connection.variables["CC_LEASE_MS"]) / 1000
        console.print(
            f"A Redis that is new to the database caches nothing for one lease time ({lease_s:g} s): waiting."
        )
        load_strategy(STRATEGY)
        bk.setup(**dict[str, Any](connection.variables), modes={"backtest": IN_MEMORY})
        try:
            return _on_servers(options, run_id, series, connection, console)
        finally:
            bk.shutdown()


def _on_servers(
    options: Options, run_id: str, series: Sequence[Series], connection: Connection, console: Console
) -> Outcome:
    declared = [one.name for one in declare.strategies.list()]
    variants = declared if len(series) < SHARING_FEWER_THAN else declared[:1]
    tasks = [
        Task(run_id, name, one.symbol, one.exchange, one.start_ms, one.end_ms) for one in series for name in variants
    ]
    runs = [HostRun(task, _kill_at(task) if options.kill else None) for task in tasks]
    bk.PersistStateAdapter.read_state_data("demo", run_id)  # The first use of Redis: the lease time counts from here.
    since_s = time.monotonic()
    new, known = store(series)
    console.print(f"candles: {new:,} new to the store, {known:,} were there")
    with _worker(options, connection, console) as worker, _progress(console) as progress:
        lease_s = int(connection.variables["CC_LEASE_MS"]) / 1000
        time.sleep(max(0.0, since_s + lease_s + SPARE_S - time.monotonic()))
        _live(runs, connection, progress)
        evidence = _gathered(run_id, tasks, series, progress)
        swept = sweep(series)
    reported, lost = _replayed(runs, evidence)
    return Outcome(runs, series, evidence, reported, lost, worker.get("exit"), swept)


def _kill_at(task: Task) -> int:
    return round(random.uniform(*KILL_BETWEEN) * task.minutes)


@contextmanager
def _worker(options: Options, connection: Connection, console: Console) -> Iterator[dict[str, int]]:
    """A worker, if one is wanted; its exit code is in what is given, after the block."""
    found: dict[str, int] = {}
    if not options.worker:
        yield found
        return
    process = Process(WORKER, connection.environment())
    process.begin()
    try:
        yield found
    finally:
        found["exit"] = process.end(signal.SIGTERM, STOP_S)
        if found["exit"]:
            console.print("The worker said last:", *process.output, sep="\n", markup=False, soft_wrap=True)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Bars that cannot be redrawn are noise in a file.
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _live(runs: Sequence[HostRun], connection: Connection, progress: Progress) -> None:
    bars = {id(run): progress.add_task(run.task.label, total=run.task.minutes) for run in runs}

    def on_progress(run: HostRun) -> None:
        again = f" [yellow](killed at {minute_text(run.killed.at_ms)}, restarted)[/]" if run.killed else ""
        progress.update(bars[id(run)], completed=run.minutes + 1, description=run.task.label + again)

    Fleet(runs, connection.environment()).run(on_progress)


def _gathered(run_id: str, tasks: Sequence[Task], series: Sequence[Series], progress: Progress) -> Evidence:
    bar = progress.add_task("audit", total=None)
    exchanges = {task.strategy: task.exchange for task in tasks}
    return gather(run_id, exchanges, series, lambda count, total: progress.update(bar, completed=count, total=total))


def _replayed(runs: Sequence[HostRun], evidence: Evidence) -> tuple[dict[str, list[Event]], int]:
    """A backtest of each host's minutes, by strategy; and how many answers were lost to kills."""
    found, lost = {}, 0
    for run in runs:
        rows = evidence.history[run.task.strategy]
        only = {int(row["scheduledAt"]) for row in rows} if run.killed else None
        found[run.task.strategy], left_out = replayed(run.task.job("backtest"), only)
        lost += left_out
    return found, lost
