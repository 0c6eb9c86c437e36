"""Runs of the original engine, run again by this one: `python -m backtest_kit.vectors FILE...`.

A file is JSON, plain or .gz: {"vectors": [...]}, or a list. Each vector has `frame` {start, end}, `candles` (rows of
timestamp, open, high, low, close, volume), `plan`, `events`, and may have `counts`, `get_signal_calls`,
`strategy_interval` and `seed`.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from backtest_kit.events import ACTIONS, Event
from backtest_kit.identity import MINUTE_MS, ContextId
from backtest_kit.operations import Operations
from backtest_kit.replay import Columns, replay
from backtest_kit.rules import ORIGINAL, Rules
from backtest_kit.signals import Extreme, Proposal

Row = Mapping[str, Any]

NAMES: Final = {
    "partial_profit": "partialProfit",
    "partial_loss": "partialLoss",
    "schedule_ping": "schedulePing",
    "active_ping": "activePing",
    "highest_profit": "highestProfit",
    "max_drawdown": "maxDrawdown",
    "rejected": "risk",
}
"""The original's names of actions, where they differ."""

COUNTED_ONLY: Final = {"idle", "schedulePing", "activePing", "highestProfit", "maxDrawdown"}
INTERVALS: Final = {"1m": 1, "3m": 3, "5m": 5, "15m": 15, "30m": 30, "1h": 60}
TOLERANCE: Final = 1e-9


class Planned:
    """A strategy that does what a vector's plan says, and writes down what happens in the vector's words."""

    wants = ACTIONS - {"invalid", "paused"}

    def __init__(self, vector: Row) -> None:
        self.interval_ms = INTERVALS[vector.get("strategy_interval", "1m")] * MINUTE_MS
        self.plan = {entry["at"]: entry for entry in reversed(vector["plan"])}
        self.acts = {entry["note"]: entry["acts"] for entry in vector["plan"] if entry.get("acts")}
        self.done: set[tuple[str, int]] = set()
        self.numbers: dict[str | None, int] = {}
        self.events: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()

    def get_signal(self, now_ms: int, price: float) -> Proposal | None:
        entry = self.plan.get(now_ms)
        if entry is None:
            return None
        sign = -1 if entry["position"] == "short" else 1
        base = entry.get("priceOpen", price)
        return Proposal(
            entry["position"],
            entry.get("priceTakeProfit", base * (1 + sign * entry.get("tp", 1) / 100)),
            entry.get("priceStopLoss", base * (1 - sign * entry.get("sl", 1) / 100)),
            entry.get("priceOpen"),
            entry.get("minuteEstimatedTime", 60),
            entry.get("cost"),
            entry.get("note", ""),
            entry.get("id"),
        )

    def on_event(self, event: Event, ops: Operations) -> None:
        name = NAMES.get(event.action, event.action)
        self.counts[name] += 1
        if name not in COUNTED_ONLY:
            self.events.append(self._written(name, event))
        elif name == "activePing":
            self._act(event, ops)

    def _number(self, event: Event) -> int:
        signal = event.signal.id if event.signal else None
        return self.numbers.setdefault(signal, len(self.numbers))

    def _written(self, name: str, event: Event) -> dict[str, Any]:
        row: dict[str, Any] = {"action": name, "at": event.at, "currentPrice": event.price, "level": event.level}
        row |= {"commit": event.commit, "signal": self._number(event)}
        if event.commit == "close-pending":
            row["currentPrice"] = None
        if name in ("scheduled", "opened", "closed", "cancelled"):
            row |= self._signal(event)
        if name in ("closed", "cancelled"):
            row["closeReason" if name == "closed" else "reason"] = event.reason
            row["closeTimestamp"] = event.at
        if event.pnl is not None:
            pnl = event.pnl
            row["pnl"] = {"pnlPercentage": pnl.percent, "pnlCost": pnl.cost}
            row["pnl"] |= {"priceOpen": pnl.price_open, "priceClose": pnl.price_close}
        return row

    def _signal(self, event: Event) -> dict[str, Any]:
        view = event.signal
        assert view is not None
        return {
            "position": view.position,
            "priceOpen": view.price_open,
            "priceTakeProfit": view.take_profit,
            "priceStopLoss": view.stop_loss,
            "minuteEstimatedTime": view.minutes,
            "scheduledAt": view.scheduled_at,
            "pendingAt": view.pending_at,
            "note": view.note,
            "totalEntries": len(view.entries),
            "partialExecuted": view.partial_executed,
            "peakProfit": _extreme(view.peak),
            "maxDrawdown": _extreme(view.fall),
        }

    def _act(self, event: Event, ops: Operations) -> None:
        assert event.signal is not None
        minute = round((event.at - event.signal.pending_at) / MINUTE_MS)
        for number, act in enumerate(self.acts.get(event.signal.note, ())):
            key = (event.signal.id, number)
            if act["minute"] <= minute and key not in self.done:
                self.done.add(key)
                answer = do_act(act, event.price, ops)
                reported = {
                    "action": "act",
                    "at": event.at,
                    "do": act["do"],
                    "ok": answer,
                    "signal": self._number(event),
                }
                self.events.append(reported)


