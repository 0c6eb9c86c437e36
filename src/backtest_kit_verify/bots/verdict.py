"""Whether the money is what it would have been."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import backtest_kit_mongo as bk
from backtest_kit.declare import Exchange
from backtest_kit.events import Event
from backtest_kit_verify.bots.child import Task
from backtest_kit_verify.bots.desk import CandlesAtDesk, Desk
from backtest_kit_verify.bots.plan import EXCHANGE, STRATEGY, SYMBOL, job, proposes, strategy, walk
from backtest_kit_verify.undisturbed import differing, replayed


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


def joined(verdicts: Iterable[Verdict]) -> Verdict:
    """Of several bots."""
    found = list(verdicts)
    return Verdict(
        sum(one.positions for one in found),
        sum(one.orders for one in found),
        sum(one.asked for one in found),
        sum(one.lost_decisions for one in found),
        tuple(violation for one in found for violation in one.violations),
    )


def judge(task: Task, desk: Desk) -> Verdict:
    """Compare the rows that are stored with a replay that proposes in the minutes of those rows alone."""
    rows = [row for row in bk.PersistStorageAdapter.read_storage_data(False) if row["strategyName"] == STRATEGY]
    scheduled = {int(row["scheduledAt"]) for row in rows}
    events = _undisturbed(task, desk, scheduled)
    found = [f"order {one} was sent twice" for one in desk.sent_twice()]
    found += [f"get_signal was asked twice for {minute}" for minute in desk.asked_twice()]
    found += [f"{count} rows of {one}" for one, count in Counter(row["id"] for row in rows).items() if count > 1]
    found += differing(rows, events)
    found += _left_behind()
    closed = sum(row["status"] == "closed" for row in rows)
    if desk.count("orders") != 2 * closed:
        found.append(f"{desk.count('orders')} orders for {closed} positions")
    lost = sum(proposes(task.seed, task.minutes, minute) and minute not in scheduled for minute in desk.asked())
    return Verdict(closed, desk.count("orders"), desk.count("asked"), lost, tuple(found))


def _undisturbed(task: Task, desk: Desk, scheduled: set[int]) -> list[Event]:
    exchange = Exchange(EXCHANGE, get_candles=CandlesAtDesk(desk, walk(task.seed, task.minutes)))
    events, _ = replayed(job("backtest", strategy(task.seed, task.minutes), exchange, task.minutes), scheduled)
    return events


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
