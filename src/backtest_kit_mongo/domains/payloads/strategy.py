"""The deferred work of a strategy: what the Strategy domain holds."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from backtest_kit_mongo.domains.payloads.base import Payload, Price
from backtest_kit_mongo.domains.payloads.signals import (
    ScheduledSignalActivateRow,
    ScheduledSignalCancelRow,
    SignalCloseRow,
    SignalDto,
    SignalRow,
)

__all__ = [
    "ActivateScheduledCommit",
    "AverageBuyCommit",
    "BreakevenCommit",
    "CommitRow",
    "PartialCommit",
    "StrategyData",
    "TrailingCommit",
]


class _Commit(Payload):
    symbol: str | None = None
    backtest: bool | None = None


class PartialCommit(_Commit):
    """Close a share of the position."""

    action: Literal["partial-profit", "partial-loss"]
    percent_to_close: float | None = Field(default=None, description="0-100")
    current_price: Price | None = None


class BreakevenCommit(_Commit):
    """Move the stop loss to the entry price."""

    action: Literal["breakeven"]
    current_price: Price | None = None


class AverageBuyCommit(_Commit):
    """Add an entry to the position."""

    action: Literal["average-buy"]
    current_price: Price | None = None
    cost: float | None = Field(default=None, description="USD")
    total_entries: int | None = None


class TrailingCommit(_Commit):
    """Shift the stop loss or the take profit."""

    action: Literal["trailing-stop", "trailing-take"]
    percent_shift: float | None = None
    current_price: Price | None = None


class ActivateScheduledCommit(_Commit):
    """Open a scheduled signal now."""

    action: Literal["activate-scheduled"]
    signal_id: str | None = None
    activate_id: str | None = None


CommitRow: TypeAlias = Annotated[
    PartialCommit | BreakevenCommit | AverageBuyCommit | TrailingCommit | ActivateScheduledCommit,
    Field(discriminator="action"),
]
"""A broker operation not yet drained. The action is required: without it nobody knows what to drain."""


class StrategyData(Payload):
    """What a strategy still has to do on a symbol after a restart; absence reads as null, 0 or false."""

    pending_signal_id: str | None = Field(default=None, description="position the commitQueue belongs to")
    last_pending_id: str | None = Field(default=None, description="last opened or rejected id, not to be opened again")
    created_signal: SignalDto | None = None
    commit_queue: list[CommitRow] | None = None
    closed_signal: SignalCloseRow | None = None
    cancelled_signal: ScheduledSignalCancelRow | None = None
    activated_signal: ScheduledSignalActivateRow | None = None
    take_profit_signal: SignalCloseRow | None = None
    stop_loss_signal: SignalCloseRow | None = None
    retry_open_signal: SignalRow | None = Field(
        default=None, description="pending or scheduled row whose open is retried"
    )
    retry_open_count: int | None = None
    retry_close_count: int | None = None
    is_paused: bool | None = None
