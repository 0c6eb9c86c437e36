"""One order, at most once: look it up, then send it, then wait for its fill.

A process may die at any instant, a reply may be lost, an exchange may learn of an order late. What protects is the
order's id, which is a function of what is ordered: before anything is sent, the broker is asked for it. Where an
earlier attempt may still be on its way (the caller says so, or this process saw no reply), the broker is asked for
`settle_ms` before the same id is sent again. An order that the broker once knew is never sent again by this process: it
may be filled and not shown for a while.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from time import monotonic, sleep
from typing import Final

from backtest_kit.effects import Order
from backtest_kit.orders.broker import (
    Broker,
    BrokerOrder,
    BrokerUnavailable,
    OrderRefused,
    OrderState,
    client_order_id,
    side_of,
)

logger = logging.getLogger(__name__)

PARTS_MAX: Final = 10
"""How many orders one attempt to close sends at most."""
DUST: Final = 1e-9
"""The share of a quantity below which nothing is left."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Attributes:
    settle_ms: how long an order may be under way before the broker knows it.
    fill_ms: how long an order may take to be filled before the rest is cancelled.
    poll_ms: between two questions.
    """

    settle_ms: int = 5_000
    fill_ms: int = 20_000
    poll_ms: int = 250


@dataclass(slots=True)
class OrderGate:
    """Attributes:
    owner: text that names the context.
    may_send: raises if this process must not send orders any more (it was replaced by another).
    sent: how many orders this process has sent.
    replies: what the broker said of each order of the newest execution.
    """

    broker: Broker
    symbol: str
    owner: str = ""
    patience: Patience = Patience()
    may_send: Callable[[], None] = lambda: None
    clock_s: Callable[[], float] = monotonic
    pause_s: Callable[[float], None] = sleep
    sent: int = 0
    replies: list[OrderState] = field(default_factory=list)
    _unanswered: set[str] = field(default_factory=set)
    _known: set[str] = field(default_factory=set)

    def execute(self, order: Order, *, is_repeat: bool) -> bool:
        """Have it executed. False: the broker refuses it for good, and nothing of it was executed.

        Args:
            is_repeat: an earlier process may have sent it already.

        Raises:
            BrokerUnavailable: nobody knows yet; execute it again later.
        """
        closes = order.action in ("close", "partial")
        wanted = order.cost / (order.signal.price_open if closes else order.price)
        filled = 0.0
        sent_before, self.replies = self.sent, []
        for part in count():
            if self.sent - sent_before >= PARTS_MAX:
                break
            state = self._part(order, part, wanted - filled, closes=closes, is_repeat=is_repeat)
            if state is None:
                return closes
            self.replies.append(state)
            filled += state.filled
            if state.status == "refused" or not closes:
                return filled > 0
            if filled >= wanted * (1 - DUST):
                return True
        raise BrokerUnavailable(
            f"{self.symbol}: {filled:g} of {wanted:g} are closed after {PARTS_MAX} orders; the next attempt goes on "
            "with the rest"
        )

    def _part(self, order: Order, part: int, quantity: float, *, closes: bool, is_repeat: bool) -> OrderState | None:
        """The end of one order; None: there is nothing left to close."""
        identity = client_order_id(order, part, self.owner)
        state = self._find(identity, is_repeat=is_repeat)
        if state is None:
            if closes:
                quantity = self._at_most_held(quantity)
                if quantity == 0:
                    return None
            state = self._submit(BrokerOrder(identity, self.symbol, side_of(order), quantity, order.price, closes))
        state = self._filled(state)
        if state.status == "refused":
            logger.warning("%s: %s order %s refused: %s", self.symbol, order.action, identity, state.reason)
        return state

    def _at_most_held(self, quantity: float) -> float:
        """Never more than the account says it has: fees may have been taken from it, or somebody sold by hand."""
        positions = self.broker.positions(self.symbol)
        return min(quantity, abs(sum(position.quantity for position in positions))) if positions else quantity

    def _find(self, identity: str, *, is_repeat: bool) -> OrderState | None:
        state = self.broker.find(identity, self.symbol)
        is_known = identity in self._known
        if state is None and (is_repeat or is_known or identity in self._unanswered):
            for _ in self._polls(self.patience.settle_ms):
                state = self.broker.find(identity, self.symbol)
                if state is not None:
                    break
        if state is None and is_known:
            raise BrokerUnavailable(
                f"{self.symbol}: the broker knew the order {identity} and does not show it any more. It is not sent "
                "again while this process lives; look it up at the exchange"
            )
        self._unanswered.discard(identity)
        return state

    def _submit(self, order: BrokerOrder) -> OrderState:
        self.may_send()
        self._unanswered.add(order.client_order_id)
        self.sent += 1
        try:
            state = self.broker.submit(order)
        except OrderRefused as cause:
            state = OrderState(order.client_order_id, "refused", 0.0, reason=str(cause))
        self._unanswered.discard(order.client_order_id)
        return state

    def _filled(self, state: OrderState) -> OrderState:
        """Wait for the fill; after `fill_ms` the rest is cancelled."""
        if state.status != "working":
            return state
        self._known.add(state.client_order_id)
        for _ in self._polls(self.patience.fill_ms):
            found = self.broker.find(state.client_order_id, self.symbol)
            state = state if found is None else found
            if state.status != "working":
                return state
        return self.broker.cancel(state.client_order_id, self.symbol)

    def _polls(self, for_ms: int) -> Iterator[None]:
        until_s = self.clock_s() + for_ms / 1000
        while self.clock_s() < until_s:
            self.pause_s(self.patience.poll_ms / 1000)
            yield
