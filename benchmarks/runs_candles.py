"""Many processes over the same candles: the memory that they take together, what MongoDB is asked for, and whether
they slow each other down.

    python benchmarks/runs_candles.py [--symbols 20] [--days 365] [--processes 32] [--directory DIR]

Fills a private MongoDB with made-up minutes in blocks, then sweeps over them with one process and with many. Of each
worker that is still there afterwards the kernel says what its mappings of candles cost (PSS: a page that n processes
map counts a n-th in each), and what memory it has of its own. MongoDB's profiler says how many blocks were read.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import psutil

STEP_MS, DAY_MINUTES = 60_000, 1440
START_MS = 1_672_531_200_000
"""2023-01-01, so that a year is over."""
EXCHANGE = "store"
"""What a study reads whose exchange is the store alone."""
STRATEGY = """
import backtest_kit as bt


@bt.strategy(interval="1h")
def crossing(ctx, fast=5, slow=50):
    close, hours = ctx.candles("1m", 60).close, ctx.candles("15m", slow).close
    if len(close) == 60 and close[-fast:].mean() > close.mean() and len(hours) == slow:
        return bt.long(take_profit=ctx.price * 1.01, stop_loss=ctx.price * 0.99, minutes=600)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=20)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--processes", type=int, default=32)
    parser.add_argument("--directory", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        os.chdir(name)
        os.environ |= {"CC_CANDLE_CACHE_DIR": f"{name}/cache", "CC_CANDLE_CACHE_MB": "20000"}
        os.environ |= {"CC_EMBEDDED": "1", "CC_EMBEDDED_DIR": f"{name}/servers"}
        measure(arguments, Path(name))


def measure(arguments: argparse.Namespace, root: Path) -> None:
    import backtest_kit as bt
    import backtest_kit_mongo as bk
    from backtest_kit import loading

    bk.setup()
    symbols = [f"S{number:02}" for number in range(arguments.symbols)]
    since = time.perf_counter()
    blocks = sum(fill(symbol, number, arguments.days * DAY_MINUTES) for number, symbol in enumerate(symbols))
    print(
        f"{arguments.symbols} symbols x {arguments.days} days: {blocks} blocks in {time.perf_counter() - since:.0f} s"
    )
    file = root / "crossing.py"
    file.write_text(STRATEGY)
    loading.load_strategy(file)
    database = bk.get_mongo()[bk.get_config().database]

    def swept(fast: range, count: int) -> tuple[bt.Study, float, dict[str, list[float]]]:
        with ProcessPoolExecutor(count, mp_context=get_context("forkserver")) as pool:
            wait(pool, count)
            bt.sweep("crossing", params={"fast": [2]}, symbols=symbols[:1], executor=pool, progress=False)
            since = time.perf_counter()
            study = bt.sweep("crossing", params={"fast": fast}, symbols=symbols, executor=pool, progress=False)
            return study, time.perf_counter() - since, memory(root / "cache")

    cores = len(os.sched_getaffinity(0))
    database.command("profile", 2)
    alone, alone_s, _ = swept(range(3, 4), 1)
    count = -(-arguments.processes // len(symbols))
    many, many_s, used = swept(range(10, 10 + 2 * count), arguments.processes)
    database.command("profile", 0)
    found = database["system.profile"].find(
        {"ns": f"{database.name}.candle-blocks", "op": {"$in": ["query", "getmore"]}}
    )
    returned = sum(one.get("nreturned", 0) for one in found)
    print(f"MongoDB returned {returned} blocks of {blocks} to this host: {returned / blocks:.2f} each")
    copy_mb = sum(one.stat().st_size for one in (root / "cache").glob("*.candles")) / 1e6
    print(
        f"{arguments.processes} processes: candles take {sum(used['mapped']):.0f} MB in all of them together, and one "
        f"copy is {copy_mb:.0f} MB: {sum(used['mapped']) / copy_mb:.2f} of it; own memory of a process "
        f"{median(used['own']):.0f} MB"
    )
    rates = [len(one) / took_s for one, took_s in ((alone, alone_s), (many, many_s))]
    each = rates[1] / min(cores, arguments.processes)
    print(
        f"one process alone {rates[0]:.2f} runs/s, {arguments.processes} on {cores} cores {rates[1]:.2f}: per core "
        f"{each / rates[0]:.2f} of it (goal 0.9); load {os.getloadavg()[0]:.1f}"
    )


def fill(symbol: str, seed: int, minutes: int) -> int:
    """Store made-up candles and compact them; the number of blocks."""
    import backtest_kit_mongo as bk
    from backtest_kit_mongo.coherence.record import Key
    from backtest_kit_mongo.domains.table import CANDLE
    from backtest_kit_mongo.operate.compaction import Compactor, find_ranges
    from backtest_kit_mongo.setup import make_store

    times = START_MS + np.arange(minutes, dtype=np.int64) * STEP_MS
    close = 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.001, minutes)))
    opened = np.concatenate(([100.0], close[:-1]))
    table = {
        "timestamp": times, "open": opened, "high": np.maximum(opened, close) * 1.0005,
        "low": np.minimum(opened, close) * 0.9995, "close": close, "volume": np.ones(minutes),
    }  # fmt: skip
    bk.write_candles(symbol, "1m", EXCHANGE, table)
    database = bk.get_mongo()[bk.get_config().database]
    store = make_store(bk.get_config())
    store.open()
    compactor = Compactor(store.truth.series, database)
    for each in find_ranges(database, Key(CANDLE, (EXCHANGE, symbol, "1m"))):
        compactor.compact(each)
    return int(database["candle-blocks"].count_documents({"symbol": symbol}))


def wait(pool: ProcessPoolExecutor, count: int) -> None:
    """Until all workers are there."""
    list(pool.map(time.sleep, [0.2] * count))


def memory(cache: Path) -> dict[str, list[float]]:
    """Megabytes of each worker: its share of mapped candles, and what is its own."""
    found: dict[str, list[float]] = {"mapped": [], "own": []}
    for process in psutil.Process().children(recursive=True):
        maps = Path(f"/proc/{process.pid}/smaps").read_text()
        mapped = own = 0.0
        is_candle = False
        for line in maps.splitlines():
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                is_candle = str(cache) in line
            elif line.startswith("Pss:") and is_candle:
                mapped += int(line.split()[1]) / 1000
            elif line.startswith("Private_Dirty:") and not is_candle:
                own += int(line.split()[1]) / 1000
        if "forkserver" in " ".join(process.cmdline()) and process.ppid() != os.getpid():
            found["mapped"].append(mapped)
            found["own"].append(own)
    return found


if __name__ == "__main__":
    main()
