"""Candles as columns in, events out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backtest_kit.identity import ContextId
from backtest_kit.ports import StrategyPort
from backtest_kit.rules import DEFAULT, Rules

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """One-minute candles without a gap, ascending. `bk.Candles` has the same fields and can be given instead.

    Attributes:
        timestamp: open times, epoch ms.
    """

    timestamp: NDArray[np.int64]
    open: Values
    high: Values
    low: Values
    close: Values
    volume: Values


def replay(
    context: ContextId,
    columns: Columns,
    port: StrategyPort,
    rules: Rules = DEFAULT,
    *,
    start_ms: int,
    end_ms: int,
) -> int:
    """Live every minute from `start_ms` to `end_ms` (both included). Events reach `port.on_event` as they happen.

    Returns:
        How many times `get_signal` was asked.
    """
    raise NotImplementedError
