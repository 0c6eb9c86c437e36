"""Many bots on few series: who asks the exchange, how often, and whether a candle is missing, while bots are killed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import backtest_kit_mongo as bk
from backtest_kit import bot
from backtest_kit.declare import Exchange, Strategy
from backtest_kit.identity import MINUTE_MS
from backtest_kit.running import Job
from backtest_kit_verify.bots.child import DONE, forked
from backtest_kit_verify.bots.plan import walk
from backtest_kit_verify.made_up import START_MS

ANSWER_S = 0.03
"""How long the exchange takes for an answer: a fetcher that is killed meanwhile has asked for nothing."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Attributes:
    speed: simulated seconds per second.
    """

    settings: dict[str, Any]
    directory: Path
    seed: str
    bots: int
    symbols: int
    minutes: int
    speed: float
    begun_s: float

    def symbol(self, number: int) -> str:
        return f"S{number % self.symbols}/USDT"

    @property
    def end_ms(self) -> int:
        return START_MS + self.minutes * MINUTE_MS


@dataclass(frozen=True, slots=True)
class FleetOutcome:
    """Attributes:
    ratio: requests to the exchange per closed candle and series.
    missing: candles that no request brought.
    ticks: minutes that bots have lived, all together.
    """

    requests: int
    candles: int
    ratio: float
    missing: int
    ticks: int
    kills: int
    crashes: str


class ScaledClock:
    """The wall clock, faster. The same in all processes."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def now_ms(self) -> int:
        return START_MS + int((time.time() - self._fleet.begun_s) * self._fleet.speed * 1000)

    def wait(self, seconds: float, stop: threading.Event) -> None:
        stop.wait(seconds / self._fleet.speed)


class CountingExchange:
    """Writes down every request."""

    def __init__(self, fleet: Fleet) -> None:
        self._clock = ScaledClock(fleet)
        self._book = _book(fleet.directory)
        self._candles = {fleet.symbol(n): walk(f"{fleet.seed}/{n}", fleet.minutes) for n in range(fleet.symbols)}

    def __call__(self, symbol: str, interval: str, since: int, limit: int) -> list[list[float]]:
        self._book.execute("insert into requests values (?, ?)", (symbol, since))
        time.sleep(ANSWER_S)
        table = self._candles[symbol]
        first = int(table.timestamp[0])
        begin = max(0, -(-(since - first) // MINUTE_MS))
        cut = slice(begin, min(begin + limit, (self._clock.now_ms() - first) // MINUTE_MS))
        columns = (table.timestamp, table.open, table.high, table.low, table.close, table.volume)
        return [list(row) for row in zip(*(column[cut].tolist() for column in columns), strict=True)]


def _book(directory: Path) -> sqlite3.Connection:
    book = sqlite3.connect(directory / "fleet.sqlite", timeout=30, isolation_level=None, check_same_thread=False)
    book.execute("pragma synchronous = off")
    book.execute("create table if not exists requests (symbol text, since integer)")
    book.execute("create table if not exists ticks (bot integer, count integer)")
    return book


def _start(fleet: Fleet, number: int) -> int:
    return forked(fleet.directory, lambda: _tick(fleet, number))


def _tick(fleet: Fleet, number: int) -> int:
    bk.setup(**fleet.settings)
    exchange = Exchange("desk", get_candles=CountingExchange(fleet))
    idle = Strategy(f"bot-{number}", lambda ctx: None, "1m")
    with bk.in_mode("paper", fleet.directory / "runs"):
        job = Job(idle, exchange, (), fleet.symbol(number), "paper")
        ticking = bot.run(job, clock=ScaledClock(fleet), until_ms=fleet.end_ms)
    _book(fleet.directory).execute("insert into ticks values (?, ?)", (number, ticking.tick_count))
    return DONE


def run_fleet(fleet: Fleet, kills: int, on_line: Callable[[str], None]) -> FleetOutcome:
    """Until the last minute is over."""
    draw, clock = random.Random(fleet.seed), ScaledClock(fleet)
    _book(fleet.directory).close()
    running = {number: _start(fleet, number) for number in range(fleet.bots)}
    pause_s = fleet.minutes * 60 / fleet.speed / (kills + 2)
    for count in range(kills):
        time.sleep(draw.uniform(0.5, 1.5) * pause_s)
        if clock.now_ms() > fleet.end_ms - 3 * MINUTE_MS:
            kills = count
            break
        number = draw.randrange(fleet.bots)
        os.kill(running[number], signal.SIGKILL)
        os.waitpid(running[number], 0)
        running[number] = _start(fleet, number)
        if count % 5 == 4:
            on_line(f"{count + 1} kills, minute {(clock.now_ms() - START_MS) // MINUTE_MS}")
    for pid in running.values():
        os.waitpid(pid, 0)
    return _judged(fleet, kills)


def _judged(fleet: Fleet, kills: int) -> FleetOutcome:
    bk.setup(**fleet.settings)
    missing = candles = 0
    for number in range(fleet.symbols):
        found = bk.read_candles(fleet.symbol(number), "1m", "desk", START_MS - 5 * MINUTE_MS, fleet.end_ms)
        missing += sum(gap.count for gap in found.gaps if gap.first >= int(found.timestamp[0]))
        candles += len(found)
    book = _book(fleet.directory)
    (requests,) = book.execute("select count(*) from requests").fetchone()
    (ticks,) = book.execute("select coalesce(sum(count), 0) from ticks").fetchone()
    crashed = fleet.directory / "crashes.txt"
    text = crashed.read_text()[-1500:] if crashed.exists() else ""
    return FleetOutcome(requests, candles, requests / max(1, candles), missing, ticks, kills, text)
