"""Notifications: one model with what all variants share, and a table of what each variant adds."""

from functools import cache
from typing import Any, Final, Self

from pydantic import Field, create_model, model_validator

from backtest_kit_mongo.domains.payloads.base import Millis, Minutes, Payload, Position, Price, check
from backtest_kit_mongo.domains.payloads.signals import PnL

__all__ = ["NOTIFICATION_VARIANTS", "NotificationModel"]

_ORDER: Final[dict[str, Any]] = {"orderType": str}
_ATTEMPT: Final[dict[str, Any]] = {**_ORDER, "attempt": int}
_REJECT: Final[dict[str, Any]] = {**_ATTEMPT, "message": str}
_ERROR: Final[dict[str, Any]] = {"error": Any, "message": str}

NOTIFICATION_VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "signal.opened": {},
    "signal.closed": {"priceClose": Price, "closeReason": str, "duration": float},
    "signal.scheduled": {},
    "signal.cancelled": {"cancelReason": str, "cancelId": str, "duration": float},
    "signal.info": {"notificationId": str},
    "partial_profit.available": {"level": int},
    "partial_loss.available": {"level": int},
    "breakeven.available": {},
    "breakeven.commit": {},
    "partial_profit.commit": {"percentToClose": float},
    "partial_loss.commit": {"percentToClose": float},
    "average_buy.commit": {"effectivePriceOpen": Price},
    "activate_scheduled.commit": {"activateId": str},
    "cancel_scheduled.commit": {"cancelId": str},
    "close_pending.commit": {"closeId": str},
    "trailing_stop.commit": {"percentShift": float},
    "trailing_take.commit": {"percentShift": float},
    "order_sync.open": _ORDER,
    "order_sync.check": _ORDER,
    "order_sync.close": {**_ORDER, "closeReason": str},
    "order_continue.check": _ATTEMPT,
    "order_stop.check": {**_ATTEMPT, "reason": str},
    "order_fill.open": _ATTEMPT,
    "order_fill.close": {**_ATTEMPT, "closeReason": str},
    "order_reject.open": _REJECT,
    "order_reject.close": {**_REJECT, "closeReason": str},
    "risk.rejection": {
        "rejectionNote": str,
        "rejectionId": str,
        "activePositionCount": int,
        "signalNote": str,
    },
    "strategy.pause": {"frameName": str, "paused": bool},
    "error.info": _ERROR,
    "error.critical": _ERROR,
    "error.validation": _ERROR,
}
"""Variant (the `type` of a notification) -> stored names and types of what it adds; each may be absent or null.

Only values that every encoding keeps may stand here (small integers, finite numbers): `restoration` does not see them.
"""


class NotificationModel(Payload):
    """One line of the event history.

    The fields are the block that the variants share; what a variant adds is in `model_extra` and is checked against
    `NOTIFICATION_VARIANTS`. A variant that is not in the table is kept with whatever it adds.
    """

    id: str
    type: str = ""  # may be absent as any other field, but a null type makes no sense
    timestamp: Millis | None = None
    backtest: bool | None = None
    symbol: str | None = None
    strategy_name: str | None = None
    exchange_name: str | None = None
    signal_id: str | None = None
    position: Position | None = None
    note: str | None = None
    current_price: Price | None = None
    price_open: Price | None = None
    price_take_profit: Price | None = None
    price_stop_loss: Price | None = None
    original_price_take_profit: Price | None = None
    original_price_stop_loss: Price | None = None
    original_price_open: Price | None = None
    total_entries: int | None = None
    total_partials: int | None = None
    minute_estimated_time: Minutes | None = None
    cost: float | None = Field(default=None, description="USD")
    multiplier: float | None = Field(default=None, description="leverage")
    isolated: bool | None = Field(default=None, description="isolated margin")
    pnl: PnL | None = None
    peak_profit: PnL | None = None
    max_drawdown: PnL | None = None
    pnl_percentage: float | None = None
    pnl_price_open: Price | None = None
    pnl_price_close: Price | None = None
    pnl_cost: float | None = Field(default=None, description="USD")
    pnl_entries: float | None = Field(default=None, description="USD")
    peak_profit_price_open: Price | None = None
    peak_profit_price_close: Price | None = None
    peak_profit_cost: float | None = Field(default=None, description="USD")
    peak_profit_percentage: float | None = None
    peak_profit_entries: float | None = Field(default=None, description="USD")
    max_drawdown_price_open: Price | None = None
    max_drawdown_price_close: Price | None = None
    max_drawdown_cost: float | None = Field(default=None, description="USD")
    max_drawdown_percentage: float | None = None
    max_drawdown_entries: float | None = Field(default=None, description="USD")
    scheduled_at: Millis | None = None
    pending_at: Millis | None = None
    created_at: Millis | None = None

    @model_validator(mode="after")
    def _additions_fit_the_variant(self) -> Self:
        if NOTIFICATION_VARIANTS.get(self.type):
            check(_additions(self.type), self.model_extra)
        return self


@cache
def _additions(variant: str) -> type[Payload]:
    fields: dict[str, Any] = {name: (tp | None, None) for name, tp in NOTIFICATION_VARIANTS[variant].items()}
    return create_model(variant, __base__=Payload, **fields)
