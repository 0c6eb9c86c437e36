"""A live or paper day again: `matching` compares each write with the recorded one, `rerun` drives the same ticks."""

from backtest_kit.sessions.matching import Divergence
from backtest_kit.sessions.rerun import Rerun, rerun

__all__ = ["Divergence", "Rerun", "rerun"]
