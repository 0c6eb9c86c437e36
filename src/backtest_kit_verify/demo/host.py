"""One host: a process that trades a variant of the strategy on paper. Its task comes as JSON on standard input, how far
it is goes as JSON lines to standard output.

Where the servers are comes from the environment, as for any strategy: plain `setup()`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import backtest_kit_mongo as bk
from backtest_kit import bot, declare
from backtest_kit.declare import Exchange, Frame
from backtest_kit.durable import Rows
from backtest_kit.events import Event
from backtest_kit.identity import MINUTE_MS, Mode
from backtest_kit.loading import load_strategy
from backtest_kit.running import Job
from backtest_kit_mongo import stores
from backtest_kit_mongo.drivers.counts import HIT, MISS, PASSED_BY

__all__ = ["STRATEGY", "Task", "main"]

STRATEGY: Final = Path(__file__).with_name("strategy.py")


@dataclass(frozen=True, slots=True)
class Task:
    """What a host is to do: live every minute from `start_ms` to `end_ms`.

    Every stored document of a run names the run, so runs never meet in a database.
    """

    run: str
    variant: str
    symbol: str
    exchange: str
    start_ms: int
    end_ms: int

    @property
    def label(self) -> str:
        return f"{self.symbol} {self.variant}"

    @property
    def strategy(self) -> str:
        return f"{self.run}.{self.variant}"

    @property
    def minutes(self) -> int:
        return (self.end_ms - self.start_ms) // MINUTE_MS + 1

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))

    def job(self, mode: Mode) -> Job:
        """The same strategy, in either mode; its file is loaded."""
        declared = declare.strategies.get(self.variant)
        named = replace(declared, name=self.strategy)
        risks = tuple(replace(declare.risks.get(name), name=self.strategy) for name in declared.risks)
        frame = Frame(self.run, self.start_ms, self.end_ms) if mode == "backtest" else None
        return Job(named, Exchange(self.exchange), risks, self.symbol, mode, frame)


class Minutes:
    """A clock whose next minute comes at once, and which tells how far the host is."""

    def __init__(self, now_ms: int, holds: str) -> None:
        self._now_ms, self._first_ms, self._holds = now_ms, now_ms, holds
        self._since_s = time.monotonic()

    def now_ms(self) -> int:
        return self._now_ms

    def wait(self, seconds: float, stop: threading.Event) -> None:
        until_ms = self._now_ms + round(seconds * 1000)
        if until_ms % MINUTE_MS:
            stop.wait(seconds)  # A pause after a failure is one: simulated time does not pass meanwhile.
            return
        self._now_ms = until_ms
        self.report()

    def record(self, event: Event) -> None:
        if event.action in ("opened", "closed") and event.signal is not None:
            self._holds = event.signal.position if event.action == "opened" else ""

    def report(self) -> None:
        counts = stores.live_store().counts
        line: dict[str, Any] = {
            "first_ms": self._first_ms,
            "now_ms": self._now_ms,
            "holds": self._holds,
            "seconds": time.monotonic() - self._since_s,
            "writes": sum(sum(tally.outcomes) for tally in counts.writes.values()),
            "hits": counts.read_count(HIT),
            "misses": counts.read_count(MISS, PASSED_BY),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Entry point of the process."""
    task = Task.from_json(sys.stdin.read())
    bk.setup(modes={"paper": {"log": "mongo"}})
    load_strategy(STRATEGY)
    job = task.job("paper")
    with tempfile.TemporaryDirectory() as directory, bk.in_mode("paper", Path(directory)):
        left = Rows(job.identity).load(job.rules)  # By whoever lived before.
        holds = left.signal.position if left.signal else ""
        clock = Minutes(max(task.start_ms, left.as_of + MINUTE_MS), holds)
        bot.run(job, on_line=lambda line: None, record=clock.record, clock=clock, until_ms=task.end_ms)
        clock.report()
    bk.shutdown()


if __name__ == "__main__":
    main()
