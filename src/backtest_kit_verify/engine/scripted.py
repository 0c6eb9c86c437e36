"""A live bot on a scripted clock: candles come one by one, and a tick knows those that were closed before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from backtest_kit.effects import AskSignal, Effect, Emit, Gate, Next, Tick
from backtest_kit.identity import MINUTE_MS, ContextId
from backtest_kit.lifecycle import Lifecycle
from backtest_kit.rules import DEFAULT, Rules
from backtest_kit.state import State
from backtest_kit.vectors import Planned, run
from backtest_kit_verify.engine.world import Row

LIVE = ContextId("BTCUSDT", "strategy", "oracle", "", "live")
Candle = Sequence[float]


class ScriptedLive:
    """Ticks once per minute of the vector's frame."""

    def __init__(self, vector: Row, rules: Rules) -> None:
        self.port = Planned(vector)
        self.start, self.end = vector["frame"]["start"], vector["frame"]["end"]
        self.feed: Iterator[Candle] = iter(vector["candles"])
        self.known: deque[Candle] = deque(maxlen=rules.vwap_candles)
        self.now = self.start
        self.plan = Lifecycle(State(LIVE), rules, self.port.wants, self.port.interval_ms).run()

    def run(self) -> Planned:
        answer: Any = None
        try:
            while True:
                answer = self.perform(self.plan.send(answer))
        except StopIteration:
            return self.port

    def perform(self, effect: Effect[Any]) -> Any:
        match effect:
            case Next():
                return self._tick()
            case Emit(event, operations):
                self.port.on_event(event, operations)
            case AskSignal(at, price):
                return self.port.get_signal(at, price)
            case Gate():
                return True
        return None

    def _tick(self) -> Tick | None:
        if self.now > self.end:
            return None
        at, self.now = self.now, self.now + MINUTE_MS
        while not self.known or self.known[-1][0] < at - MINUTE_MS:
            self.known.append(next(self.feed))
        price = average(list(self.known))
        _, _, high, low, *_ = self.known[-1]
        return Tick(at, price, price, low, high)


def average(candles: Sequence[Candle]) -> float:
    """The definition of the average price, candle by candle."""
    volume = turnover = closes = 0.0
    for _, _, high, low, close, traded in candles:
        turnover += (high + low + close) / 3 * traded
        volume += traded
        closes += close
    return turnover / volume if volume else closes / len(candles)


def live_differs(vector: Row, rules: Rules = DEFAULT) -> list[str]:
    """Where a live run and a replay tell something else of the minutes of the frame."""
    replayed, _ = run(vector, rules)
    live = ScriptedLive(vector, rules).run()
    end = vector["frame"]["end"]
    expected = [row for row in replayed.events if row["at"] <= end]  # A replay closes what is open at its end.
    for ours, other in zip(live.events, expected, strict=False):
        if ours != other:
            return [f"live: {ours}, replayed: {other}"]
    if len(live.events) != len(expected):
        return [f"{len(live.events)} events live, {len(expected)} replayed"]
    return []
