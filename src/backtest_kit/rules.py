"""Every number and choice of the lifecycle in one frozen object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Rules:
    """Percents are percents (0.1 is a tenth of a percent), minutes are simulated ones.

    Attributes:
        sees_running_candle: a step of a position at minute m looks at candle m, which a live tick cannot know yet.
            False: at candle m - 1, as live does, so that a replay equals live.
        stop_rule: "touch": the stop is hit by a candle's low or high, and tested before the take profit; "vwap": by the
            average price, after the take profit.
        vwap_candles: how many candles the average price is made of.
        fee_percent, slippage_percent: a side.
        breakeven_margin_percent: beyond all costs, from where on the stop may go to the entry.
    """

    sees_running_candle: bool = False
    stop_rule: Literal["touch", "vwap"] = "touch"
    vwap_candles: int = 5
    fee_percent: float = 0.1
    slippage_percent: float = 0.1
    breakeven_margin_percent: float = 0.2
    take_profit_min_percent: float = 0.5
    stop_loss_min_percent: float = 0.5
    stop_loss_max_percent: float = 20.0
    max_minutes: int = 1440
    default_minutes: int = 1440
    schedule_timeout_minutes: int = 120
    default_cost: float = 100.0


DEFAULT: Final = Rules()
"""A replayed minute sees exactly what a live tick sees."""

ORIGINAL: Final = Rules(sees_running_candle=True)
"""As backtest-kit 19.5 replays: the same prices close one minute earlier than live."""
