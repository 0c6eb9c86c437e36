"""What a lifecycle needs from the outside: a strategy. The rest are effects (see `effects`)."""

from __future__ import annotations

from typing import Protocol

from backtest_kit.events import Event
from backtest_kit.operations import Operations
from backtest_kit.signals import Proposal


class StrategyPort(Protocol):
    """A strategy as the drivers call it. Coroutines are run to their end behind it."""

    @property
    def interval_ms(self) -> int:
        """`get_signal` is asked once per slot of this length."""

    @property
    def wants(self) -> frozenset[str]:
        """Actions that anybody listens to (see `events.ACTIONS`). Others are neither made nor reported."""

    def get_signal(self, now_ms: int, price: float) -> Proposal | None:
        """Asked when the context is idle."""

    def on_event(self, event: Event, ops: Operations) -> None:
        """Reported after the event became part of the state; `ops` are valid until this returns."""
