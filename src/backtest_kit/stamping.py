"""What each effect of a durable context belongs to: the stamp on its writes, and rows of what leaves none by itself.

    tick -> asked -> order-open-0 -> opened          the steps of a minute, each with the one that led to it

A step's name is a function of the minute and of what happens in it, so a minute that is lived again after a crash has
the same steps. Questions that were answered and orders leave a row in the memory domain, under the signal's id, bucket
`engine`: what was seen and answered, what was ordered and replied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import backtest_kit_mongo as bk
from backtest_kit.effects import AskRisk, AskSignal, Effect, Emit, Gate, HoldRisk, Order
from backtest_kit.events import Event
from backtest_kit.identity import ContextId, signal_id
from backtest_kit.orders.broker import OrderState, side_of
from backtest_kit.rows import Row, proposal_row
from backtest_kit.seeing import Answers
from backtest_kit.signals import Proposal
from backtest_kit.state import State

__all__ = ["BUCKET", "Stamps", "asked_row", "keep_row", "order_name", "order_row"]

BUCKET: Final = "engine"


class Stamps:
    """Of one context, in the order of its effects.

    Questions, orders and events are steps; rows that are stored belong to the newest of them. What is asked or ordered
    leads to what comes after it in its minute.
    """

    def __init__(self, context: ContextId) -> None:
        self._context = context
        self._at = 0
        self._signal = self._leading = self._step = self._parent = ""

    def begin(self, at: int, state: State, name: str = "tick") -> None:
        """What comes from here on is of this minute (ms)."""
        held = state.held or state.accepted
        self._at = at
        self._signal = held.id if held is not None else signal_id(self._context, at)
        self._leading = self._step = f"{at}/{name}"
        self._parent = ""

    def of(self, effect: Effect[Any]) -> bk.Cause:
        """Its stamp."""
        match effect:
            case AskSignal(at):
                self._signal = signal_id(self._context, at)
                self._leading = self._begun("asked")
            case Gate(order):
                self._signal = order.signal.id
                self._leading = self._begun(order_name(order))
            case Emit(event):
                self._signal = event.signal.id if event.signal is not None else self._signal
                self._begun(event_name(event))
            case AskRisk(candidate) | HoldRisk(candidate):
                self._signal = candidate.signal.id
        return bk.Cause(self._signal, self._step, self._parent, self._at)

    def _begun(self, name: str) -> str:
        self._step, self._parent = f"{self._at}/{name}", self._leading
        return self._step


def order_name(order: Order) -> str:
    return f"order-{order.action}-{order.number}"


def event_name(event: Event) -> str:
    parts = (event.action, event.commit, event.level, event.number or None)
    return "-".join(str(part) for part in parts if part is not None)


def asked_row(at: int, price: float, candles: Mapping[str, Any], answers: Answers, proposal: Proposal) -> Row:
    """A question with an answer.

    Args:
        candles: by interval, open times (ms) of the first and last candle that were at hand.
        answers: stored answers that it read: bucket and key.
    """
    return {
        "kind": "asked",
        "at": at,
        "price": price,
        "candles": {interval: list(span) for interval, span in candles.items()},
        "measures": [list(one) for one in answers],
        "proposal": proposal_row(proposal),
    }


def order_row(order: Order, replies: list[OrderState], answer: bool | None, sent_ms: int, replied_ms: int) -> Row:
    """An order and what came of it.

    Args:
        answer: whether it was executed; None: nobody knows yet.
        sent_ms, replied_ms: by the clock of the context.
    """
    return {
        "kind": "order",
        "action": order.action,
        "number": order.number,
        "at": order.at,
        "side": side_of(order),
        "price": order.price,
        "cost": order.cost,
        "isDone": answer,
        "replies": [
            {
                "clientOrderId": one.client_order_id,
                "status": one.status,
                "filled": one.filled,
                "average": one.average,
                "reason": one.reason,
            }
            for one in replies
        ],
        "sentMs": sent_ms,
        "repliedMs": replied_ms,
    }


def keep_row(context: ContextId, signal: str, scheduled_at: int, name: str, data: Row) -> None:
    """Store a row of a signal that was asked for at a minute (ms). Others may have the id that a strategy chose."""
    question, at = signal_id(context, scheduled_at), int(data["at"])
    row = {"priority": at, "data": {**data, "question": question}, "removed": False, "index": name, "when": at}
    name = name if signal == question else f"{name}~{question}"
    bk.PersistMemoryAdapter.write_memory_data(row, signal, BUCKET, name, at)
