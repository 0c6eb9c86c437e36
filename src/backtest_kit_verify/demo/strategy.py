"""Moving averages that cross, entered on a small pullback, half sold on the way: three variants of one strategy.

bkm run strategy.py --backtest --symbol BTCUSDT --strategy fast
"""

from collections.abc import Callable
from pathlib import Path

import backtest_kit as bt

bt.exchange(name="sample", files=Path(__file__).parent / "data")

VARIANTS = {"fast": (3, 15), "medium": (5, 25), "slow": (10, 40)}
"""Minutes of the short and the long average."""


@bt.risk(note="one position is enough")
def one_position(request: bt.RiskRequest) -> bool:
    return request.count >= 1


@bt.cached(interval="1h")
def typical_range(ctx: bt.Context) -> float:
    """Mean distance from low to high of the last hour's minutes, as a share of the price. Whichever process asks first
    computes it; the others, and the next run, read it.
    """
    minutes = ctx.candles("1m", 60)
    return float(((minutes.high - minutes.low) / minutes.close).mean()) if len(minutes) else 0.0


@bt.once(interval="1h")
def hourly(ctx: bt.Context) -> bool:
    ctx.session["hours"] = ctx.session.get("hours", 0) + 1
    return True


def crossing(short: int, long: int) -> Callable[[bt.Context], bt.Proposal | None]:
    """Decides by candles alone, so that a process that was killed decides as one that was not."""

    def get_signal(ctx: bt.Context) -> bt.Proposal | None:
        hourly(ctx)
        close = ctx.candles("1m", long + 1).close
        if len(close) <= long:
            return None
        was_above = close[-short - 1 : -1].mean() > close[:-1].mean()
        is_above = close[-short:].mean() > close[1:].mean()
        if was_above == is_above:
            return None
        sign = 1 if is_above else -1
        entry = ctx.price * (1 - sign * typical_range(ctx) / 4)
        propose = bt.long if is_above else bt.short
        return propose(
            price_open=entry,
            take_profit=entry * (1 + sign * 0.006),
            stop_loss=entry * (1 - sign * 0.0055),
            minutes=45,
            note="the averages crossed",
        )

    return get_signal


def opened(ctx: bt.Context, event: bt.Event) -> None:
    ctx.state["opened"] = ctx.state.get("opened", 0) + 1
    ctx.log("opened", event.price)


def half_way(ctx: bt.Context, event: bt.Event) -> None:
    if event.level == 50:
        ctx.partial_profit(50)
        ctx.dictionary["half sold"] = ctx.now


def secured(ctx: bt.Context, event: bt.Event) -> None:
    """Costs are earned: the stop goes to the entry."""
    ctx.breakeven()


def closed(ctx: bt.Context, event: bt.Event) -> None:
    if event.signal is not None and event.pnl is not None:
        ctx.memory[event.signal.id] = {"reason": event.reason, "percent": event.pnl.percent}
        ctx.log("closed", event.reason, event.pnl.percent)


for name, lengths in VARIANTS.items():
    bt.add_strategy_schema(
        name=name, get_signal=crossing(*lengths), risk="one_position",
        on_open=opened, on_partial_profit=half_way, on_breakeven=secured, on_close=closed,
    )  # fmt: skip
