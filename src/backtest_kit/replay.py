"""Candles as columns in, events out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backtest_kit.effects import AskSignal, Effect, Emit, Gate, Next, Tick, Watch
from backtest_kit.identity import MINUTE_MS, ContextId
from backtest_kit.lifecycle import Lifecycle
from backtest_kit.ports import StrategyPort
from backtest_kit.pricing import average_prices
from backtest_kit.rules import DEFAULT, Rules
from backtest_kit.state import State

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """One-minute candles without a gap, ascending. `bk.Candles` has the same fields and can be given instead.

    Attributes:
        timestamp: open times, epoch ms.
    """

    timestamp: NDArray[np.int64]
    open: Values
    high: Values
    low: Values
    close: Values
    volume: Values


class StepByStep:
    """Answers a lifecycle from columns, every minute."""

    def __init__(self, columns: Columns, port: StrategyPort, rules: Rules, start_ms: int, end_ms: int) -> None:
        self.port, self.asked = port, 0
        self.marks = average_prices(
            columns.high, columns.low, columns.close, columns.volume, rules.vwap_candles
        ).tolist()
        self.lows, self.highs = columns.low.tolist(), columns.high.tolist()
        self.first, self.end, self.at = int(columns.timestamp[0]), end_ms, start_ms
        self.delay = 0 if rules.sees_running_candle else 1

    def perform(self, effect: Effect[Any]) -> Any:
        match effect:
            case Next(watch):
                return self.next(watch)
            case AskSignal(at, price):
                self.asked += 1
                return self.port.get_signal(at, price)
            case Emit(event, operations):
                return self.port.on_event(event, operations)
            case Gate():
                return True
        return None

    def next(self, watch: Watch) -> Tick | None:
        at = self.at
        if at > self.end + MINUTE_MS:
            return None
        self.at += MINUTE_MS
        index = (at - self.first) // MINUTE_MS
        seen = index - self.delay
        if seen >= len(self.marks):
            return None
        marks = self.marks
        return Tick(at, marks[index - 1], marks[seen], self.lows[seen], self.highs[seen], at > self.end)


def replay(
    context: ContextId,
    columns: Columns,
    port: StrategyPort,
    rules: Rules = DEFAULT,
    *,
    start_ms: int,
    end_ms: int,
) -> int:
    """Live every minute from `start_ms` to `end_ms` (both included). Events reach `port.on_event` as they happen.

    Returns:
        How many times `get_signal` was asked.
    """
    driver = StepByStep(columns, port, rules, start_ms, end_ms)
    plan = Lifecycle(State(context), rules, port.wants, port.interval_ms).run()
    answer: Any = None
    while True:
        try:
            effect = plan.send(answer)
        except StopIteration:
            return driver.asked
        answer = driver.perform(effect)
