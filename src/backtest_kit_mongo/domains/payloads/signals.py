"""Signals and their stored rows: what the Signal, Schedule, Recent and Storage domains hold."""

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from backtest_kit_mongo.domains.payloads.base import Millis, Minutes, Payload, Position, Price

__all__ = [
    "DcaEntry",
    "Extreme",
    "PartialClose",
    "PnL",
    "PublicSignalRow",
    "ScheduledSignalActivateRow",
    "ScheduledSignalCancelRow",
    "ScheduledSignalRow",
    "SignalCloseRow",
    "SignalDto",
    "SignalRow",
    "StorageSignalRow",
]

_BOOKKEEPING = frozenset(
    {"is_scheduled", "partial", "entry", "trailing_price_stop_loss", "trailing_price_take_profit", "peak", "fall"}
)


def _stored_name(name: str) -> str:
    # Not `Field(alias=...)`: type checkers take that for the name of the constructor's argument.
    return f"_{to_camel(name)}" if name in _BOOKKEEPING else to_camel(name)


class PnL(Payload):
    """Profit or loss of a position at one price (`IStrategyPnL`)."""

    pnl_percentage: float | None = None
    price_open: Price | None = Field(default=None, description="entry, adjusted for slippage, fees and averaging")
    price_close: Price | None = Field(default=None, description="exit, adjusted for slippage and fees")
    pnl_cost: float | None = Field(default=None, description="result, USD")
    pnl_entries: float | None = Field(default=None, description="invested, USD")


class Extreme(PnL):
    """The best or worst point of a position so far; all zero until there is one."""

    price: Price | None = None
    timestamp: Millis | None = None


class PartialClose(Payload):
    """One partial close of a position."""

    type: str | None = Field(default=None, description="profit or loss")
    percent: float | None = Field(default=None, description="share of the position, 0-100")
    current_price: Price | None = None
    cost_basis_at_close: float | None = Field(default=None, description="USD")
    entry_count_at_close: int | None = None
    timestamp: Millis | None = None


class DcaEntry(Payload):
    """One purchase of a position: the first is the original entry, the others average it."""

    price: Price | None = None
    cost: float | None = Field(default=None, description="USD")
    timestamp: Millis | None = None


class SignalDto(Payload):
    """What a strategy returns to ask for a position."""

    id: str | None = None
    symbol: str | None = None
    position: Position | None = None
    note: str | None = None
    price_open: Price | None = Field(default=None, description="present: scheduled at this price; absent: open now")
    price_take_profit: Price | None = None
    price_stop_loss: Price | None = None
    minute_estimated_time: Minutes | None = Field(default=None, description="lifetime")
    cost: float | None = Field(default=None, description="entry, USD")
    multiplier: float | None = Field(default=None, description="leverage on the PnL")
    isolated: bool | None = Field(default=None, description="isolated margin: liquidated at -100 %")


class SignalRow(SignalDto):
    """A signal in its life: the pending position of a strategy on a symbol (Signal domain).

    The engine's own bookkeeping is stored under names with a leading underscore: `partial` as `_partial`.
    """

    model_config = ConfigDict(alias_generator=_stored_name)

    exchange_name: str | None = None
    strategy_name: str | None = None
    frame_name: str | None = Field(default=None, description="empty in live mode")
    scheduled_at: Millis | None = None
    pending_at: Millis | None = Field(default=None, description="activation; equals scheduledAt until then")
    timestamp: Millis | None = Field(default=None, description="creation")
    is_scheduled: bool | None = None
    partial: list[PartialClose] | None = None
    entry: list[DcaEntry] | None = None
    trailing_price_stop_loss: Price | None = None
    trailing_price_take_profit: Price | None = None
    peak: Extreme | None = None
    fall: Extreme | None = None


class ScheduledSignalRow(SignalRow):
    """A signal that waits for its entry price (Schedule domain)."""


class SignalCloseRow(SignalRow):
    """A position to be closed on the next tick."""

    close_id: str | None = None
    close_note: str | None = None


class ScheduledSignalCancelRow(ScheduledSignalRow):
    """A scheduled signal to be cancelled on the next tick."""

    cancel_id: str | None = None
    cancel_note: str | None = None


class ScheduledSignalActivateRow(ScheduledSignalRow):
    """A scheduled signal to be activated on the next tick, whatever the price."""

    activate_id: str | None = None
    activate_note: str | None = None


class PublicSignalRow(SignalRow):
    """A signal as shown to users, with original prices and results (Recent domain)."""

    original_price_stop_loss: Price | None = None
    original_price_take_profit: Price | None = None
    original_price_open: Price | None = None
    partial_executed: float | None = Field(default=None, description="share closed so far, 0-100")
    total_entries: int | None = None
    total_partials: int | None = None
    pnl: PnL | None = None
    peak_profit: PnL | None = None
    max_drawdown: PnL | None = None


class StorageSignalRow(PublicSignalRow):
    """A signal of the history, one row per signal id (Storage domain)."""

    id: str
    created_at: Millis | None = None
    updated_at: Millis | None = None
    priority: Millis | None = Field(default=None, description="wall clock of the last rewrite")
    status: str | None = Field(default=None, description="opened, scheduled, closed or cancelled")
    current_price: Price | None = Field(default=None, description="opened, scheduled, closed")
    close_reason: str | None = Field(
        default=None, description="time_expired, take_profit, stop_loss, liquidation or closed"
    )
    close_timestamp: Millis | None = Field(default=None, description="closed")
