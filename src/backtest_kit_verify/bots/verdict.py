"""Whether the money is what it would have been."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

import backtest_kit_mongo as bk
from backtest_kit.declare import Exchange
from backtest_kit.events import Event
from backtest_kit.identity import MINUTE_MS
from backtest_kit.running import run_backtest
from backtest_kit_verify.bots.child import Task
from backtest_kit_verify.bots.desk import CandlesAtDesk, Desk
from backtest_kit_verify.bots.plan import EXCHANGE, START_MS, STRATEGY, SYMBOL, job, proposes, strategy, walk


@dataclass(frozen=True, slots=True)
class Verdict:
    """Attributes:
    positions: opened and closed.
    lost_decisions: minutes in which the strategy would have proposed and was killed between being asked and answering.
    violations: empty, or what was broken.
    """

    positions: int
    orders: int
    asked: int
    lost_decisions: int
    violations: tuple[str, ...]


def judge(task: Task, desk: Desk) -> Verdict:
    """Compare the rows that are stored with a replay that proposes in the minutes of those rows alone."""
    rows = [row for row in bk.PersistStorageAdapter.read_storage_data(False) if row["strategyName"] == STRATEGY]
    scheduled = {int(row["scheduledAt"]) for row in rows}
    events = _undisturbed(task, desk, scheduled)
    found = [f"order {one} was sent twice" for one in desk.sent_twice()]
    found += [f"get_signal was asked twice for {minute}" for minute in desk.asked_twice()]
    found += [f"{count} rows of {one}" for one, count in Counter(row["id"] for row in rows).items() if count > 1]
    found += list(_compare(rows, events))
    found += _left_behind()
    closed = sum(row["status"] == "closed" for row in rows)
    if desk.count("orders") != 2 * closed:
        found.append(f"{desk.count('orders')} orders for {closed} positions")
    lost = sum(proposes(task.seed, task.minutes, minute) and minute not in scheduled for minute in desk.asked())
    return Verdict(closed, desk.count("orders"), desk.count("asked"), lost, tuple(found))


def _undisturbed(task: Task, desk: Desk, scheduled: set[int]) -> list[Event]:
    exchange = Exchange(EXCHANGE, get_candles=CandlesAtDesk(desk, walk(task.seed, task.minutes)))
    reported = job("backtest", strategy(task.seed, task.minutes, only=scheduled), exchange, task.minutes)
    result = run_backtest(reported)
    return [event for event in result.events if event.action in ("closed", "cancelled")]


def _compare(rows: list[dict[str, Any]], events: list[Event]) -> list[str]:
    stored = {int(row["scheduledAt"]): row for row in rows}
    found = []
    for event in events:
        assert event.signal is not None
        row = stored.pop(event.signal.scheduled_at, None)
        name = f"the signal of minute {(event.signal.scheduled_at - START_MS) // MINUTE_MS}"
        if row is None:
            found.append(f"{name} has no row")
        elif row["status"] != event.action:
            found.append(f"{name} is {row['status']}, not {event.action}")
        elif event.action == "closed":
            assert event.pnl is not None
            same = (row["closeReason"], int(row["closeTimestamp"])) == (event.reason, event.at)
            if not same or not isclose(row["pnl"]["pnlPercentage"], event.pnl.percent, rel_tol=1e-9):
                found.append(
                    f"{name} closed {row['closeReason']} at {row['closeTimestamp']}, not {event.reason} at {event.at}"
                )
    return found + [f"a row of minute {(moment - START_MS) // MINUTE_MS} too many" for moment in stored]


def _left_behind() -> list[str]:
    """Rows of a signal that is not there any more (L3, L7)."""
    key = (SYMBOL, STRATEGY, EXCHANGE)
    signal = bk.PersistSignalAdapter.read_signal_data(*key)
    schedule = bk.PersistScheduleAdapter.read_schedule_data(*key)
    return [f"the {name} row is left: {row['id']}" for name, row in (("signal", signal), ("schedule", schedule)) if row]


def crashes(directory: Path) -> list[str]:
    """What processes said when they ended by an error of their own."""
    file = directory / "crashes.txt"
    return [f"a process crashed: {file.read_text()[-2000:]}"] if file.exists() else []
