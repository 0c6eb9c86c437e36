"""The demo's last part: a strategy with parameters, every combination of them on every symbol, on two processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import backtest_kit as bt
from backtest_kit.loading import load_strategy
from backtest_kit_mongo.coherence.showing import shown
from backtest_kit_verify.demo.candles import Series

__all__ = ["GRID", "Swept", "sweep"]

GRID: Final = {"short": [3, 5, 8], "long": [15, 25, 40]}
WORKERS: Final = 2
STRATEGY: Final = Path(__file__).with_name("averages.py")


class Swept(NamedTuple):
    """What came of it.

    Attributes:
        executed: runs that were done now; those of an earlier demo are answered from the store.
        again: runs that the same call did when it was repeated at once.
        differing: whether the repeated call has another digest.
    """

    runs: int
    executed: int
    failed: int
    again: int
    digest: str
    differing: bool
    best: str


def sweep(series: Sequence[Series]) -> Swept:
    """Over the minutes that were traded, with the candles of the store."""
    load_strategy(STRATEGY)
    first = series[0]
    chosen = [one.symbol for one in series if (one.start_ms, one.end_ms) == (first.start_ms, first.end_ms)]
    studies = [
        bt.sweep(
            "averages", params=GRID, symbols=chosen, frame=(first.start_ms, first.end_ms), workers=WORKERS,
            exchange=bt.Exchange(first.exchange), progress=False,
        )
        for _ in range(2)
    ]  # fmt: skip
    once, again = studies
    said = [f"{best.symbol} {dict(best.params)} with {best.stats['pnl']:+.2f}" for best in once.best()]
    return Swept(
        len(once), once.executed, len(once.failed), again.executed, once.digest, once.digest != again.digest,
        shown(*said or ['none']),
    )  # fmt: skip
