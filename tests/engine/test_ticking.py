"""Paper and live by a scripted clock: what a replay shows is what a tick does; a failure or a death changes nothing."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import backtest_kit as bt
import backtest_kit_mongo as bk
from backtest_kit import bot, living, ticking
from backtest_kit.context import Context
from backtest_kit.declare import Exchange, Frame, Risk, Strategy
from backtest_kit.durable import Rows
from backtest_kit.effects import Candidate, Order, Save
from backtest_kit.errors import AlreadyRunning, DeclarationError
from backtest_kit.events import Event
from backtest_kit.held import Held
from backtest_kit.identity import MINUTE_MS, ContextId
from backtest_kit.leases import WRITE_S, FileLeases, taking_turns
from backtest_kit.orders.broker import OrderState, client_order_id
from backtest_kit.orders.paper import PaperBroker
from backtest_kit.replay import Columns
from backtest_kit.risk import RiskBook
from backtest_kit.rows import list_row
from backtest_kit.rules import ORIGINAL
from backtest_kit.running import Job, run_backtest
from backtest_kit.signals import Proposal, long, short
from backtest_kit_mongo import stores
from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_verify.made_up import random_walk

from .support import START_MS, at, flat

END = 150


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bkm_store: Any) -> None:
    monkeypatch.chdir(tmp_path)


@contextmanager
def fresh_store() -> Iterator[None]:
    store = stores.new_memory_store()
    with ExitStack() as stack:
        for registry in REGISTRIES:
            stack.enter_context(registry.serving(store))
        yield


@dataclass
class ScriptedClock:
    """Waiting moves it."""

    now: int = at(0)

    def now_ms(self) -> int:
        return self.now

    def wait(self, seconds: float, stop: threading.Event) -> None:
        self.now += max(1, round(seconds * 1000))


@dataclass
class ScriptedExchange:
    """Gives the candles that have closed by the clock; fails as often as it is asked to."""

    clock: ScriptedClock
    candles: Columns
    failures: int = 0
    asked: list[int] = field(default_factory=list)
    missing: frozenset[int] = frozenset()

    def __call__(self, symbol: str, interval: str, since: int, limit: int) -> list[list[float]]:
        self.asked.append(since)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("exchange away")
        c = self.candles
        rows = zip(c.timestamp.tolist(), c.open, c.high, c.low, c.close, c.volume, strict=True)
        return [
            list(row)
            for row in rows
            if since <= row[0] < since + limit * MINUTE_MS and row[0] + MINUTE_MS <= self.clock.now
            and row[0] not in self.missing
        ]  # fmt: skip


def walk(seed: int, minutes: int = 400) -> Columns:
    return random_walk(seed, minutes)


def planned(seed: int) -> Strategy:
    """Proposes something every twenty minutes or so, from the price alone."""

    def get_signal(ctx: Context) -> Proposal | None:
        draw = random.Random(f"{seed}/{ctx.now}")
        if draw.random() < 0.95:
            return None
        opens = None if draw.random() < 0.6 else ctx.price * draw.choice([0.998, 1.002])
        base = opens or ctx.price
        if draw.random() < 0.5:
            return long(take_profit=base * 1.006, stop_loss=base * 0.992, price_open=opens, minutes=40)
        return short(take_profit=base * 0.994, stop_loss=base * 1.008, price_open=opens, minutes=40)

    return Strategy("planned", get_signal, "1m")


def a_job(exchange: Any, seed: int, mode: Any = "paper", **parts: Any) -> Job:
    frame = Frame("f", at(0), at(END)) if mode == "backtest" else None
    return Job(planned(seed), Exchange("made-up", get_candles=exchange, **parts), (), "BTCUSDT", mode, frame)


def on_line(events: list[Event]) -> list[tuple[Any, ...]]:
    """What both modes have to agree on; ids differ by the mode. What the end of the frame cuts off is left out."""
    found = [
        (e.action, (e.at - START_MS) // MINUTE_MS, e.price, e.reason, e.pnl) for e in events if e.at <= at(END - 41)
    ]
    return [event for event in found if event[0] != "idle"]


@pytest.mark.parametrize("seed", range(3))
def test_paper_by_the_clock_trades_as_the_replay_of_the_same_candles(seed: int) -> None:
    clock = ScriptedClock()
    exchange = ScriptedExchange(clock, walk(seed))
    events: list[Event] = []
    bot.run(a_job(exchange, seed), record=events.append, clock=clock, until_ms=at(END))
    clock.now = at(END + 50)
    replayed = run_backtest(a_job(exchange, seed, "backtest"))
    assert len(on_line(events)) > 3
    assert on_line(events) == on_line(list(replayed.events))


def test_a_tick_that_fails_changes_nothing_and_is_reported_once() -> None:
    undisturbed, events, lines = list[Event](), list[Event](), list[str]()
    clock = ScriptedClock()
    with fresh_store():
        bot.run(a_job(ScriptedExchange(clock, walk(3)), 3), record=undisturbed.append, clock=clock, until_ms=at(60))
    clock = ScriptedClock()
    exchange = ScriptedExchange(clock, walk(3), failures=9)
    bot.run(a_job(exchange, 3), record=events.append, on_line=lines.append, clock=clock, until_ms=at(60))
    assert [line for line in lines if "exchange away" in line] == [lines[1]]
    assert on_line(events) == on_line(undisturbed) != []


def test_after_a_write_that_may_still_arrive_nothing_is_written_until_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Any] = []
    save, fails = Rows.save, [True]

    def unanswered_once(self: Rows, effect: Any) -> None:
        steps.append("write")
        if fails.pop() if fails else False:
            raise bk.WriteOutcomeUnknown("no answer")
        save(self, effect)

    monkeypatch.setattr(Rows, "save", unanswered_once)
    monkeypatch.setattr(ticking, "pause", lambda seconds: steps.append(seconds))
    clock = ScriptedClock()
    bot.run(a_job(ScriptedExchange(clock, walk(1)), 1), clock=clock, until_ms=at(2))
    assert steps[:3] == ["write", WRITE_S, "write"]


def test_a_lease_that_an_error_ends_is_kept_until_its_last_write_is_over() -> None:
    class Leases(FileLeases):
        def give_back(self, name: str, pause_ms: int) -> None:
            pauses.append(pause_ms)
            super().give_back(name, pause_ms)

    pauses: list[int] = []
    leases = Leases(Path("leases"))
    with pytest.raises(KeyboardInterrupt), taking_turns(leases, "risk"):
        raise KeyboardInterrupt
    with taking_turns(leases, "risk"):
        pass
    assert pauses == [WRITE_S * 1000, 0]


def test_since_when_a_process_is_dead_is_never_said_too_early() -> None:
    def holder(process: int, born: str, host: str = living.HOST) -> str:
        return f"name/{process}/{born}/{host}/token"

    ended = subprocess.Popen(["true"])
    born = living.birth(ended.pid)
    ended.wait()
    before = time.monotonic()
    assert living.dead_since_s(holder(os.getpid(), living.birth(os.getpid()))) is None
    assert living.dead_since_s(holder(ended.pid, born, "another")) is None
    assert living.dead_since_s("no holder") is None
    young = living.dead_since_s(holder(ended.pid, born))
    assert young is not None
    assert young >= before  # It lived after this process began.
    old = living.dead_since_s(holder(ended.pid, "1"))
    assert old is not None
    assert old < before  # It was born before, and was not there when this process began.


def test_a_minute_without_trade_is_known_by_the_next_candle() -> None:
    clock = ScriptedClock()
    exchange = ScriptedExchange(clock, walk(1), missing=frozenset({at(20), at(31), at(32)}))
    ticking = bot.run(a_job(exchange, 1), clock=clock, until_ms=at(60))
    assert ticking.tick_count > 50


def test_a_stop_ends_the_run_while_the_exchange_is_away_and_nothing_is_held() -> None:
    clock, stop, lines = ScriptedClock(), threading.Event(), list[str]()

    def on_line(line: str) -> None:
        lines.append(line)
        if "exchange away" in line:
            stop.set()

    exchange = ScriptedExchange(clock, walk(2), failures=10**9)
    bot.run(a_job(exchange, 2), on_line=on_line, clock=clock, stop=stop)
    assert len(lines) == 2


class Died(BaseException):
    """As a kill: nothing cleans up."""


@dataclass
class DyingBroker(PaperBroker):
    """Attributes:
    deaths: by the number of the call, whether it dies before or after the order.
    """

    deaths: dict[int, str]
    orders: list[str] = field(default_factory=list)
    filled: dict[str, OrderState] = field(default_factory=dict)
    calls: int = 0

    def __post_init__(self) -> None:
        PaperBroker.__init__(self)

    def find(self, client_order_id: str, symbol: str) -> Any:
        return self.filled.get(client_order_id)

    def submit(self, order: Any) -> Any:
        self.calls += 1
        death = self.deaths.get(self.calls)
        if death == "before":
            raise Died
        assert order.client_order_id not in self.orders
        self.orders.append(order.client_order_id)
        self.filled[order.client_order_id] = super().submit(order)
        if death == "after":
            raise Died
        return self.filled[order.client_order_id]


def test_a_process_that_dies_at_an_order_is_taken_up_and_the_order_is_sent_once() -> None:
    clock, whole = ScriptedClock(), DyingBroker({})
    with fresh_store():
        bot.run(a_job(ScriptedExchange(clock, walk(2)), 2, "live", broker=whole), clock=clock, until_ms=at(120))
        undisturbed = bk.PersistStorageAdapter.read_storage_data(False)
    clock, deaths = ScriptedClock(), 0
    broker = DyingBroker({1: "before", 2: "after", 4: "before", 6: "after"})
    job = a_job(ScriptedExchange(clock, walk(2)), 2, "live", broker=broker)
    while True:
        try:
            bot.run(job, clock=clock, until_ms=at(120))
            break
        except Died:
            deaths += 1
    assert deaths == 4
    assert broker.orders == whole.orders
    assert bk.PersistStorageAdapter.read_storage_data(False) == undisturbed


def test_paper_and_live_share_no_row_and_a_position_whose_time_is_over_leaves_none_in_its_risk() -> None:
    clock = ScriptedClock()
    job = a_job(ScriptedExchange(clock, flat((0, 100.0))), 2)
    expires = Strategy("planned", lambda ctx: long(take_profit=101, stop_loss=99, minutes=40))
    risk = Risk("all", (lambda request: None,))
    ticking = bot.run(replace(job, strategy=expires, risks=(risk,)), clock=clock, until_ms=at(40))
    assert ticking.asked == 1
    assert bk.PersistRiskAdapter.read_position_data("all", "made-up~paper", at(60)) == []
    assert bk.PersistStrategyAdapter.read_strategy_data("BTCUSDT", "planned", "made-up~paper")
    assert bk.PersistStrategyAdapter.read_strategy_data("BTCUSDT", "planned", "made-up") is None


APART = [
    ContextId("BTC/USDT", "s", "binance", "", "live"),
    ContextId("BTC/USDT", "s", "binance", "", "paper"),
    ContextId("BTC/USDT", "s", "bybit", "", "live"),
    ContextId("USDT", "s", "binance_BTC", "", "live"),
    ContextId("BTC_USDT", "s", "binance", "", "live"),
    ContextId("USDT", "s:BTC", "binance", "", "live"),
    ContextId("BTC:USDT", "s", "binance", "", "live"),
]


def test_contexts_share_nothing_that_they_remember_order_or_report() -> None:
    opinion = bt.cached(interval="1h")(lambda ctx: ctx.identity.exchange + ctx.symbol)
    once = bt.once(interval="1h")(lambda ctx: True)
    held = Held("an id of its own", "long", 100.0, 102.0, 99.0, 40, 100.0, "", at(0), at(0))
    event = Event("opened", at(0), 100.0, held.view())
    order = Order("open", held.view(), 0, at(0), 100.0, 100.0)
    places: list[MutableMapping[str, Any]] = []
    book = RiskBook("all", [])
    with bk.simulation_time(at(0)):
        for one in APART:
            ctx = Context(one, bot._NoHistory())
            ctx._minute = at(0)
            for place in (ctx.state, ctx.session, ctx.dictionary, ctx.memory):
                assert "who" not in place
                place["who"] = repr(one)
                places.append(place)
            assert opinion(ctx) == one.exchange + one.symbol
            assert once(ctx)
            Rows(one).keep_event(event)
            Rows(one).save(
                Save("storage", held.id, list_row(held.view(), one, "opened", at(0), 100.0, None, None), at(0))
            )
            book.hold(one, Candidate(held.view(), at(0), 100.0), is_open=True)
    assert [place["who"] for place in places] == [repr(one) for one in APART for _ in range(4)]
    assert len({client_order_id(order, owner=bot._name(one)) for one in APART}) == len(APART)
    assert len(bk.PersistNotificationAdapter.read_notification_data(False)) == len(APART)
    assert len(bk.PersistStorageAdapter.read_storage_data(False)) == 2  # Live contexts that chose one id share its row.
    again = RiskBook("all", [])
    again.restore([row for row in book.to_rows() if row], at(1))
    assert len(again.to_rows()) == len({(one.strategy, one.exchange, one.symbol) for one in APART})


def test_a_second_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bot, "LEASE_MS", 300)
    clock = ScriptedClock()
    job = a_job(ScriptedExchange(clock, walk(2)), 2)
    other = FileLeases(Path("dump") / "leases")
    lease = other.acquire("context/paper/made-up/BTCUSDT/planned", 1000)
    assert lease is not None
    with lease, pytest.raises(AlreadyRunning, match="trade twice"):
        bot.run(job, clock=clock, until_ms=at(1))
    bot.run(job, clock=clock, until_ms=at(1))


def test_live_without_a_broker_and_rules_that_see_the_future_are_refused() -> None:
    clock = ScriptedClock()
    job = a_job(ScriptedExchange(clock, walk(2)), 2, "live")
    with pytest.raises(DeclarationError, match="no broker"):
        bot.run(job, clock=clock)
    with pytest.raises(DeclarationError, match="before it is closed"):
        bot.run(replace(job, rules=ORIGINAL), clock=clock)


def test_stopping_ends_when_nothing_is_held() -> None:
    clock, stop, lines = ScriptedClock(), threading.Event(), list[str]()

    def on_line(line: str) -> None:
        lines.append(line)
        if " opened " in line:
            stop.set()

    bot.run(a_job(ScriptedExchange(clock, walk(2)), 2), on_line=on_line, clock=clock, stop=stop)
    assert [word for line in lines for word in ("opened", "closed") if f" {word} " in line] == ["opened", "closed"]
