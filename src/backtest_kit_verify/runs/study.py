"""A strategy of many parameter values beside made-up candles of one symbol: runs of a few milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from backtest_kit_verify.made_up import random_walk

__all__ = ["ASKED", "prepare"]

ASKED: Final = "BKM_SWEEPS_ASKED"
"""Environment variable: the strategy's exchange is one that is asked, and notes each candle it gives in this file."""
STRATEGY: Final = """
import os
from pathlib import Path
import backtest_kit as bt

FILES = Path(__file__).parent / "candles"
ROWS = [[float(cell) for cell in line.split(",")] for line in (FILES / "AAA-1m.csv").read_text().splitlines()[1:]]


def given(symbol, interval, since, limit):
    found = [[int(row[0]), *row[1:]] for row in ROWS if row[0] >= since][:limit]
    with open(os.environ["BKM_SWEEPS_ASKED"], "a") as file:
        file.write("".join(f"{row[0]}\\n" for row in found))
    return found


bt.exchange(name="made-up", **{"get_candles": given} if os.environ.get("BKM_SWEEPS_ASKED") else {"files": FILES})


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
    table = random_walk(7, minutes, before=0)
    columns = (table.timestamp, table.open, table.high, table.low, table.close, table.volume)
    lines = [",".join(map(repr, row)) for row in zip(*(np.asarray(one).tolist() for one in columns), strict=True)]
    (root / "candles" / "AAA-1m.csv").write_text("\n".join(["timestamp,open,high,low,close,volume", *lines]))
    return file
