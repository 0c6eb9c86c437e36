"""All there is of one context, explicit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from backtest_kit.held import Held
from backtest_kit.identity import ContextId
from backtest_kit.signals import Proposal


class Commit(NamedTuple):
    """An operation that was done and is to be told at the end of the step.

    Attributes:
        price: that the caller judged it by; 0: none.
    """

    kind: str
    amount: float | None
    price: float


@dataclass(slots=True)
class State:
    """Attributes:
    signal: the open position.
    schedule: the signal that waits for its price; never both.
    served_slot: the newest interval slot in which the strategy was asked, -1 if it may be asked at once.
    last_id: of the newest opened signal: it is not opened again.
    created: queued by the strategy for when the context is idle.
    closing, cancelling, activating: asked for in a callback, done in the next step.
    commits: done, and not told yet.
    """

    context: ContextId
    signal: Held | None = None
    schedule: Held | None = None
    served_slot: int = -1
    last_id: str | None = None
    created: Proposal | None = None
    closing: bool = False
    cancelling: bool = False
    activating: bool = False
    is_paused: bool = False
    note: str = ""
    commits: list[Commit] = field(default_factory=list)

    @property
    def held(self) -> Held | None:
        return self.signal or self.schedule
