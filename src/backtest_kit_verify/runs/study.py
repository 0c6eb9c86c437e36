"""A strategy of many parameter values beside made-up candles of one symbol: runs of a few milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

__all__ = ["prepare"]

START_MS: Final = 1_704_067_200_000
STRATEGY: Final = """
from pathlib import Path
import backtest_kit as bt

bt.exchange(name="made-up", files=Path(__file__).parent / "candles")


@bt.strategy(interval="5m")
def cross(ctx, number=0):
    close = ctx.candles("1m", 20).close
    if len(close) == 20 and close[-3 - number % 7:].mean() > close.mean():
        return bt.long(take_profit=ctx.price * 1.006, stop_loss=ctx.price * 0.994, minutes=20 + number % 11)
"""


def prepare(root: Path, minutes: int) -> Path:
    """Write strategy and candles; the strategy's file."""
    (root / "candles").mkdir(parents=True)
    file = root / "cross.py"
    file.write_text(STRATEGY)
    draw = np.random.default_rng(7)
    close = 100 * np.exp(np.cumsum(draw.normal(0, 0.002, minutes)))
    lines = ["timestamp,open,high,low,close,volume"]
    lines += [f"{START_MS + at * 60_000},{p},{p * 1.001},{p * 0.999},{p},1" for at, p in enumerate(close.tolist())]
    (root / "candles" / "AAA-1m.csv").write_text("\n".join(lines))
    return file
