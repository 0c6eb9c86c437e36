"""One host as a process: the task comes as JSON on standard input, progress goes as JSON lines to standard output.

Where the servers are comes from the environment, as for any strategy: plain `setup()`.
"""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Self

import backtest_kit_mongo as bk
from backtest_kit_mongo import stores
from backtest_kit_mongo.drivers.counts import HIT, MISS, PASSED_BY
from backtest_kit_verify.demo.book import Book, Host, Row
from backtest_kit_verify.demo.candles import Window
from backtest_kit_verify.demo.desk import AdapterDesk
from backtest_kit_verify.demo.replay import replay

__all__ = ["Task", "main"]

REPORT_EVERY_BARS = 5


@dataclass(frozen=True, slots=True)
class Task:
    """What a host is to do."""

    host: Host
    windows: tuple[Window, ...]

    def to_json(self) -> str:
        return json.dumps({"host": asdict(self.host), "windows": self.windows})

    @classmethod
    def from_json(cls, text: str) -> Self:
        data = json.loads(text)
        return cls(Host(**data["host"]), tuple(Window(*window) for window in data["windows"]))


def read_candles(task: Task) -> list[Row]:
    """All candles of the task, from the store alone."""
    host, candles = task.host, []
    for since_ms, count in task.windows:
        found = bk.PersistCandleAdapter.read_candles_data(host.symbol, host.interval, host.exchange, count, since_ms, 0)
        if found is None:
            raise LookupError(f"{host.symbol}: the store misses candles after {since_ms}")
        candles.extend(found)
    return candles


class Reporter:
    """Tells the parent how far the replay is; the last line of a killed process is what is known of it."""

    def __init__(self, desk: AdapterDesk, total: int) -> None:
        self._desk = desk
        self._total = total
        self._began_s = time.monotonic()
        self._first: int | None = None

    def __call__(self, book: Book) -> None:
        if self._first is None:
            self._first = book.bars
        if book.bars in (self._first, self._total) or book.bars % REPORT_EVERY_BARS == 0:
            self._send(book)

    def _send(self, book: Book) -> None:
        counts = stores.live_store().counts
        line: dict[str, Any] = {
            "pid": os.getpid(),
            "first": self._first,
            "bars": book.bars,
            "trades": book.trades,
            "pnl_percent": book.pnl_percent,
            "seconds": time.monotonic() - self._began_s,
            "reads": self._desk.reads,
            "writes": self._desk.writes,
            "compared": self._desk.compared,
            "mismatches": self._desk.mismatches[:3],
            "mismatched": len(self._desk.mismatches),
            "hits": counts.read_count(HIT),
            "misses": counts.read_count(MISS, PASSED_BY),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Entry point of the process."""
    task = Task.from_json(sys.stdin.read())
    bk.setup()
    candles = read_candles(task)
    desk = AdapterDesk()
    desk.reads = len(task.windows)
    replay(desk, task.host, candles, Reporter(desk, len(candles)))
    bk.shutdown()


if __name__ == "__main__":
    main()
