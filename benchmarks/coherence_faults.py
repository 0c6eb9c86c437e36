"""Stale values, counted by revision: while the load runs, and in the pauses when nothing is written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from measuring import in_threads
from rich.console import Console
from rich.table import Table

HOT_KEYS = 4
WRITERS = 4
READERS = 12
BURST_S = 0.2


@dataclass(frozen=True, slots=True)
class Subject:
    """A store to be loaded. Keys are numbers; `read` and `write` return revisions; `evict` drops a cache entry."""

    name: str
    read: Callable[[int], int]
    write: Callable[[int], int]
    evict: Callable[[int], object]


@dataclass(slots=True)
class Mistakes:
    """What went wrong with one subject.

    Attributes:
        stale_reads: reads below the newest revision that some call had returned before they began.
        worst_behind: by how many revisions at most.
        checked: entries compared with MongoDB while all was quiet.
        stale_entries: of those, how many were older; without a further write they stay so until their TTL.
    """

    name: str
    reads: int = 0
    writes: int = 0
    stale_reads: int = 0
    worst_behind: int = 0
    checked: int = 0
    stale_entries: int = 0


@dataclass(slots=True)
class _Load:
    """One burst of writers and readers over the hot keys, remembering the newest revision that anyone has seen."""

    subject: Subject
    mistakes: Mistakes
    newest: list[int]
    until_s: float = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, first: int) -> None:
        index = first
        while time.monotonic() < self.until_s:
            key = index % HOT_KEYS
            self._saw(key, self.subject.write(key))
            with self.lock:
                self.mistakes.writes += 1
            index += 1

    def read(self, first: int) -> None:
        index = first
        while time.monotonic() < self.until_s:
            key = index % HOT_KEYS
            known = self.newest[key]
            rev = self.subject.read(key)
            self._saw(key, rev)
            with self.lock:
                self.mistakes.reads += 1
                self.mistakes.stale_reads += rev < known
                self.mistakes.worst_behind = max(self.mistakes.worst_behind, known - rev)
            index += 1

    def evict(self) -> None:
        """Entries go now and then, as they do under memory pressure: a burst has a miss to race with."""
        index = 0
        while time.monotonic() < self.until_s:
            self.subject.evict(index % HOT_KEYS)
            index += 1
            time.sleep(0.005)

    def _saw(self, key: int, rev: int) -> None:
        with self.lock:
            self.newest[key] = max(self.newest[key], rev)

    def run(self) -> None:
        self.until_s = time.monotonic() + BURST_S
        writers = [lambda first=first: self.write(first) for first in range(WRITERS)]
        readers = [lambda first=first: self.read(first) for first in range(READERS)]
        in_threads([*writers, *readers, self.evict])


def count_mistakes(subject: Subject, seconds: float) -> Mistakes:
    """Load the subject in short bursts; between them compare what is served with MongoDB."""
    mistakes = Mistakes(subject.name)
    newest = [subject.write(key) for key in range(HOT_KEYS)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        _Load(subject, mistakes, newest).run()
        for key in range(HOT_KEYS):
            # Every write of the burst has returned, and only the subject writes: the newest known is MongoDB's.
            mistakes.checked += 1
            mistakes.stale_entries += subject.read(key) < newest[key]
    return mistakes


def show_mistakes(rows: Iterable[Mistakes], console: Console) -> None:
    table = Table(title=f"mistakes: {WRITERS} writers and {READERS} readers of {HOT_KEYS} keys, evictions now and then")
    for heading in ("", "writes", "reads", "stale reads", "revisions behind", "entries at rest", "of them stale"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        colour = "red" if row.stale_reads or row.stale_entries else "green"
        table.add_row(
            row.name,
            f"{row.writes:,}",
            f"{row.reads:,}",
            f"[{colour}]{row.stale_reads:,}[/]",
            f"{row.worst_behind}",
            f"{row.checked:,}",
            f"[{colour}]{row.stale_entries:,}[/]",
        )
    console.print(table)
