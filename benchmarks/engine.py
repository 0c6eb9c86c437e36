"""How fast a strategy is replayed: `python benchmarks/engine.py`. Prints the machine's load beside each number."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter, process_time

import backtest_kit_mongo as bk
from backtest_kit import declare
from backtest_kit.events import Event
from backtest_kit.identity import MINUTE_MS, ContextId
from backtest_kit.operations import Operations
from backtest_kit.replay import Columns, replay
from backtest_kit.rules import DEFAULT
from backtest_kit.running import Job, run_backtest
from backtest_kit.signals import Proposal, long
from backtest_kit_mongo import stores
from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.domains.table import CANDLE, DOMAINS
from backtest_kit_mongo.testing.servers import private_servers
from backtest_kit_verify.made_up import START_MS, random_walk

CONTEXT = ContextId("BTCUSDT", "bench", "made-up", "frame")
WARM_UP = 100
BLOCKS = 6
"""The first of them warms up and does not count."""
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


def stored() -> None:
    """Runs with candles of each place, in alternating blocks: what the store adds to a run."""
    with tempfile.TemporaryDirectory() as name, private_servers(Path(name) / "servers") as servers:
        os.chdir(name)
        string = servers.mongo_connection_string("bench")
        bk.setup(mongo_connection_string=string, redis_host=servers.redis_host, redis_port=servers.redis_port)
        memory = stores.new_memory_store()
        registry = REGISTRIES[DOMAINS.index(CANDLE)]
        for label, minutes in (("a week", 7 * 1440), ("two months", 60 * 1440)):
            table = random_walk(7, minutes, before=WARM_UP, volatility=0.0005)
            names = ("timestamp", "open", "high", "low", "close", "volume")
            for place in (nullcontext(), registry.serving(memory)):
                with place:
                    bk.write_candles("B", "1m", "bench", {name: getattr(table, name) for name in names})
            took_s: dict[str, list[float]] = {"memory": [], "mongodb": []}
            for _ in range(BLOCKS):
                for kind, place in (("memory", registry.serving(memory)), ("mongodb", nullcontext())):
                    with place:
                        took_s[kind].append(_run_s(minutes))
            medians = {kind: statistics.median(found[1:]) for kind, found in took_s.items()}
            told = ", ".join(f"{kind} {median * 1000:.0f} ms" for kind, median in medians.items())
            ratio = medians["mongodb"] / medians["memory"]
            print(
                f"{label:10} with 60 candles a minute: {told}: {ratio:.2f}x (goal 1.2x), load {os.getloadavg()[0]:.1f}"
            )


def _run_s(minutes: int) -> float:
    """From nothing to a result, candles read anew."""
    reads = declare.Strategy("bench", lambda ctx: ctx.candles("1m", 60) and None, "1m")
    frame = declare.Frame("bench", START_MS, START_MS + (minutes - 1) * MINUTE_MS)
    began = perf_counter()
    run_backtest(Job(reads, declare.Exchange("bench"), (), "B", "backtest", frame))
    return perf_counter() - began


if __name__ == "__main__":
    main()
    stored()
