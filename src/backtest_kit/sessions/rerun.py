"""A recorded day again: the same ticks (`ticking`) by a clock that waits for nobody, over a memory that begins as the
day did. Candles, stored answers, replies of brokers and deeds are the recorded ones; nothing leaves the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import backtest_kit_mongo as bk
from backtest_kit.calling import CallingStrategy
from backtest_kit.context import Context
from backtest_kit.coroutines import Coroutines
from backtest_kit.durable import Rows, SharedRisks
from backtest_kit.effects import Order
from backtest_kit.identity import MINUTE_MS, signal_id
from backtest_kit.leases import Keeping, Lease, Leases
from backtest_kit.market import History, Market
from backtest_kit.orders.broker import OrderState
from backtest_kit.orders.gate import OrderGate
from backtest_kit.running import Job
from backtest_kit.seeing import replaying_deeds
from backtest_kit.sessions.matching import Differs, Divergence, LifeOver, Matcher, MinuteSkipped
from backtest_kit.stamping import BUCKET, order_name
from backtest_kit.ticking import Ticking

__all__ = ["Rerun", "rerun"]

CANDLE_NAMES: Final = ("timestamp", "open", "high", "low", "close", "volume")
PAPER: Final = "~paper"
LATE_MS: Final = 3_600_000


@dataclass(slots=True)
class Rerun:
    """What came of it.

    Attributes:
        restarts: how often a process followed another, or read its state anew.
        minutes: lived by all contexts together.
        skipped: minutes that the recorded processes left out.
        divergence: of all contexts the first in time; None: every write was equal.
        lost: writes of which the log no longer has what they wrote; they were not compared.
        notes: what strategies and the market said.
    """

    matched: int = 0
    restarts: int = 0
    minutes: int = 0
    skipped: int = 0
    lost: int = 0
    elapsed_s: float = 0.0
    divergence: Divergence | None = None
    notes: dict[str, None] = field(default_factory=dict)

    def add(self, divergence: Divergence | None) -> None:
        """Of one context."""
        if divergence is not None and (self.divergence is None or divergence.at < self.divergence.at):
            self.divergence = divergence


@dataclass(slots=True)
class _Clock:
    """Waiting moves it. Well after the end whatever is still waited for does not come."""

    now: int
    end: int

    def now_ms(self) -> int:
        if self.now > self.end + LATE_MS:
            raise LifeOver
        return self.now

    def wait(self, seconds: float, stop: threading.Event) -> None:
        self.now += max(1, round(seconds * 1000))


class _Leases:
    """There is nobody else."""

    def acquire(self, name: str, lease_ms: int, despite: str = "") -> Lease:
        return Lease(cast("Leases", self), name, float("inf"))

    def give_back(self, name: str, pause_ms: int) -> None: ...

    def holder(self, name: str) -> str:
        return ""


class _Keeping:
    """A lease that lasts."""

    def require(self) -> None: ...

    def require_not_taken(self) -> None: ...

    @contextmanager
    def writing(self, within_s: float = 0.0) -> Iterator[None]:
        yield


class _Gate:
    """Answers as the broker did."""

    def __init__(self, job: Job, matcher: Matcher) -> None:
        self._job, self._matcher = job, matcher
        self.replies: list[OrderState] = []

    def execute(self, order: Order, *, is_repeat: bool) -> bool:
        signal = order.signal
        question = signal_id(self._job.identity, signal.scheduled_at)
        name = order_name(order) if signal.id == question else f"{order_name(order)}~{question}"
        data: Any = self._matcher.recorded("memory", (signal.id, BUCKET, name)).get("data") or {}
        names = ("clientOrderId", "status", "filled", "average", "reason")
        self.replies = [OrderState(*(one.get(part) for part in names)) for one in data.get("replies") or ()]
        return bool(data.get("isDone", True))


class _NoHistory(History):
    def __init__(self) -> None: ...


def rerun(session: bk.Session, jobs: Callable[[str, str], Job]) -> Rerun:
    """Live every context of the session again, one after the other, each up to its first divergence.

    Args:
        jobs: given symbol and exchange, what is run; its exchange is asked for nothing.
    """
    outcome, since_s = Rerun(), time.perf_counter()
    writers = _writers(session)
    for symbol, exchange in session.contexts:
        own = writers.get((symbol, exchange), frozenset())
        if not own:
            continue
        job = jobs(symbol, exchange.removesuffix(PAPER))
        matcher = Matcher(symbol, _concerning(session, own, writers), own)
        _live(session, _offline(job), matcher, outcome)
        outcome.matched += matcher.matched
        outcome.skipped += len(matcher.skipped)
        outcome.lost += matcher.lost
    outcome.elapsed_s = time.perf_counter() - since_s
    return outcome


def _writers(session: bk.Session) -> dict[tuple[str, str], frozenset[str]]:
    """By context, its processes: one lives one context."""
    found: dict[tuple[str, str], set[str]] = {}
    for one in session.changes:
        if one.domain == "strategy" and one.step:
            found.setdefault((str(one.parts[0]), str(one.parts[2])), set()).add(one.writer)
    return {context: frozenset(names) for context, names in found.items()}


def _concerning(
    session: bk.Session, own: frozenset[str], writers: dict[tuple[str, str], frozenset[str]]
) -> list[bk.SessionChange]:
    """Writes of these processes, and what else was written to the same documents."""
    documents = {(one.domain, one.parts) for one in session.changes if one.writer in own}
    return [one for one in session.changes if (one.domain, one.parts) in documents]


def _offline(job: Job) -> Job:
    nothing = dict.fromkeys(("get_candles", "ccxt", "files", "get_order_book", "get_trades", "broker"))
    return replace(job, exchange=replace(job.exchange, **cast("dict[str, Any]", nothing)))


def _live(session: bk.Session, job: Job, matcher: Matcher, outcome: Rerun) -> None:
    with bk.rehearsing() as store:
        for row in (*session.before, *session.answers):
            if row.payload is not None:
                store.install(bk.RehearsedRow(row.domain, row.parts, row.payload, row.when))
        _install_candles(session)
        matcher.store = store
        store.listen(matcher.on_write, matcher.on_read)
        begin = matcher.life.begin
        while True:
            try:
                _live_once(session, job, matcher, begin, outcome)
                outcome.add(matcher.left_over())
                return
            except LifeOver:
                if not matcher.next_life():
                    return
                outcome.restarts += 1
                begin = matcher.life.begin
            except MinuteSkipped as skipped:
                begin = skipped.at
            except Differs as differs:
                outcome.add(differs.divergence)
                return


def _live_once(session: bk.Session, job: Job, matcher: Matcher, begin: int, outcome: Rerun) -> None:
    """One life of a process, by the recorded clock."""
    clock, leases = _Clock(begin, session.end), cast("Leases", _Leases())
    deeds = {(row.domain, row.parts): row for row in session.answers if row.domain == "interval"}

    def deed(bucket: str, key: str, now: int) -> Any:
        row = deeds.get(("interval", (bucket, key)))
        return row.payload["data"] if row is not None and row.when == now else None

    with ExitStack() as stack:
        stack.enter_context(replaying_deeds(deed))
        coroutines = stack.enter_context(Coroutines())
        block = stack.enter_context(bk.simulation_time(begin, guards_threads=False))
        market = Market(job.exchange, job.symbol)
        ctx = Context(job.identity, _NoHistory())
        ticking = Ticking(
            job.identity,
            job.rules,
            Rows(job.identity),
            SharedRisks(job.identity, job.books(), leases, clock.now_ms),
            cast("OrderGate", _Gate(job, matcher)),
            cast("Keeping", _Keeping()),
            cast("Any", market),
            ctx,
            CallingStrategy(job.strategy, ctx, block, coroutines, lambda event: None),
            lambda line: _note(outcome, line),
            clock,
            until_ms=session.end - MINUTE_MS,
        )
        try:
            ticking.run()
        finally:
            outcome.minutes += ticking.tick_count
            outcome.notes.update(market.notes)


def _note(outcome: Rerun, line: str) -> None:
    """Failures of the strategy; events are in the writes."""
    if line.startswith(("the strategy failed", "a tick failed")):
        outcome.notes[line] = None


def _install_candles(session: bk.Session) -> None:
    for (exchange, symbol, interval), rows in session.candles.items():
        if rows:
            named = [dict(zip(CANDLE_NAMES, row, strict=True)) for row in rows]
            bk.PersistCandleAdapter.write_candles_data(named, symbol, interval, exchange)
