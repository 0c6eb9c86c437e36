"""Strategies and candles for sweeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

import backtest_kit_mongo as bk
from backtest_kit.identity import MINUTE_MS
from backtest_kit.runs.rows import Write
from tests.engine.conftest import desk, forget

__all__ = ["desk", "forget"]

START = 1_704_067_200_000
STRATEGY = """
import os, signal
from pathlib import Path
import backtest_kit as bt

bt.exchange(name="files", files=Path(__file__).parent / "candles")


@bt.strategy(interval="5m")
def cross(ctx, fast=5, slow=20, raises=False, dies=0):
    if raises and ctx.now % 600_000 == 0:
        raise ValueError("as it was reported")
    if dies:
        marks = len(list(Path.cwd().glob("died-*")))
        if marks < dies:
            Path(f"died-{marks}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    close = ctx.candles("1m", 30).close
    if close[-fast:].mean() > close[-slow:].mean():
        return bt.long(take_profit=ctx.price * 1.006, stop_loss=ctx.price * 0.994, minutes=30)
"""


@pytest.fixture
def strategy(desk: Path) -> Path:
    """A strategy's file beside four hours of candles of two symbols."""
    forget()
    (desk / "candles").mkdir()
    for seed, symbol in enumerate(("AAA", "BBB")):
        draw = np.random.default_rng(seed)
        close = 100 * np.exp(np.cumsum(draw.normal(0, 0.002, 240)))
        rows = [
            f"{START + at * MINUTE_MS},{price},{price * 1.001},{price * 0.999},{price},1"
            for at, price in enumerate(close.tolist())
        ]
        (desk / "candles" / f"{symbol}-1m.csv").write_text("timestamp,open,high,low,close,volume\n" + "\n".join(rows))
    path = desk / "cross.py"
    path.write_text(STRATEGY)
    return path


class MemoryRows:
    """The store as the ledger sees it."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[dict[str, object], int]] = {}

    def read(self, key: str) -> tuple[dict[str, object] | None, int]:
        return self.rows.get(key, (None, 0))

    def write(self, key: str, row: Mapping[str, object], expected: int) -> int:
        if self.read(key)[1] != expected:
            raise bk.Conflict(key)
        self.rows[key] = (dict(row), expected + 1)
        return expected + 1

    def write_all(self, writes: list[Write]) -> list[int | None]:
        found: list[int | None] = []
        for one in writes:
            try:
                found.append(self.write(*one))
            except bk.Conflict:
                found.append(None)
        return found

    def remove(self, key: str) -> None:
        self.rows.pop(key, None)


@pytest.fixture
def memory_rows() -> Callable[[], MemoryRows]:
    return MemoryRows
