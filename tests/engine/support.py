"""Made-up candles and strategies that do what a test says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from backtest_kit.events import ACTIONS, Event
from backtest_kit.identity import MINUTE_MS, ContextId
from backtest_kit.operations import Operations
from backtest_kit.replay import Columns, Replay, replay
from backtest_kit.risk import RiskBook
from backtest_kit.rules import Rules
from backtest_kit.signals import Proposal

START_MS = 1_704_067_200_000
CONTEXT = ContextId("BTCUSDT", "planned", "made-up", "frame")
WARM_UP = 10
QUIET = frozenset(ACTIONS - {"idle", "active_ping", "schedule_ping"})

Reported: TypeAlias = tuple[str, int, float, str | int | None]


def at(minute: int) -> int:
    return START_MS + minute * MINUTE_MS


def flat(*steps: tuple[int, float], minutes: int = 400) -> Columns:
    """Candles without a body: (minute, price) says from when on which price; volume 1."""
    times = np.arange(-WARM_UP, minutes) * MINUTE_MS + START_MS
    close = np.full(len(times), float(steps[0][1]))
    for minute, price in steps:
        close[max(0, minute + WARM_UP) :] = price
    return Columns(times, close, close.copy(), close.copy(), close, np.ones(len(times)))


class Planned:
    """Proposes what `plan` says for a minute and writes down every question and event."""

    def __init__(
        self,
        plan: Callable[[int], Proposal | None],
        interval_minutes: int = 1,
        wants: frozenset[str] = QUIET,
        act: Callable[[Event, Operations], None] = lambda event, ops: None,
    ) -> None:
        self.plan, self.interval_ms, self.wants, self.act = plan, interval_minutes * MINUTE_MS, wants, act
        self.asked: list[int] = []
        self.events: list[Event] = []

    def get_signal(self, now_ms: int, price: float) -> Proposal | None:
        minute = (now_ms - START_MS) // MINUTE_MS
        self.asked.append(minute)
        return self.plan(minute)

    def on_event(self, event: Event, ops: Operations) -> None:
        self.events.append(event)
        self.act(event, ops)

    def reported(self, *actions: str) -> list[Reported]:
        """(action, minute, price, reason or level) of the events, or of those of some actions."""
        return [
            (event.action, (event.at - START_MS) // MINUTE_MS, round(event.price, 10), event.reason or event.level)
            for event in self.events
            if not actions or event.action in actions
        ]

    @property
    def pnls(self) -> list[float]:
        """Percent of each close, to four decimals."""
        return [round(event.pnl.percent, 4) for event in self.events if event.action == "closed" and event.pnl]


def play(
    candles: Columns,
    port: Planned,
    rules: Rules,
    frame: tuple[int, int] = (0, 60),
    risks: Sequence[RiskBook] = (),
    *,
    skip: bool = True,
) -> Replay:
    start, end = map(at, frame)
    return replay(CONTEXT, candles, port, rules, start_ms=start, end_ms=end, risks=risks, skip=skip)


def once(proposal: Proposal, minute: int = 0) -> Callable[[int], Proposal | None]:
    """A plan: one proposal, at one minute."""
    return lambda now: proposal if now == minute else None
