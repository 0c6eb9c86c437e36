"""backtest-kit: one strategy file as backtest, paper and live."""

from backtest_kit.events import Event
from backtest_kit.signals import Proposal, long, short

__all__ = ["Event", "Proposal", "long", "short"]
