"""What survives a process: stored rows, the broker's book, what listeners got; and the market."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from backtest_kit.effects import Order, Tick
from backtest_kit.events import Event
from backtest_kit.identity import MINUTE_MS, ContextId, digest
from backtest_kit.operations import Operations
from backtest_kit.pricing import average_prices
from backtest_kit.rules import Rules
from backtest_kit.signals import Proposal
from backtest_kit.vectors import Planned, do_act

CONTEXT = ContextId("BTCUSDT", "strategy", "exchange", "", "live")
RISK = "risk"

Row = Mapping[str, Any]


class Reported(NamedTuple):
    """What an event said, as far as it must be the same after a restart."""

    at: int
    action: str
    signal: str
    price: float
    reason: str | None


class Executed(NamedTuple):
    """An order in the broker's book."""

    at: int
    action: str
    signal: str
    price: float
    cost: float


@dataclass(slots=True)
class World:
    """Attributes:
    rows: by domain and key; each is replaced as a whole.
    kept_rows: rows of the history by signal id.
    orders: those that were executed, by client order id.
    refused: client order ids that the broker refuses for good.
    turned_down: those of them that it was sent.
    reported: events by id, each minute's pings left out.
    asked_slot: the newest slot in which the strategy was asked.
    violations: what was seen to go wrong while it happened.
    version: grows with every change.
    """

    rows: dict[tuple[str, str], Row | None] = field(default_factory=dict)
    kept_rows: dict[str, Row] = field(default_factory=dict)
    orders: dict[str, Executed] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    turned_down: frozenset[str] = frozenset()
    reported: dict[str, Reported] = field(default_factory=dict)
    risk: list[list[Any]] = field(default_factory=list)
    asked_slot: int = -1
    violations: list[str] = field(default_factory=list)
    version: int = 0

    def copy(self) -> World:
        return replace(
            self,
            rows=dict(self.rows),
            kept_rows=dict(self.kept_rows),
            orders=dict(self.orders),
            reported=dict(self.reported),
            violations=list(self.violations),
        )

    def context_rows(self) -> dict[str, Row | None]:
        """The rows that a restart reads: strategy, signal, schedule."""
        return {domain: row for (domain, key), row in self.rows.items() if not key}

    def execute(self, client_order_id: str, order: Order) -> None:
        self.orders[client_order_id] = Executed(order.at, order.action, order.signal.id, order.price, order.cost)

    def keep_event(self, event: Event) -> None:
        signal = event.signal.id if event.signal else ""
        self.reported[event.event_id] = Reported(event.at, event.action, signal, event.price, event.reason)


def client_order_id(order: Order) -> str:
    return digest(order.signal.id, order.action, order.number)


class Market:
    """A vector's candles, its plan, and what its strategy does at which minute of a position."""

    def __init__(self, vector: Row, rules: Rules) -> None:
        rows = np.array(vector["candles"], float)
        self.first = int(rows[0, 0])
        marks = average_prices(rows[:, 2], rows[:, 3], rows[:, 4], rows[:, 5], rules.vwap_candles)
        self.prices: list[float] = marks.tolist()
        self.lows: list[float] = rows[:, 3].tolist()
        self.highs: list[float] = rows[:, 2].tolist()
        frame = vector["frame"]
        self.start, self.end = self.index(frame["start"]), self.index(frame["end"])
        self.planned = Planned(vector)

    def index(self, at: int) -> int:
        return (at - self.first) // MINUTE_MS

    def at(self, index: int) -> int:
        return self.first + index * MINUTE_MS

    def tick(self, index: int) -> Tick:
        """What a live tick of this minute sees: candles that were closed before it."""
        price = self.prices[index - 1]
        return Tick(self.at(index), price, price, self.lows[index - 1], self.highs[index - 1])

    def signal(self, at: int, price: float) -> Proposal | None:
        return self.planned.get_signal(at, price)

    def act(self, event: Event, ops: Operations) -> None:
        """The acts of exactly this minute of the position's life: a function of the event alone."""
        view = event.signal
        if event.action != "active_ping" or view is None:
            return
        minute = (event.at - view.pending_at) // MINUTE_MS
        for act in self.planned.acts.get(view.note, ()):
            if act["minute"] == minute:
                do_act(act, event.price, ops)
