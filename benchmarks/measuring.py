"""How the benchmarks measure: ours and the floor in turns, on the same servers, in one run.

Noise. Absolute times belong to the machine and to whatever else it does; the ratios are what to read. Ours and the
floor alternate in twenty short blocks (ours, floor, ours, floor, ...), so a slow spell meets both; medians ignore the
odd stall of a disk or a scheduler; and beside each ratio stands the middle half of the ratios of the single blocks:
where it is wide, the machine was not quiet enough to tell.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from backtest_kit_mongo import embedded

BLOCKS = 20
Action = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a report. `ratio_low` and `ratio_high` are the quartiles of the blocks' own ratios."""

    name: str
    p50_us: float
    p99_us: float
    floor: str
    floor_p50_us: float
    ratio: float
    ratio_low: float
    ratio_high: float
    goal: float | None


@dataclass(frozen=True, slots=True)
class Case:
    """`ours` against `floor`, `count` calls each by each of `threads` threads.

    `prepare` runs before each call of ours, `floor_prepare` before each of the floor's; neither is measured.
    """

    name: str
    ours: Action
    floor_name: str
    floor: Action
    goal: float | None
    count: int
    threads: int = 1
    prepare: Action | None = None
    floor_prepare: Action | None = None


def percentile(samples_ns: Sequence[int], share: float) -> float:
    """Microseconds."""
    ordered = sorted(samples_ns)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1000


def timed(action: Action, index: int) -> int:
    """Nanoseconds."""
    start = time.perf_counter_ns()
    action(index)
    return time.perf_counter_ns() - start


def measure(case: Case) -> Row:
    """Alternate blocks of ours and of the floor; with threads, all threads work on the same side at a time."""
    ours: list[list[int]] = []
    floor: list[list[int]] = []
    block = max(1, case.count // BLOCKS)
    for start in range(0, case.count, block):
        indexes = range(start, start + block)
        ours.append(run_block(case.ours, case.prepare, indexes, case.threads))
        floor.append(run_block(case.floor, case.floor_prepare, indexes, case.threads))
    p50, base = percentile(_all(ours), 0.5), percentile(_all(floor), 0.5)
    ratios = [statistics.median(x) / statistics.median(y) for x, y in zip(ours, floor, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    p99 = percentile(_all(ours), 0.99)
    return Row(case.name, p50, p99, case.floor_name, base, p50 / base, low, high, case.goal)


def _all(blocks: Iterable[list[int]]) -> list[int]:
    return [sample for block in blocks for sample in block]


def run_block(action: Action, prepare: Action | None, indexes: range, threads: int) -> list[int]:
    """Nanoseconds of each call. Every call of every thread gets an index of its own."""
    samples_ns: list[int] = []

    def work(offset: int) -> None:
        for index in indexes:
            own = index * threads + offset
            if prepare is not None:
                prepare(own)
            samples_ns.append(timed(action, own))

    if threads == 1:
        work(0)
    else:
        in_threads([lambda offset=offset: work(offset) for offset in range(threads)])  # type: ignore[misc]
    return samples_ns


def in_threads(jobs: Sequence[Callable[[], object]]) -> None:
    """Run each job in a thread of its own, until all are done.

    Raises:
        Exception: the first one that a job raised; a thread that died unnoticed would make the numbers better.
    """
    failures: list[Exception] = []

    def guarded(job: Callable[[], object]) -> None:
        try:
            job()
        except Exception as cause:
            failures.append(cause)

    workers = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]


@contextmanager
def servers(database: str) -> Iterator[dict[str, Any]]:
    """Settings for the configured servers (none are needed), or for private ones in a temporary directory."""
    if os.environ.get("CC_MONGO_CONNECTION_STRING"):
        yield {}
        return
    with tempfile.TemporaryDirectory() as name:
        running = embedded.up(Path(name), die_with_caller=True)
        try:
            yield {
                "mongo_connection_string": running.mongo_connection_string(database),
                "redis_host": running.redis_host,
                "redis_port": running.redis_port,
            }
        finally:
            embedded.down(Path(name))


def wide_console() -> Console:
    """For tables: into a file or a pipe they are written as wide as they need."""
    console = Console()
    return console if console.is_terminal else Console(width=130)


def show(rows: Iterable[Row], title: str, console: Console) -> None:
    """Print rows as a table; goals are judged only where there are any."""
    table = Table(title=title)
    for heading in ("case", "p50", "p99", "floor", "floor p50", "ratio", "of blocks", "goal"):
        words = heading in ("case", "floor")
        table.add_column(heading, justify="left" if words else "right", no_wrap=not words)
    for row in rows:
        goal = "" if row.goal is None else f"<= {row.goal:g}"
        mark = "" if row.goal is None else (" [green]met[/]" if row.ratio <= row.goal else " [red]missed[/]")
        table.add_row(
            row.name,
            f"{row.p50_us:,.0f}",
            f"{row.p99_us:,.0f}",
            row.floor,
            f"{row.floor_p50_us:,.0f}",
            f"{row.ratio:.2f}",
            f"{row.ratio_low:.2f}-{row.ratio_high:.2f}",
            goal + mark,
        )
    console.print(table)
