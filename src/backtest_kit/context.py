"""What get_signal and callbacks see: `ctx`."""

from __future__ import annotations

import operator
import uuid
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol

import backtest_kit_mongo as bk
from backtest_kit import declare, remembering
from backtest_kit.bars import Bars
from backtest_kit.errors import DeclarationError
from backtest_kit.identity import ContextId, digest, names_joined
from backtest_kit.moments import minute_text
from backtest_kit.operations import Operations
from backtest_kit.remembering import Place
from backtest_kit.signals import Pnl, Proposal, SignalView

__all__ = ["Context", "History"]


class History(Protocol):
    """Where `ctx.candles` come from."""

    def bars(self, interval: str, now_ms: int, count: int) -> Bars:
        """The last `count` candles of an interval that are closed at `now_ms`; fewer where history begins."""


class Context:
    """One per symbol, strategy and exchange; the same object for every call, with `now` and `price` moved on.

    Attributes:
        now: the simulated minute, epoch ms; in paper and live the minute of the tick.
        price: average price of the five minutes before `now`, weighted by volume.
        candles: (interval, n) -> the last n candles that are closed at `now`, as columns (`Bars`). Intervals are 1m 3m
            5m 15m 30m 1h 2h 4h 6h 8h 12h 1d.
    """

    def __init__(self, identity: ContextId, history: History, run_id: str = "") -> None:
        self.identity = identity
        self.run_id = run_id
        self._minute = 0
        self._price: float | None = 0.0
        self._history = history
        self._bars = history.bars
        self._operations: Operations | None = None

    def candles(self, interval: str, n: int) -> Bars:
        """The last `n` closed candles; fewer only where history begins.

        Raises:
            DeclarationError: there is no such interval.
            ValueError: `n` is no whole number from 1 on.
        """
        if type(n) is not int or n < 1:
            n = _count(interval, n)
        return self._bars(interval, self._minute, n)

    @property
    def now(self) -> int:
        return self._minute

    @property
    def price(self) -> float:
        if self._price is None:
            self._price = self._average_price()
        return self._price

    @property
    def symbol(self) -> str:
        return self.identity.symbol

    @property
    def mode(self) -> str:
        """backtest, paper or live. A strategy that decides by it is not tested by a backtest."""
        return self.identity.mode

    @property
    def time(self) -> str:
        """`now` for people and prompts: 2024-01-31 12:00Z."""
        return minute_text(self.now)

    def at(self, moment: int) -> Context:
        """This context as it was at an earlier moment (ms), with nothing remembered yet.

        Raises:
            LookAhead: the moment lies after `now`.
        """
        if not moment <= self._minute:
            raise bk.LookAhead(f"ctx.at({moment}): that is after {self.time} ({self.now}). Nothing was read.")
        earlier = Context(self.identity, self._history, self.run_id)
        earlier._minute, earlier._price = moment, None
        return earlier

    @contextmanager
    def moved(self, moment: int) -> Iterator[None]:
        """This very context at an earlier moment, for the length of a block: whoever holds it looks no further."""
        before = self._minute, self._price
        if moment < self._minute:
            self._minute, self._price = moment, None
        try:
            yield
        finally:
            self._minute, self._price = before

    def _average_price(self) -> float:
        """Of an earlier moment; the present one comes from the engine."""
        last = self._bars("1m", self._minute, 5)
        volume = float(last.volume.sum())
        if volume:
            return float(((last.high + last.low + last.close) / 3 * last.volume).sum() / volume)
        return float(last.close.mean()) if len(last) else 0.0

    # -- the exchange

    def order_book(self, depth: int = 20) -> Any:
        """What the exchange's `get_order_book(symbol, depth)` answers; in paper and live only, for it was not
        recorded.
        """
        return self._asked("get_order_book", depth)

    def trades(self, limit: int = 100) -> Any:
        """What the exchange's `get_trades(symbol, limit)` answers; in paper and live only."""
        return self._asked("get_trades", limit)

    def format_price(self, price: float) -> str:
        """As the exchange writes prices (`format_price` of its declaration)."""
        function = self._of_exchange("format_price")
        return f"{price:.10g}" if function is None else str(function(self.symbol, price))

    def format_quantity(self, quantity: float) -> str:
        """As the exchange writes quantities."""
        function = self._of_exchange("format_quantity")
        return f"{quantity:.10g}" if function is None else str(function(self.symbol, quantity))

    def _of_exchange(self, name: str) -> Any:
        found = [one for one in declare.exchanges.list() if one.name == self.identity.exchange]
        return getattr(found[0], name) if found else None

    def _asked(self, name: str, argument: int) -> Any:
        if self.mode == "backtest":
            raise DeclarationError(f"{name} shows the present; a backtest lives in the past")
        function = self._of_exchange(name)
        if function is None:
            raise DeclarationError(f"exchange {self.identity.exchange!r} is declared without {name}")
        return function(self.symbol, argument)

    # -- memory

    @cached_property
    def _place(self) -> Place:
        one = self.identity
        parts = [one.symbol, one.strategy, one.exchange, *([one.frame] if one.frame else []), one.mode]
        owner = names_joined(":", *parts, *([self.run_id] if self.run_id else []))
        return Place(owner, one.symbol, one.strategy, one.kept_exchange, one.frame, one.mode == "backtest")

    def _now(self) -> int:
        return self._minute

    @cached_property
    def state(self) -> MutableMapping[str, Any]:
        """Free values of this context, durable when the assignment returns. One row."""
        return remembering.state(self._place, self._now)

    @cached_property
    def session(self) -> MutableMapping[str, Any]:
        """As `state`, in the row that the original calls session."""
        return remembering.session(self._place, self._now)

    @cached_property
    def dictionary(self) -> MutableMapping[str, Any]:
        """As `state`; each value keeps the minute of its own write."""
        return remembering.dictionary(self._place, self._now)

    @cached_property
    def memory(self) -> MutableMapping[str, Any]:
        """A row for each value: for many of them, and for what other processes read."""
        return remembering.memory(self._place, self._now)

    def log(self, topic: str, *args: Any) -> None:
        """Write a line to the log, with the simulated minute: a topic, then values that JSON knows, in their order."""
        one = self.identity
        moment = datetime.fromtimestamp(self.now / 1000, UTC)
        row = {
            # In a backtest the same line of the same minute has the same id; otherwise each call is a line.
            "id": digest(
                "log", self._place.owner, self.now, topic, repr(args), "" if self._place.is_backtest else uuid.uuid4()
            ),
            "type": "info",
            "priority": self.now,
            "createdAt": moment.isoformat(),
            "timestamp": self.now,
            "methodContext": {"exchangeName": one.exchange, "strategyName": one.strategy, "frameName": one.frame},
            "executionContext": {"symbol": one.symbol, "when": moment, "backtest": self._place.is_backtest},
            "topic": topic,
            "args": list(args),
        }
        bk.PersistLogAdapter.append_log_data(row)

    # -- operations

    @property
    def trade(self) -> Operations:
        """What may be done with the position.

        Raises:
            DeclarationError: outside of a callback; get_signal proposes, it does not trade.
        """
        if self._operations is None:
            raise DeclarationError(
                "positions are changed in callbacks only (on_active, on_open, ..), not in get_signal"
            )
        return self._operations

    @property
    def signal(self) -> SignalView | None:
        """In a callback: the scheduled or open signal as it stands."""
        return self.trade.signal

    def pnl(self) -> Pnl | None:
        """In a callback: what the open position has made at `price`, with costs."""
        return self.trade.pnl()

    def close(self, note: str = "") -> bool:
        """Close the position at the next step's price. This and what follows answers whether it was done."""
        return self.trade.close(note)

    def cancel(self, note: str = "") -> bool:
        """Cancel the scheduled signal."""
        return self.trade.cancel(note)

    def activate(self, note: str = "") -> bool:
        """Open the scheduled signal without waiting for its price."""
        return self.trade.activate(note)

    def partial_profit(self, percent: float) -> bool:
        """Close a part, in profit: percent (0..100] of what remains."""
        return self.trade.partial_profit(percent)

    def partial_loss(self, percent: float) -> bool:
        """Close a part, in loss."""
        return self.trade.partial_loss(percent)

    def breakeven(self) -> bool:
        """Move the stop to the effective entry."""
        return self.trade.breakeven()

    def trailing_stop(self, shift: float) -> bool:
        """Shift the stop's distance from the entry, in percentage points; later calls only tighten."""
        return self.trade.trailing_stop(shift)

    def trailing_take(self, shift: float) -> bool:
        """Shift the take profit's distance; later calls only bring it nearer."""
        return self.trade.trailing_take(shift)

    def average_buy(self, cost: float | None = None) -> bool:
        """Add to the position at a better price than every entry before; cost in the quote currency."""
        return self.trade.average_buy(cost)

    def create_signal(self, proposal: Proposal) -> bool:
        """Queue a signal for when this context is idle."""
        return self.trade.create_signal(proposal)

    def pause(self, is_paused: bool = True) -> bool:
        """Ask for no new signals until `pause(False)`."""
        return self.trade.pause(is_paused)

    def __repr__(self) -> str:
        return f"<{self.symbol} {self.identity.strategy} at {self.time}, price {self.price:g}>"


def _count(interval: str, n: Any) -> int:
    """NumPy's whole numbers are some too."""
    try:
        count = operator.index(n)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"ctx.candles({interval!r}, n): n must be a whole number from 1 on, not {n!r:.80}")
    return count
