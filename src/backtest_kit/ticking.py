"""Paper and live: the lifecycle, driven each minute by the wall clock.

A tick of minute m comes when minute m has begun and the candle before it is there. A tick that fails (exchange, broker
or store away) changes nothing: the state is read from the store again, as after a restart, and the minute is tried
again. Minutes that were missed are lived in order while a signal is held; while nothing is held only the present one
counts.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from time import sleep as pause
from typing import Any, Final, Protocol

import numpy as np

import backtest_kit_mongo as bk
from backtest_kit.bars import Series
from backtest_kit.calling import CallingStrategy
from backtest_kit.context import Context
from backtest_kit.durable import Rows, SharedRisks
from backtest_kit.effects import (
    AskRisk,
    AskSignal,
    Effect,
    Emit,
    Gate,
    HoldRisk,
    Next,
    Order,
    ReleaseRisk,
    Save,
    Tick,
)
from backtest_kit.errors import CandlesMissing, StrategyFailed
from backtest_kit.events import Event
from backtest_kit.identity import MINUTE_MS, ContextId, signal_id
from backtest_kit.leases import WRITE_S, Keeping, LeaseLost
from backtest_kit.lifecycle import Lifecycle
from backtest_kit.market import History, Market
from backtest_kit.moments import minute_text
from backtest_kit.operations import Operations
from backtest_kit.orders.gate import OrderGate
from backtest_kit.pricing import average_prices
from backtest_kit.rules import Rules
from backtest_kit.seeing import noting_answers
from backtest_kit.signals import Proposal
from backtest_kit.stamping import Stamps, asked_row, keep_row, order_name, order_row
from backtest_kit.state import State

__all__ = ["Clock", "SystemClock", "Ticking", "OnLine"]

logger = logging.getLogger(__name__)

LEAVES_A_ROW: Final = frozenset(
    {"scheduled", "opened", "closed", "cancelled", "partial_profit", "partial_loss", "breakeven", "commit"}
)
"""Events that are stored for readers, whoever listens."""
RETRY_S: Final = (0.5, 10.0)
"""After a tick that failed: at first, and at most."""
LATE_S: Final = (0.25, 5.0)
"""Between two looks for a candle that the exchange does not have yet: at first, and at most."""

OnLine = Callable[[str], None]
"""Called with one line for people: a tick, an event, a failure."""


class Clock(Protocol):
    """Where a tick gets its time from; a test gives one of its own."""

    def now_ms(self) -> int: ...

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Returns early when `stop` is set."""


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def wait(self, seconds: float, stop: threading.Event) -> None:
        stop.wait(seconds)


