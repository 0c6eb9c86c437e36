"""What one write walks through: the product's own Python calls, file by file, from the adapter's call to its return.

    python benchmarks/walk.py [--verbose] [--cpu COUNT] [--phases COUNT]

Real servers (those of the CC_ environment variables, or private ones), everything warm. A generator counts once,
however often it is resumed, and a comprehension not at all: from Python 3.12 on it is no call. `--cpu` measures the
CPU time of this process per write, in short blocks, of which the tenth best and the median are shown: on a loaded
machine every switch to another process costs caches, so the best say what a write takes, the median what it took.
`--phases` shows of what that consists: the writer's thread in each step of a write, what is left for adapter, checks
and plan, and the same document written by the bare driver, in turns.

All but the phases uses public names only, so the same file counts other versions: PYTHONPATH=<their src> python
benchmarks/walk.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from measuring import servers
from pymongo import MongoClient, WriteConcern

import backtest_kit_mongo as bk
from backtest_kit_mongo import stores
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.domains.table import SIGNAL as SIGNAL_DOMAIN

SIGNAL = {
    "id": "b7c1", "position": "long", "priceOpen": 100.0, "priceTakeProfit": 110.0, "priceStopLoss": 95.5,
    "minuteEstimatedTime": 1440, "cost": 100.0, "symbol": "BTC/USDT", "exchangeName": "binance",
    "strategyName": "trend", "frameName": "", "note": "crossed", "scheduledAt": 1_704_067_200_000,
    "pendingAt": 1_704_067_200_001, "timestamp": 1_704_067_200_000, "_isScheduled": False,
}  # fmt: skip
WARM_COUNT = 200
BLOCK_SIZE = 20


def write(number: int = 0) -> None:
    bk.PersistSignalAdapter.write_signal_data(SIGNAL, f"S{number % 64}", "walk", "binance")


def walk() -> list[tuple[str, str]]:
    """File and function of each call of one write, in order."""
    found: list[tuple[str, str]] = []
    met: dict[int, FrameType] = {}  # Kept, so that no two have one identity.

    def look(frame: FrameType, event: str, _: Any) -> None:
        is_ours = frame.f_globals.get("__name__", "").startswith("backtest_kit")
        if event == "call" and is_ours and id(frame) not in met and not frame.f_code.co_name.endswith("comp>"):
            met[id(frame)] = frame
            found.append((frame.f_globals["__name__"], frame.f_code.co_qualname))

    sys.setprofile(look)
    try:
        write()
    finally:
        sys.setprofile(None)
    return found


def cpu_us(count: int) -> list[float]:
    """CPU time of this process per write, microseconds, by block."""
    found = []
    for _ in range(max(2, count // BLOCK_SIZE)):
        since_s = time.process_time()
        for number in range(BLOCK_SIZE):
            write(number)
        found.append((time.process_time() - since_s) / BLOCK_SIZE * 1e6)
    return found


def tenth_best(blocks: list[float]) -> float:
    return statistics.quantiles(blocks, n=10, method="inclusive")[0]


def phases_us(count: int, uri: str) -> dict[str, list[float]]:
    """CPU time of the writing thread by phase of a write, microseconds, by block."""
    store = stores.live_store()
    spent: Counter[str] = Counter()

    def timed(name: str, perform: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def performed(effect: Any) -> Any:
            since_ns = time.thread_time_ns()
            try:
                return perform(effect)
            finally:
                spent[name] += time.thread_time_ns() - since_ns

        return performed

    handlers: Any = store.performers(SIGNAL_DOMAIN)
    for kind in (fx.Lease, fx.Upsert, fx.Commit):
        handlers[kind] = timed(kind.__name__, handlers[kind])
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    bare = client["bare"].get_collection("bare", write_concern=WriteConcern("majority", j=True))

    def write_bare(number: int) -> None:
        change = {"$set": {"payload": SIGNAL, "updatedDate": datetime.now(UTC)}, "$inc": {"rev": 1}}
        bare.find_one_and_update({"_id": number % 64}, change, {"rev": 1}, upsert=True)

    found: dict[str, list[float]] = defaultdict(list)
    for block in range(max(2, count // BLOCK_SIZE) + 1):
        for name, act in (("whole write", write), ("bare find_one_and_update", write_bare)):
            since_ns = time.thread_time_ns()
            for number in range(BLOCK_SIZE):
                act(number)
            spent[name] = time.thread_time_ns() - since_ns
        spent["adapter, checks, plan"] = spent["whole write"] - sum(spent[one] for one in ("Lease", "Upsert", "Commit"))
        if block:  # The first one is to get warm.
            for name, taken_ns in spent.items():
                found[name].append(taken_ns / BLOCK_SIZE / 1000)
        spent.clear()
    client.close()
    return found


def report(options: argparse.Namespace, uri: str) -> None:
    for number in range(WARM_COUNT):
        write(number)
    calls = walk()
    if options.verbose:
        for module, name in calls:
            print(f"  {module.removeprefix('backtest_kit_mongo.')}: {name}")
    by_file = Counter(module for module, _ in calls)
    for module, count in by_file.most_common():
        print(f"{count:4} {module}")
    print(f"{len(calls)} calls over {len(by_file)} files ({Path(bk.__file__).parents[2]})")
    if options.cpu:
        blocks = cpu_us(options.cpu)
        print(f"CPU of this process per write: {tenth_best(blocks):.0f} us, median {statistics.median(blocks):.0f} us")
    if options.phases:
        for name, blocks in phases_us(options.phases, uri).items():
            print(f"{tenth_best(blocks):7.0f} us, median {statistics.median(blocks):7.0f} us  {name}")
    print(f"load {os.getloadavg()[0]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--verbose", action="store_true", help="name every call")
    parser.add_argument("--cpu", type=int, default=0, metavar="COUNT", help="measure the CPU time of so many writes")
    parser.add_argument("--phases", type=int, default=0, metavar="COUNT", help="the same by phase, of so many writes")
    options = parser.parse_args()
    with servers("bkm-walk") as given:
        bk.setup(**given)
        report(options, given.get("mongo_connection_string") or os.environ["CC_MONGO_CONNECTION_STRING"])
        bk.shutdown()


if __name__ == "__main__":
    main()
