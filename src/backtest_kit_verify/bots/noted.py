"""A strategy that uses everything of which a trace tells: stored answers, what it remembers, callbacks. It depends on
nothing but candles, those, and the minute, so a day of it can be replayed.
"""

from __future__ import annotations

import random
from typing import Any, Final

import backtest_kit as bt
from backtest_kit.context import Context
from backtest_kit.declare import Strategy
from backtest_kit.signals import Proposal

NAME: Final = "noted"
PROPOSES: Final = 0.2
TAKE: Final = 0.006


@bt.cached(interval="15m", name="opinion")
def opinion(ctx: Context) -> dict[str, Any]:
    """What a model would be asked for: the same for whoever asks in these fifteen minutes."""
    bars = ctx.candles("1m", 10)
    is_rising = len(bars) > 1 and bool(bars.close[-1] > bars.close[0])
    return {"trend": "up" if is_rising else "down", "asked": ctx.time}


def noted(until_ms: int, take: float = TAKE, name: str = NAME, proposes: float = PROPOSES) -> Strategy:
    """Args:
    until_ms: nothing is proposed from there on, so that all ends by itself.
    take: the share that it wants to gain.
    proposes: in this share of the minutes in which it is asked.
    """

    async def get_signal(ctx: Context) -> Proposal | None:
        draw = random.Random(f"{ctx.symbol}/{ctx.now}")
        if ctx.now >= until_ms or draw.random() > proposes:
            return None
        count = ctx.state["count"] = ctx.state.get("count", 0) + 1
        is_long = (opinion(ctx)["trend"] == "up") == (draw.random() < 0.8)
        opens = None if draw.random() < 0.6 else ctx.price * draw.choice([0.998, 1.002])
        base, make = opens or ctx.price, bt.long if is_long else bt.short
        sign = 1 if is_long else -1
        return make(
            take_profit=base * (1 + sign * take),
            stop_loss=base * (1 - sign * 0.008),
            price_open=opens,
            minutes=30,
            note=f"number {count}",
        )

    def on_open(ctx: Context, event: Any) -> None:
        ctx.state["opened"] = event.signal.id

    def on_active(ctx: Context, event: Any) -> None:
        pnl = ctx.pnl()
        if pnl is not None and pnl.percent > 0.1:
            ctx.trailing_stop(-0.3)

    return Strategy(name, get_signal, "1m", callbacks={"on_open": on_open, "on_active": on_active})
