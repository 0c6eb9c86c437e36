"""Random candles and plans, each a function of a few numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from backtest_kit.events import Event
from backtest_kit.identity import MINUTE_MS
from backtest_kit.operations import Operations
from backtest_kit.replay import Columns
from backtest_kit.signals import Proposal
from tests.engine.support import START_MS, WARM_UP

MINUTES = 360


class Series(NamedTuple):
    seed: int
    volatility: float
    price: float

    def candles(self) -> Columns:
        """A random walk with jumps, quiet stretches and candles without volume."""
        draw = np.random.default_rng(self.seed)
        count = MINUTES + WARM_UP + 10
        steps = draw.normal(0, self.volatility, count) * draw.choice([0, 1, 4], count, p=[0.2, 0.75, 0.05])
        close = self.price * np.exp(np.cumsum(steps))
        start = np.concatenate([[self.price], close[:-1]])
        wick = np.abs(draw.normal(0, self.volatility / 2, (2, count)))
        high, low = np.maximum(start, close) * (1 + wick[0]), np.minimum(start, close) * (1 - wick[1])
        volume = np.where(draw.random(count) < 0.1, 0.0, draw.uniform(0.5, 60, count).round(4))
        times = np.arange(-WARM_UP, count - WARM_UP) * MINUTE_MS + START_MS
        return Columns(times, start, high, low, close, volume)


class Act(NamedTuple):
    """Done at the `on`-th event of a signal."""

    on: int
    do: str
    amount: float


class Wish(NamedTuple):
    """A proposal relative to the price at which it is made."""

    long: bool
    take: float
    stop: float
    offset: float | None
    minutes: int
    acts: tuple[Act, ...]

    def proposal(self, price: float, note: str) -> Proposal:
        sign = 1 if self.long else -1
        base = price if self.offset is None else price * (1 - sign * self.offset / 100)
        take, stop = base * (1 + sign * self.take / 100), base * (1 - sign * self.stop / 100)
        entry = None if self.offset is None else base
        return Proposal("long" if self.long else "short", take, stop, entry, self.minutes, None, note)


ACTS = (
    "partial_profit",
    "partial_loss",
    "breakeven",
    "trailing_stop",
    "trailing_take",
    "average_buy",
    "close",
    "pause",
)

series = st.builds(
    Series, st.integers(0, 2**32 - 1), st.sampled_from([0.0003, 0.001, 0.003]), st.sampled_from([0.0023, 1.25, 42000.0])
)
acts = st.builds(Act, st.integers(0, 8), st.sampled_from(ACTS), st.sampled_from([-0.3, -0.1, 0.2, 10.0, 50.0, 100.0]))
percents = st.floats(0.3, 3.0)
wishes = st.builds(
    Wish,
    st.booleans(),
    percents,
    percents,
    st.none() | st.floats(-0.5, 0.8),
    st.sampled_from([1, 5, 40, 240]),
    st.lists(acts, max_size=3).map(tuple),
)
plans = st.dictionaries(st.integers(0, MINUTES), wishes, max_size=12)


class Wishful:
    """A strategy that lives by a plan: what it proposes, and what it does at which event of a signal."""

    def __init__(self, plan: Mapping[int, Wish], wants: frozenset[str], interval_minutes: int) -> None:
        self.plan, self.wants, self.interval_ms = plan, wants, interval_minutes * MINUTE_MS
        self.asked: list[int] = []
        self.events: list[Event] = []
        self.seen: dict[str, int] = {}

    def get_signal(self, now_ms: int, price: float) -> Proposal | None:
        self.asked.append(now_ms)
        minute = (now_ms - START_MS) // MINUTE_MS
        wish = self.plan.get(minute)
        return wish.proposal(price, str(minute)) if wish else None

    def on_event(self, event: Event, ops: Operations) -> None:
        self.events.append(event)
        if event.signal is None:
            return
        number = self.seen[event.signal.id] = self.seen.get(event.signal.id, -1) + 1
        wish = self.plan.get(int(event.signal.note))
        for act in wish.acts if wish else ():
            if act.on == number:
                _do(act, ops)


def _do(act: Act, ops: Operations) -> None:
    if act.do in ("close", "breakeven"):
        getattr(ops, act.do)()
    elif act.do == "create":
        ops.create_signal(Proposal("long", ops.price * 1.01, ops.price * 0.99, minutes=5, note="-1"))
    else:
        is_shift = act.do.startswith("trailing")
        getattr(ops, act.do)(act.amount if is_shift else abs(act.amount))


def without_ids(events: Sequence[Event]) -> list[Any]:
    """Events as plain values, signals by their note."""
    return [
        (event.action, event.at, event.price, event.reason, event.level, event.commit, event.amount, event.pnl)
        + (event.signal[1:] if event.signal else ())
        for event in events
    ]
