"""A live view of a deployment: `sampling.py` asks the servers, `rates.py` counts events, `frame.py` draws."""

from backtest_kit_mongo.operate.top.frame import draw
from backtest_kit_mongo.operate.top.sampling import Sample, take

__all__ = ["Sample", "draw", "take"]