@dataclass(slots=True)
class Ticking:
    """Attributes:
    stop: set: no new positions; the run ends when nothing is held.
    until_ms: the last minute that is reported; None: for ever.
    asked: how often the strategy was asked.
    _is_between: it waits for a minute or its candles; nothing of the one before is left to do.
    _stamps: says what each write belongs to.
    """

    context: ContextId
    rules: Rules
    rows: Rows
    risks: SharedRisks
    gate: OrderGate
    keeping: Keeping
    market: Market
    ctx: Context
    port: CallingStrategy
    on_line: OnLine
    clock: Clock = field(default_factory=SystemClock)
    stop: threading.Event = field(default_factory=threading.Event)
    until_ms: int | None = None
    tick_count: int = 0
    asked: int = 0
    _last: int = 0
    _failure: str = ""
    _is_repeat: bool = True
    _is_between: bool = False
    _state: State | None = None
    _stamps: Stamps = field(init=False)

    def __post_init__(self) -> None:
        self._stamps = Stamps(self.context)

    def run(self) -> None:
        """Until it is stopped, or another process takes over.

        Raises:
            LeaseLost: another process lives this context now.
        """
        wait_s = RETRY_S[0]
        while True:
            try:
                self._live()
                return
            except LeaseLost:
                raise
            except (bk.EnvironmentFault, bk.WriteOutcomeUnknown, bk.WriteRefused) as cause:
                wait_s = RETRY_S[0] if self._report(cause) else min(wait_s * 2, RETRY_S[1])
                self.keeping.require_not_taken()
                if isinstance(cause, bk.WriteOutcomeUnknown):
                    pause(WRITE_S)  # Nothing of it may arrive after what the next attempt writes.
                if self._is_stopped():
                    return
                # Also while stopping: a position is not left alone.
                self.clock.wait(wait_s, self.stop if self._is_between else threading.Event())
                if self._is_stopped():
                    return

    def _is_stopped(self) -> bool:
        """Whether the end was asked for and nothing is held, nor half done."""
        return self.stop.is_set() and self._is_between and self._state is not None and not self._state.is_busy

    def _report(self, cause: Exception) -> bool:
        """Say a failure once. False: it is still the same one."""
        text = f"{type(cause).__name__}: {cause}"
        kind = f"{type(cause).__name__} {str(cause)[:40]}"
        if kind == self._failure:
            return False
        self._failure = kind
        logger.debug("%s: a tick failed and is tried again", self.context.symbol, exc_info=cause)
        self.on_line(f"a tick failed and is tried again; nothing changed: {text}")
        return True

    def _live(self) -> None:
        state = self._state = self.rows.load(self.rules)
        # What is accepted is stored before its order is sent: without any of it, no earlier process can have sent one.
        self._is_repeat, self._last = state.is_busy or bool(state.commits), 0
        self._stamps.begin(self.clock.now_ms() // MINUTE_MS * MINUTE_MS, state, "resumed")
        wants = self.port.wants | LEAVES_A_ROW
        plan, answer = Lifecycle(state, self.rules, wants, self.port.interval_ms).run(), None
        while True:
            try:
                effect = plan.send(answer)
            except StopIteration:
                return
            if isinstance(effect, Next):
                answer = self._next()
                continue
            with bk.caused_by(self._stamps.of(effect)):
                answer = self._perform(effect)

    def _perform(self, effect: Effect[Any]) -> Any:
        match effect:
            case Emit(event, operations):
                return self._emit(event, operations)
            case AskSignal(at, price):
                return self._ask(at, price)
            case Gate(order):
                return self._order(order)
            case Save():
                with self.keeping.writing(WRITE_S):
                    return self.rows.save(effect)
        with self.keeping.writing(WRITE_S):
            return self._risk(effect)

    def _risk(self, effect: Effect[Any]) -> Any:
        match effect:
            case AskRisk(candidate):
                return self.risks.reserve(candidate)
            case HoldRisk(candidate, is_open):
                return self.risks.hold(candidate, is_open=is_open)
            case ReleaseRisk(at):
                return self.risks.release(at)
        raise AssertionError(f"a tick cannot {effect}")

    def _ask(self, at: int, price: float) -> Proposal | None:
        """A strategy that raises costs its answer, not the position."""
        if self.stop.is_set():
            return None
        self.asked += 1
        try:
            with self.keeping.writing(), noting_answers() as answers:
                proposal = self.port.get_signal(at, price)
        except (StrategyFailed, bk.LookAhead) as cause:
            self._complain(cause)
            return None
        if proposal is not None:
            history = self.ctx._history
            seen = history.spans(at) if isinstance(history, History) else {}
            signal = proposal.id or signal_id(self.context, at)
            self._keep(signal, at, "asked", asked_row(at, price, seen, answers, proposal))
        return proposal

    def _order(self, order: Order) -> bool:
        sent_ms = self.clock.now_ms()
        answer = self.gate.execute(order, is_repeat=self._is_repeat)
        row = order_row(order, self.gate.replies, answer, sent_ms, self.clock.now_ms())
        self._keep(order.signal.id, order.signal.scheduled_at, order_name(order), row)
        return answer

    def _keep(self, signal: str, scheduled_at: int, name: str, data: dict[str, Any]) -> None:
        with self.keeping.writing(WRITE_S), bk.simulation_time(None):
            keep_row(self.context, signal, scheduled_at, name, data)

    def _emit(self, event: Event, operations: Operations) -> None:
        with self.keeping.writing(WRITE_S):
            self.rows.keep_event(event)
        if event.action in LEAVES_A_ROW or event.action in ("rejected", "invalid"):
            self.on_line(event_line(event, self.context))
        try:
            with self.keeping.writing():
                self.port.on_event(event, operations)
        except (StrategyFailed, bk.LookAhead) as cause:
            self._complain(cause)

    def _complain(self, cause: Exception) -> None:
        logger.debug("%s", cause, exc_info=cause.__cause__)
        self.on_line(f"the strategy failed, and the run goes on: {cause}")

    # -- time

    def _next(self) -> Tick | None:
        """The next minute, when it has come."""
        state = self._state
        assert state is not None
        self._is_between = True
        if self._last:  # A whole minute has been lived.
            self._is_repeat, self._failure = False, ""
        if self.stop.is_set():
            if not state.is_busy:
                return None
            state.cancelling = state.cancelling or state.schedule is not None
        minute = self._minute(state)
        if self.until_ms is not None and minute > self.until_ms:
            return None
        while (left_ms := minute - self.clock.now_ms()) > 0:
            self.clock.wait(left_ms / 1000, self.stop)
            if self.stop.is_set() and not state.is_busy:
                return None
        window = self._window(minute)
        if window is None:
            return None
        self._last, self._is_between = minute, False
        self._stamps.begin(minute, state)
        return self._tick(minute, window)

    def _minute(self, state: State) -> int:
        now = self.clock.now_ms() // MINUTE_MS * MINUTE_MS
        if not self._last:
            return state.next_minute(max(now, state.as_of + MINUTE_MS))
        following = self._last + MINUTE_MS
        return following if state.is_busy else max(following, now)

    def _window(self, minute: int) -> Series | None:
        """The closed candles before a minute. None: stopped while waiting for them.

        A candle that is missing while a later one exists was a minute without trade.
        """
        since, wait_s = minute - self.rules.vwap_candles * MINUTE_MS, LATE_S[0]
        while True:
            candles = self.market.read("1m", since, minute)
            if candles.is_complete:
                return Series.of(candles, MINUTE_MS, since)
            now = self.clock.now_ms() // MINUTE_MS * MINUTE_MS
            later = self.market.read("1m", minute, now) if now > minute else None
            if later is not None and len(later):
                return self._without_trade(since, minute)
            self.clock.wait(wait_s, self.stop)
            wait_s = min(wait_s * 2, LATE_S[1])
            if self.stop.is_set() and self._state is not None and not self._state.is_busy:
                return None
            if self.clock.now_ms() - minute > 2 * MINUTE_MS:
                raise CandlesMissing(
                    f"the exchange {self.market.exchange.name!r} has no 1m candles of {self.context.symbol} before "
                    f"{minute_text(minute)} yet, {(self.clock.now_ms() - minute) // 1000} s after that minute began"
                )

    def _without_trade(self, since: int, minute: int) -> Series:
        """Missing minutes as they are in a backtest with --fill-gaps."""
        reach = Market(self.market.exchange, self.context.symbol, fill_gaps=True)
        before = self.market.read("1m", since - 60 * MINUTE_MS, minute)
        if not len(before):
            raise CandlesMissing(
                f"there are no 1m candles of {self.context.symbol} in the hour before {minute_text(minute)}"
            )
        filled = reach.minutes(int(before.timestamp[0]), minute, 0)
        self.on_line(f"minutes without trade before {minute_text(minute)} count with the last close")
        return filled.part(len(filled) - self.rules.vwap_candles, len(filled))

    def _tick(self, minute: int, window: Series) -> Tick:
        self.tick_count += 1
        self.ctx._history = history = History(self.market, minute, minute, window)
        self.ctx._bars = history.bars
        count = self.rules.vwap_candles
        prices = average_prices(window.high, window.low, window.close, window.volume, count)
        price = float(np.asarray(prices)[-1])
        return Tick(minute, price, price, float(window.low[-1]), float(window.high[-1]))


def event_line(event: Event, context: ContextId) -> str:
    """One line for people."""
    view = event.signal
    words = [minute_text(event.at), event.action.replace("_", " "), context.symbol, context.strategy]
    if view is not None:
        words.append(f"{view.position} at {event.price:g} (take {view.take_profit:g}, stop {view.stop_loss:g})")
    for name, value in (("level", event.level), ("", event.commit), ("", event.reason)):
        if value is not None:
            words.append(f"{name} {value}".strip())
    if event.pnl is not None:
        words.append(f"{event.pnl.percent:+.4f} %")
    return " ".join(words)
