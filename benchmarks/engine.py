"""How fast a strategy is replayed: `python benchmarks/engine.py`. Prints the machine's load beside each number."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter, process_time

from backtest_kit.events import Event
from backtest_kit.identity import MINUTE_MS, ContextId
from backtest_kit.operations import Operations
from backtest_kit.replay import Columns, replay
from backtest_kit.rules import DEFAULT
from backtest_kit.signals import Proposal, long
from backtest_kit_verify.made_up import START_MS, random_walk

CONTEXT = ContextId("BTCUSDT", "bench", "made-up", "frame")
WARM_UP = 100
GOALS = {"empty, 1m": 250_000, "60 candles, 1m": 100_000, "hourly, opens": 350_400}


class Strategy:
    wants = frozenset({"opened", "closed"})

    def __init__(self, get_signal: Callable[[int, float], Proposal | None], interval_minutes: int) -> None:
        self.get_signal, self.interval_ms = get_signal, interval_minutes * MINUTE_MS
        self.events = 0

    def on_event(self, event: Event, ops: Operations) -> None:
        self.events += 1


def strategies(candles: Columns) -> dict[str, Strategy]:
    close, first = candles.close, int(candles.timestamp[0])

    def empty(now_ms: int, price: float) -> Proposal | None:
        return None

    def reads(now_ms: int, price: float) -> Proposal | None:
        index = (now_ms - first) // MINUTE_MS
        window = close[index - 60 : index]
        return None if window[-1] > 0 else long(take_profit=price, stop_loss=price)

    def opens(now_ms: int, price: float) -> Proposal | None:
        return long(take_profit=price * 1.01, stop_loss=price * 0.99, minutes=240)

    return {"empty, 1m": Strategy(empty, 1), "60 candles, 1m": Strategy(reads, 1), "hourly, opens": Strategy(opens, 60)}


def main() -> None:
    for name, minutes in (("a week", 7 * 1440), ("a year", 365 * 1440)):
        candles = random_walk(7, minutes, before=WARM_UP, price=42_000.0, volatility=0.0005, wick=0.0002)
        for label, strategy in strategies(candles).items():
            began, cpu = perf_counter(), process_time()
            done = replay(
                CONTEXT, candles, strategy, DEFAULT, start_ms=START_MS, end_ms=START_MS + (minutes - 1) * MINUTE_MS
            )
            seconds, cpu = perf_counter() - began, process_time() - cpu
            print(
                f"{name:7} {label:15} {minutes / seconds:>12,.0f} minutes/s ({seconds:.2f} s, {cpu:.2f} s of CPU; "
                f"goal {GOALS[label]:,}), asked {done.asked:,}, {strategy.events:,} events, load "
                f"{os.getloadavg()[0]:.1f}"
            )


if __name__ == "__main__":
    main()
