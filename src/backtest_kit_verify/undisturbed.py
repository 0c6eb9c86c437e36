"""What a paper or live run should have come to: the same strategy replayed, compared with the rows that the run
left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from math import isclose
from typing import Any

from backtest_kit.context import Context
from backtest_kit.events import Event
from backtest_kit.moments import minute_text
from backtest_kit.running import Job, run_backtest
from backtest_kit.signals import Proposal

__all__ = ["Row", "differing", "replayed"]

Row = Mapping[str, Any]


def replayed(job: Job, only: Set[int] | None = None) -> tuple[list[Event], int]:
    """Closes and cancellations of a backtest, and how many proposals were left out.

    Args:
        only: the minutes (ms) in which a proposal counts; a process that is killed between the strategy's answer and
            its row has lost the answer for good. None: all.
    """
    assert job.frame is not None
    left_out = 0

    def get_signal(ctx: Context) -> Proposal | None:
        nonlocal left_out
        answer: Proposal | None = job.strategy.get_signal(ctx)
        if answer is None or only is None or ctx.now in only:
            return answer
        left_out += 1
        return None

    result = run_backtest(replace(job, strategy=replace(job.strategy, get_signal=get_signal)))
    last = job.frame.end  # What is open then is closed by the replay alone.
    events = [event for event in result.events if event.action in ("closed", "cancelled") and event.at <= last]
    return events, left_out


def differing(rows: Sequence[Row], events: Sequence[Event]) -> Iterator[str]:
    """Where the rows of the history say something else than the events of a replay."""
    stored = {int(row["scheduledAt"]): row for row in rows if row["status"] in ("closed", "cancelled")}
    for event in events:
        assert event.signal is not None
        row = stored.pop(event.signal.scheduled_at, None)
        name = f"the signal of {minute_text(event.signal.scheduled_at)}"
        if row is None:
            yield f"{name} has no row of its end"
        elif row["status"] != event.action:
            yield f"{name} is {row['status']}, not {event.action}"
        elif event.pnl is not None:
            same = (row["closeReason"], int(row["closeTimestamp"])) == (event.reason, event.at)
            if not same or not isclose(row["pnl"]["pnlPercentage"], event.pnl.percent, rel_tol=1e-9):
                closed = (
                    f"{row['closeReason']} at {minute_text(row['closeTimestamp'])}, {row['pnl']['pnlPercentage']} %"
                )
                yield f"{name} closed {closed}, not {event.reason} at {minute_text(event.at)}, {event.pnl.percent} %"
    yield from (f"a row of {minute_text(moment)} too many" for moment in stored)
