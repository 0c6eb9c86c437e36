"""Two moving averages: buy when the short one rises above the long one, sell short when it falls below.

bkm run examples/crossing_averages.py --backtest --symbol BTCUSDT --report crossing.html
"""

from pathlib import Path

import backtest_kit as bt

bt.exchange(name="binance", files=Path(__file__).parent / "data")


@bt.risk(name="one-position", note="another symbol is in the market")
def one_position(request: bt.RiskRequest) -> bool:
    """A risk sees the candidate and the open positions of all who share it; True rejects with the note."""
    return request.count >= 1


@bt.strategy(interval="5m", risk="one-position")
def crossing_averages(ctx: bt.Context) -> bt.Proposal | None:
    close = ctx.candles("5m", 36).close
    if len(close) < 36:
        return None
    short, long, before = close[-9:].mean(), close.mean(), close[-10:-1].mean()
    if before <= long < short:
        return bt.long(take_profit=ctx.price * 1.012, stop_loss=ctx.price * 0.994, minutes=360, note="crossed up")
    if before >= long > short:
        return bt.short(take_profit=ctx.price * 0.988, stop_loss=ctx.price * 1.006, minutes=360, note="crossed down")
    return None


@crossing_averages.on("breakeven")
def secured(ctx: bt.Context, event: bt.Event) -> None:
    """Costs are earned: the stop goes to the entry."""
    ctx.breakeven()
