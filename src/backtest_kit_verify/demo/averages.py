"""Averages of minutes that cross, with their lengths as parameters: what the demo sweeps over."""

import backtest_kit as bt


@bt.strategy(interval="1m")
def averages(ctx: bt.Context, short: int = 3, long: int = 15) -> bt.Proposal | None:
    """Long when the short average has risen above the long one."""
    close = ctx.candles("1m", long + 1).close
    if len(close) <= long or close[-short - 1 : -1].mean() > close[:-1].mean():
        return None
    if close[-short:].mean() <= close[1:].mean():
        return None
    return bt.long(take_profit=ctx.price * 1.006, stop_loss=ctx.price * 0.9945, minutes=45)
