"""How many reads MongoDB gets for one invalidation while many readers want the same key.

While a write is under way everybody misses. The threads of one process then share finds (single-flight); the bare
cache-asides do not. Each reader asks again as soon as it has its answer. MongoDB's finds are counted by a listener in
the driver, from before the invalidation until the readers have had several answers each.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING

from coherence_faults import Subject
from measuring import in_threads
from pymongo import monitoring
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from coherence import Bench

READERS = 64
INVALIDATIONS = 30
SETTLED_READS = 4
"""Answers that each reader gets, on average, before an invalidation counts as over."""
TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Herd:
    """Finds that MongoDB got for one invalidation: on average and at most."""

    name: str
    invalidation: str
    finds_mean: float
    finds_max: int


class Finds(monitoring.CommandListener):
    """Counts the finds of all clients that are made after it was registered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name == "find":
            with self._lock:
                self.count += 1

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        return

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        return


def count_herds(connect: Callable[[], AbstractContextManager[Bench]]) -> list[Herd]:
    """Readers through one client, invalidations through another."""
    finds = Finds()
    monitoring.register(finds)
    found = []
    with connect() as readers, connect() as other:
        for reading, writing in zip(readers.subjects(), other.subjects(), strict=True):
            for name, invalidate in (
                ("a write by another client", writing.write),
                ("the entry is lost", writing.evict),
            ):
                counts = _herds(reading, invalidate, finds)
                found.append(Herd(reading.name, name, mean(counts), max(counts)))
    return found


def _herds(subject: Subject, invalidate: Callable[[int], object], finds: Finds) -> list[int]:
    stop = threading.Event()
    answers = [0] * READERS
    counts: list[int] = []

    def read(number: int) -> None:
        while not stop.is_set():
            subject.read(0)
            answers[number] += 1

    def drive() -> None:
        try:
            _settle(answers)
            for _ in range(INVALIDATIONS):
                before = finds.count
                invalidate(0)
                _settle(answers)
                counts.append(finds.count - before)
        finally:
            stop.set()

    in_threads([*(lambda number=number: read(number) for number in range(READERS)), drive])
    return counts


def _settle(answers: list[int]) -> None:
    goal = sum(answers) + READERS * SETTLED_READS
    end = time.monotonic() + TIMEOUT_S
    while sum(answers) < goal:
        if time.monotonic() > end:
            raise TimeoutError(f"{READERS} readers got no answers for {TIMEOUT_S} s")
        time.sleep(0.001)


def show_herds(rows: Iterable[Herd], console: Console) -> None:
    table = Table(
        title=f"herd: finds at MongoDB for one invalidation, {READERS} readers, {INVALIDATIONS} invalidations each"
    )
    for heading in ("", "invalidation", "mean", "max"):
        table.add_column(heading, justify="right" if heading in ("mean", "max") else "left")
    for row in rows:
        table.add_row(row.name, row.invalidation, f"{row.finds_mean:.1f}", f"{row.finds_max}")
    console.print(table)
