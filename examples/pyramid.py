"""Buys a fall in steps and sells the rise in parts.

It enters when the price lies under the average of an hour, adds below its earlier entries, closes a part at each fifth
of the way to the take profit, and then drags the stop behind.

bkm run examples/pyramid.py --backtest --symbol BTCUSDT --trades 50
"""

from pathlib import Path

import backtest_kit as bt

bt.exchange(name="binance", files=Path(__file__).parent / "data")

ENTRIES_MAX = 4
STEP_PERCENT = 0.15


@bt.strategy(interval="1m")
def pyramid(ctx: bt.Context) -> bt.Proposal | None:
    hour = ctx.candles("1m", 60).close
    if len(hour) < 60 or ctx.price > hour.mean() * 0.999:
        return None
    return bt.long(
        take_profit=ctx.price * 1.01, stop_loss=ctx.price * 0.985, minutes=600, cost=50, note="below the hour"
    )


@pyramid.on("active")
def buys_lower(ctx: bt.Context, event: bt.Event) -> None:
    signal = event.signal
    if signal is None or len(signal.entries) >= ENTRIES_MAX or signal.partials:
        return
    if ctx.price < min(entry.price for entry in signal.entries) * (1 - STEP_PERCENT / 100):
        ctx.average_buy(50)


@pyramid.on("partial_profit")
def sells_higher(ctx: bt.Context, event: bt.Event) -> None:
    if event.level in (20, 40, 60, 80):
        ctx.partial_profit(25)
    if event.level == 60:
        ctx.trailing_stop(-0.75)
