"""Placeholder until the file backend lands."""

from pathlib import Path

from backtest_kit_mongo.backends.memory import MemoryTruth


class FileTruth(MemoryTruth):
    def __init__(self, base: Path) -> None:
        super().__init__()
