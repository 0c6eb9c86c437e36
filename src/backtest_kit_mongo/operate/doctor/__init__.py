"""One look at a deployment, from outside: what is wrong with it or will be, and what to do about it.

A function an area, each yielding findings; `examination.py` says in which order. Nothing here changes anything, but for
one scratch collection that is dropped again.
"""

from backtest_kit_mongo.operate.doctor.examination import examine
from backtest_kit_mongo.operate.doctor.findings import Finding, Level, worst

__all__ = ["Finding", "Level", "examine", "worst"]
