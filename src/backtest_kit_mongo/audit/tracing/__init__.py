"""The trace of a signal: every record that belongs to it, as the tree of what led to what.

`records` finds them, `tree` makes steps of them, `marks` what a chart shows, `showing` text and JSON.
"""

from backtest_kit_mongo.audit.tracing.marks import Mark
from backtest_kit_mongo.audit.tracing.trace import Trace, trace
from backtest_kit_mongo.audit.tracing.tree import TraceChange, TraceStep

__all__ = ["Mark", "Trace", "TraceChange", "TraceStep", "trace"]
