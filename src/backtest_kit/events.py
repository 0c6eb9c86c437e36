"""What a lifecycle tells: to callbacks, listeners, results and the stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from backtest_kit.identity import digest
from backtest_kit.signals import Pnl, SignalView

ACTIONS: Final = frozenset(
    {
        "idle",
        "scheduled",
        "schedule_ping",
        "opened",
        "active_ping",
        "partial_profit",
        "partial_loss",
        "breakeven",
        "highest_profit",
        "max_drawdown",
        "commit",
        "closed",
        "cancelled",
        "rejected",
        "invalid",
        "paused",
    }
)

EACH_MINUTE: Final = frozenset({"idle", "schedule_ping", "active_ping"})
"""Reported for every minute; a minute that nobody listens to is skipped in a replay."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        action: one of `ACTIONS`.
        at: the simulated minute, ms.
        price: the market's at that step; for `closed` the price of the close.
        reason: of a close (take_profit stop_loss time_expired closed), a cancellation (timeout price_reject user), a
            rejection or an invalid proposal (a sentence).
        level: 10, 20 .. 100, of partial_profit and partial_loss.
        commit: what was committed: partial-profit partial-loss breakeven average-buy trailing-stop trailing-take
            close-pending cancel-scheduled activate-scheduled.
        amount: percent, cost or shift of a commit.
        pnl: of closed, highest_profit, max_drawdown.
        number: tells events of one kind and minute apart.
        is_repeat: this process does not know whether it was reported before (a restart came between).
    """

    action: str
    at: int
    price: float
    signal: SignalView | None = None
    reason: str | None = None
    level: int | None = None
    commit: str | None = None
    amount: float | None = None
    pnl: Pnl | None = None
    number: int = 0
    is_repeat: bool = False

    @property
    def event_id(self) -> str:
        """The same for the same event after every restart: a consumer can drop repeats by it."""
        kind = f"{self.action}/{self.level or ''}/{self.commit or ''}/{self.number}"
        return digest(self.signal.id if self.signal else "", kind, self.at)