def _extreme(extreme: Extreme) -> dict[str, Any]:
    if not extreme.at:
        return {"pnlPercentage": 0}
    return {"price": extreme.price, "timestamp": extreme.at, "pnlPercentage": extreme.percent}


def do_act(act: Row, price: float, ops: Operations) -> bool | str | None:
    """What the operation answered, as the vectors say it: `close` answers nothing, a raise is "error"."""
    operations: dict[str, Callable[[], bool]] = {
        "average_buy": lambda: ops.average_buy(act["cost"]),
        "partial_profit": lambda: ops.partial_profit(act["percent"]),
        "partial_loss": lambda: ops.partial_loss(act["percent"]),
        "breakeven": ops.breakeven,
        "trailing_stop": lambda: ops.trailing_stop(act["shift"], price),
        "trailing_take": lambda: ops.trailing_take(act["shift"], price),
        "close": ops.close,
    }
    try:
        answer = operations[act["do"]]()
    except ValueError:
        return "error"
    return None if act["do"] == "close" else answer


def run(vector: Row, rules: Rules = ORIGINAL) -> tuple[Planned, int]:
    """Run a vector: what was written down, and how often the strategy was asked."""
    rows = np.array(vector["candles"], float)
    columns = Columns(rows[:, 0].astype(np.int64), *(rows[:, column].copy() for column in range(1, 6)))
    port = Planned(vector)
    frame = vector["frame"]
    context = ContextId("BTCUSDT", "strategy", "oracle", "frame")
    done = replay(context, columns, port, rules, start_ms=frame["start"], end_ms=frame["end"])
    return port, done.asked


def differences(vector: Row) -> Iterator[str]:
    """Where this engine and the vector disagree, as sentences."""
    port, asked = run(vector)
    for index, expected in enumerate(vector["events"]):
        if index >= len(port.events):
            yield f"event {index} is missing: {expected}"
            break
        found = _unequal(expected, port.events[index])
        if found:
            yield f"event {index}, {expected['action']} at {_minute(vector, expected['at'])}: {', '.join(found)}"
            return
    for extra in port.events[len(vector["events"]) :][:1]:
        yield f"an event too many: {extra}"
    if asked != vector.get("get_signal_calls", asked):
        yield f"get_signal was asked {asked} times, not {vector['get_signal_calls']}"
    for name, count in vector.get("counts", {}).items():
        if port.counts[name] != count:
            yield f"{port.counts[name]} {name}, not {count}"


def _minute(vector: Row, at: int) -> int:
    return int((at - vector["frame"]["start"]) // MINUTE_MS)


def _unequal(expected: Row, found: Row) -> list[str]:
    return [
        f"{key} is {found.get(key)!r}, not {value!r}"
        for key, value in expected.items()
        if not _equal(value, found.get(key))
    ]


def _equal(expected: Any, found: Any) -> bool:
    if isinstance(expected, Mapping):
        return isinstance(found, Mapping) and all(_equal(value, found.get(key)) for key, value in expected.items())
    if isinstance(expected, float) and isinstance(found, int | float):
        return abs(expected - found) <= TOLERANCE * max(abs(expected), abs(found))
    return bool(expected == found)


def load(path: Path) -> Sequence[Row]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        content = json.load(file)
    vectors: Sequence[Row] = content["vectors"] if isinstance(content, dict) else content
    return vectors


def main(paths: Sequence[str]) -> int:
    """Exit status 0: all equal, 1: differences, 2: no file given, or not one of this form."""
    if not paths:
        sys.stderr.write("usage: python -m backtest_kit.vectors FILE...\n")
        return 2
    count = events = 0
    wrong: list[str] = []
    for path in paths:
        try:
            vectors = load(Path(path))
        except (OSError, EOFError, ValueError, KeyError) as error:
            sys.stderr.write(f"{path} is no file of vectors: {type(error).__name__}: {error}\n")
            return 2
        for vector in vectors:
            count, events = count + 1, events + len(vector["events"])
            name = vector.get("seed", count)
            wrong += [f"vector {name}: {difference}" for difference in differences(vector)]
    outcome = f"{len(wrong)} differences" if wrong else "all equal"
    sys.stdout.writelines(f"{line}\n" for line in [*wrong[:40], f"{count} vectors, {events} events: {outcome}"])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
