"""Contexts on one database whose processes have the names of several hosts, killed and started again, and a worker.

What they leave in the audit log is what traces and replays of a day are made of.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import pymongo

import backtest_kit_mongo as bk
from backtest_kit import bot
from backtest_kit.declare import Exchange
from backtest_kit.identity import MINUTE_MS, Mode
from backtest_kit.running import Job
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.coherence.record import Shape
from backtest_kit_mongo.domains.table import CANDLE, DOMAINS
from backtest_kit_mongo.stored import AUDIT_ITEMS
from backtest_kit_verify.bots.child import DONE, forked, reporter
from backtest_kit_verify.bots.desk import CandlesAtDesk, Desk
from backtest_kit_verify.bots.noted import PROPOSES, noted
from backtest_kit_verify.bots.plan import EXCHANGE, LAST_MINUTES
from backtest_kit_verify.children import Process
from backtest_kit_verify.made_up import START_MS, random_walk

HOSTS: Final = ("anchorage", "bergen", "cadiz")
WORKER: Final = (sys.executable, "-m", "backtest_kit_worker", "--block-ms", "200", "--roles", "audit,recovery")
RECORDED_S: Final = 120.0
"""So long the worker may take to record what is left when the bots have ended."""
CANDLE_NAMES: Final = ("timestamp", *CANDLE.fields)
PROGRESS_S: Final = 15.0
CALM: Final = 0.002
BRISK: Final = 0.006
"""A minute's change, as a share: levels are met within minutes, so a signal takes a third of the time."""


@dataclass(frozen=True, slots=True)
class Seat:
    """One context.

    Attributes:
        settings: of `bk.setup`.
        minutes: how many are lived.
        quiet_minutes: so many at the end in which nothing is proposed, so that all ends by itself.
        begin_ms: the first one.
        proposes: the share of the minutes in which the strategy has an answer.
        volatility: of the candles. They are stored before anything else: how they are fetched is not tried here, and
            costs two thirds of a minute.
    """

    settings: dict[str, Any]
    database: str
    directory: Path
    symbol: str
    minutes: int
    mode: Mode = "live"
    begin_ms: int = START_MS
    lease_ms: int = 3_000
    quiet_minutes: int = LAST_MINUTES
    proposes: float = PROPOSES
    volatility: float = CALM

    @property
    def end_ms(self) -> int:
        return self.begin_ms + self.minutes * MINUTE_MS

    def job(self, exchange: Exchange) -> Job:
        strategy = noted(self.end_ms - self.quiet_minutes * MINUTE_MS, proposes=self.proposes)
        return Job(strategy, exchange, (), self.symbol, self.mode)

    def desk(self) -> Desk:
        return Desk(self.directory / f"{self.symbol}.sqlite", self.begin_ms)

    def candles(self) -> Any:
        minutes = self.minutes + 60 + (self.begin_ms - START_MS) // MINUTE_MS
        return random_walk(self.symbol, minutes, volatility=self.volatility)


def run_seats(seats: Sequence[Seat], kills: int, on_line: Callable[[str], None]) -> list[str]:
    """Live all of them to their ends, with so many SIGKILLs each, beside a worker. What went wrong."""
    first = seats[0]
    stored = _code(forked(first.directory, lambda: _store_candles(seats)))
    if stored != DONE:
        return [f"candles were not stored: {(first.directory / 'crashes.txt').read_text()[-2_000:]}"]
    worker = Process(WORKER, {**os.environ, **environment_of(first)})
    worker.begin()
    try:
        with ProcessPoolExecutor(len(seats), mp_context=get_context("fork")) as pool:
            lived = [pool.submit(_run_seat, seat, kills) for seat in seats]
            since_s = time.monotonic()
            while wait(lived, PROGRESS_S, FIRST_EXCEPTION).not_done:
                on_line(_progress(seats, time.monotonic() - since_s))
            found = [problem for one in lived for problem in one.result()]
        on_line("all contexts have ended; the worker records what is left")
        found += _until_recorded(first)
    finally:
        worker.end(signal.SIGTERM, 30.0)
    return found


