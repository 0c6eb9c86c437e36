"""Candles as columns in, events out.

A replay drives the same lifecycle as everything else. It is fast because it finds the next minute in which something
can happen with array operations (see `effects.Watch`) and asks the strategy in a tight loop while nothing is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from backtest_kit.bars import Table
from backtest_kit.effects import (
    AskRisk,
    AskSignal,
    Effect,
    Emit,
    Gate,
    HoldRisk,
    Next,
    ReleaseRisk,
    Skipped,
    Tick,
    Watch,
)
from backtest_kit.identity import MINUTE_MS, ContextId
from backtest_kit.lifecycle import Lifecycle
from backtest_kit.ports import StrategyPort
from backtest_kit.pricing import average_prices
from backtest_kit.risk import RiskBook, Risks
from backtest_kit.rules import DEFAULT, Rules
from backtest_kit.state import State

Values = NDArray[np.float64]

FIRST_LOOK: Final = 64
"""Minutes that a search looks at first; each further look is twice as long, up to `LONGEST_LOOK`."""
LONGEST_LOOK: Final = 8192


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """A `Table` of plain arrays."""

    timestamp: NDArray[np.int64]
    open: Values
    high: Values
    low: Values
    close: Values
    volume: Values


class Replay:
    """Answers the effects of a lifecycle from columns.

    Attributes:
        asked: how often the strategy was asked.
        reported: how many minutes the lifecycle was given.
        index: of the candle that opens at the present minute; those before it are closed.
    """

    def __init__(
        self,
        candles: Table,
        port: StrategyPort,
        rules: Rules,
        start_ms: int,
        end_ms: int,
        risks: Risks,
        *,
        skip: bool,
    ) -> None:
        """`skip` leaves out minutes in which nothing can happen; without it every minute is reported.

        Raises:
            ValueError: candles are missing.
        """
        self.port, self.risks, self.skip = port, risks, skip
        self.asked = self.reported = 0
        self.first = _checked_first(candles, rules, start_ms, end_ms)
        self.marks = average_prices(candles.high, candles.low, candles.close, candles.volume, rules.vwap_candles)
        self.lows, self.highs = candles.low, candles.high
        self.delay = 0 if rules.sees_running_candle else 1
        self.index, self.end = (start_ms - self.first) // MINUTE_MS, (end_ms - self.first) // MINUTE_MS

    def drive(self, lifecycle: Lifecycle) -> None:
        plan, answer = lifecycle.run(), None
        perform = self.perform
        while True:
            try:
                effect = plan.send(answer)
            except StopIteration:
                return
            answer = perform(effect)

    def perform(self, effect: Effect[Any]) -> Any:
        match effect:
            case Next(watch):
                return self._next(watch)
            case Emit(event, operations):
                return self.port.on_event(event, operations)
            case AskSignal(at, price):
                self.asked += 1
                return self.port.get_signal(at, price)
            case AskRisk(candidate):
                return self.risks.reserve(candidate)
            case HoldRisk(candidate, is_open):
                return self.risks.hold(candidate, is_open=is_open)
            case ReleaseRisk():
                return self.risks.release()
            case Gate():
                return True
        raise AssertionError(f"a replay cannot {effect}")

    def _next(self, watch: Watch) -> Tick | None:
        if self.index > self.end + 1:
            return None
        if not self.skip:
            return self._tick(self.index)
        if watch.may_ask:
            return self._ask(watch)
        first = self.index
        found = self._search(first, watch) if watch.until > first * MINUTE_MS + self.first else first
        return self._tick(found, self._extremes(first, found) if found > first else None)

    def _tick(self, index: int, skipped: Skipped | None = None) -> Tick:
        """At the end of the columns the newest candle is seen again: a position closes at the last known price."""
        self.index, self.reported = index + 1, self.reported + 1
        seen = min(index - self.delay, len(self.marks) - 1)
        at, before = index * MINUTE_MS + self.first, min(index, len(self.marks)) - 1
        mark, price = self.marks.item(seen), self.marks.item(before)
        return Tick(at, price, mark, self.lows.item(seen), self.highs.item(seen), index > self.end, skipped)

    def _ask(self, watch: Watch) -> Tick | None:
        """Ask minute by minute until the strategy proposes something; None: it never does."""
        interval = self.port.interval_ms // MINUTE_MS
        offset = self.first // MINUTE_MS
        index, first, get_signal = self.index, self.first, self.port.get_signal
        if (index + offset) // interval * interval * MINUTE_MS == watch.served_slot:
            index = self._slot_after(index)
        prices = self.marks.data
        while index <= self.end:
            self.asked += 1
            proposal = get_signal(index * MINUTE_MS + first, prices[index - 1])
            if proposal is not None:
                return self._tick(index)._replace(was_asked=True, proposal=proposal)
            index = self._slot_after(index) if interval > 1 else index + 1
        return None

    def _slot_after(self, index: int) -> int:
        interval, offset = self.port.interval_ms // MINUTE_MS, self.first // MINUTE_MS
        return ((index + offset) // interval + 1) * interval - offset

    def _search(self, first: int, watch: Watch) -> int:
        """The first minute from `first` on in which something that is watched can happen."""
        until = (watch.until - self.first) / MINUTE_MS
        last = int(min(until, self.end + 1, len(self.marks) - 1 + self.delay))
        look, begin = FIRST_LOOK, first
        while begin < last:
            end = min(begin + look, last)
            part = slice(begin - self.delay, end - self.delay)
            hits = (self.marks[part] <= watch.mark_low) | (self.marks[part] >= watch.mark_high)
            hits |= (self.lows[part] <= watch.touch_low) | (self.highs[part] >= watch.touch_high)
            hit = int(hits.argmax())
            if hits[hit]:
                return begin + hit
            begin, look = end, min(look * 2, LONGEST_LOOK)
        return max(last, first)

    def _extremes(self, first: int, end: int) -> Skipped:
        part = self.marks[first - self.delay : end - self.delay]
        high, low = int(part.argmax()), int(part.argmin())
        at = first * MINUTE_MS + self.first
        return Skipped(part.item(high), at + high * MINUTE_MS, part.item(low), at + low * MINUTE_MS)


def replay(
    context: ContextId,
    candles: Table,
    port: StrategyPort,
    rules: Rules = DEFAULT,
    *,
    start_ms: int,
    end_ms: int,
    risks: Sequence[RiskBook] = (),
    skip: bool = True,
) -> Replay:
    """Live every minute from `start_ms` to `end_ms` (both included). Events reach `port.on_event` as they happen.

    Args:
        candles: from `rules.vwap_candles` minutes before the start on. A position that is open at the end is closed
            a minute later (reason time_expired).
        skip: leave out minutes in which nothing can happen. Events are the same without it.

    Raises:
        ValueError: candles are missing.
    """
    driver = Replay(candles, port, rules, start_ms, end_ms, Risks(context, risks), skip=skip)
    driver.drive(Lifecycle(State(context), rules, port.wants, port.interval_ms))
    return driver


def _checked_first(candles: Table, rules: Rules, start_ms: int, end_ms: int) -> int:
    """Open time of the first candle."""
    times = candles.timestamp
    for name, moment in (("start", start_ms), ("end", end_ms)):
        if moment % MINUTE_MS:
            raise ValueError(f"the replay's {name} {moment} is not a whole minute")
    need, until = start_ms - rules.vwap_candles * MINUTE_MS, end_ms - MINUTE_MS
    if not len(times) or times[0] > need or times[-1] < until:
        span = f"they open from {times[0]} to {times[-1]}" if len(times) else "there are none"
        raise ValueError(f"one-minute candles are needed from {need} to {until} (ms), and {span}")
    wrong = np.flatnonzero(np.diff(times) != MINUTE_MS)
    if len(wrong):
        raise ValueError(f"candles must follow each other minute by minute; the one after {times[wrong[0]]} does not")
    return int(times[0])