def _store_candles(seats: Sequence[Seat]) -> int:
    bk.setup(**seats[0].settings)
    for seat in seats:
        found = seat.candles()
        columns = [getattr(found, name).tolist() for name in CANDLE_NAMES]
        rows = [dict(zip(CANDLE_NAMES, row, strict=True)) for row in zip(*columns, strict=True)]
        bk.PersistCandleAdapter.write_candles_data(rows, seat.symbol, "1m", EXCHANGE)
    bk.shutdown()
    return DONE


def _progress(seats: Sequence[Seat], elapsed_s: float) -> str:
    lived = sum(min(seat.desk().now_ms() - seat.begin_ms, seat.minutes * MINUTE_MS) // MINUTE_MS for seat in seats)
    minutes = sum(seat.minutes for seat in seats)
    left_s = elapsed_s * (minutes - lived) / lived if lived else 0.0
    return f"{lived:,} of {minutes:,} minutes in {elapsed_s:.0f} s; about {timedelta(seconds=round(left_s))} left"


def _run_seat(seat: Seat, kills: int) -> list[str]:
    draw = random.Random(f"kills/{seat.symbol}")
    stops = sorted(draw.sample(range(1, max(2 + kills, seat.minutes - 1)), kills))
    desk = seat.desk()
    for minute in stops:
        pid = start(seat, draw.choice(HOSTS))
        while not _has_ended(pid) and desk.now_ms() < seat.begin_ms + minute * MINUTE_MS:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    code = _code(start(seat, draw.choice(HOSTS)))
    crashes = seat.directory / "crashes.txt"
    problems = [] if code == DONE else [f"the last process of {seat.symbol} ended with {code}"]
    return problems + ([crashes.read_text()[-2_000:]] if crashes.exists() else [])


def start(seat: Seat, host: str) -> int:
    """Fork a process of this context that has the name of a host; its number."""
    return forked(seat.directory, lambda: _live(seat, host))


def _live(seat: Seat, host: str) -> int:
    socket.gethostname = lambda: host
    bot.LEASE_MS = seat.lease_ms  # type: ignore[misc]
    desk = seat.desk()
    desk.pid = os.getpid()
    bk.setup(**seat.settings)
    exchange = Exchange(EXCHANGE, get_candles=CandlesAtDesk(desk, seat.candles()), broker=desk)
    with (
        (seat.directory / f"{seat.symbol}.txt").open("a", buffering=1) as said,
        bk.in_mode(seat.mode, seat.directory / "runs"),
    ):
        bot.run(
            seat.job(exchange),
            on_line=reporter(said.write),
            clock=desk,
            until_ms=seat.end_ms,
        )
    bk.shutdown()
    return DONE


def _code(pid: int) -> int:
    """What a process ends with, when it does."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def environment_of(seat: Seat) -> dict[str, str]:
    """Its settings as variables, for a worker and for commands."""
    settings = seat.settings
    names = {
        "CC_MONGO_CONNECTION_STRING": "mongo_connection_string",
        "CC_REDIS_HOST": "redis_host",
        "CC_REDIS_PORT": "redis_port",
        "CC_LEASE_MS": "lease_ms",
        "CC_MONGO_TIMEOUT_MS": "mongo_timeout_ms",
    }
    return {variable: str(settings[name]) for variable, name in names.items()}


def _until_recorded(seat: Seat) -> list[str]:
    """Wait until the audit log has every revision of every document."""
    end_s = time.monotonic() + RECORDED_S
    with pymongo.MongoClient[dict[str, Any]](seat.settings["mongo_connection_string"]) as client:
        database = client[seat.database]
        while (left := _unrecorded(database)) and time.monotonic() < end_s:
            time.sleep(0.2)
    return [f"{left} revisions were not recorded within {RECORDED_S:g} s"] if left else []


def _unrecorded(database: Any) -> int:
    names = [collection_of(domain) for domain in DOMAINS if domain.shape is not Shape.SERIES]
    sums = (database[name].aggregate([{"$group": {"_id": None, "sum": {"$sum": "$rev"}}}]) for name in names)
    stored = sum(int(group["sum"]) for found in sums for group in found)
    recorded = database[AUDIT_ITEMS].count_documents({"operation": {"$in": ["upsert", "remove", "gap"]}})
    return stored - int(recorded)
