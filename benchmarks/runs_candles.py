"""Many processes over the same candles: the memory that they take together, what MongoDB is asked for, and whether
they slow each other down.

    python benchmarks/runs_candles.py [--symbols 20] [--days 365] [--processes 32] [--directory DIR]

Fills a private MongoDB with made-up minutes in blocks, then sweeps over them with one process, one per core, and many.
Of each worker that is still there afterwards the kernel says what its mappings of candles cost (PSS: a page that n
processes map counts a n-th in each), and what memory it has of its own. MongoDB's profiler says how many blocks were
read (not how often it named them: that costs it no answer of 300 kB).
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

from backtest_kit_mongo import embedded

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
        try:
            measure(arguments, Path(name))
        finally:
            embedded.down(Path(name) / "servers")


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

    def swept(fast: range, count: int) -> tuple[float, dict[str, list[float]]]:
        """Runs per second, without planning, and memory."""
        context = get_context("forkserver")
        context.set_forkserver_preload(["backtest_kit.runs.work"])
        with ProcessPoolExecutor(count, mp_context=context) as pool:
            begin(pool, count)
            study = bt.sweep("crossing", params={"fast": fast}, symbols=symbols, executor=pool, progress=False)
            return len(study) / study.elapsed_s, memory(root / "cache")

    def begin(pool: ProcessPoolExecutor, count: int) -> None:
        """Until all workers are there and have done something."""
        wait(pool, count)
        start = START_MS + DAY_MINUTES * STEP_MS
        bt.sweep(
            "crossing",
            params={"fast": range(9, 9 + 2 * count)},
            symbols=symbols[:1],
            frame=(start, start + DAY_MINUTES * STEP_MS),
            executor=pool,
            progress=False,
            again=True,
        )

    cores = len(os.sched_getaffinity(0))
    each = max(2, -(-2 * arguments.processes // len(symbols)))
    read = {f"{name}.projection": {"$exists": False} for name in ("command", "originatingCommand")}
    database.command("profile", 1, filter={"ns": f"{database.name}.candle-blocks", **read})
    swept(range(4, 5), 1)  # Brings the candles to this host; only then are one process and two alike.
    alone, _ = swept(range(5, 5 + each), 1)
    both, _ = swept(range(105, 105 + each), min(cores, arguments.processes))
    many, used = swept(range(205, 205 + each), arguments.processes)
    database.command("profile", 0)
    found = database["system.profile"].find({"op": {"$in": ["query", "getmore"]}})
    returned = sum(one.get("nreturned", 0) for one in found)
    print(f"MongoDB returned {returned} blocks of {blocks} to this host: {returned / blocks:.2f} each")
    copy_mb = sum(one.stat().st_size for one in (root / "cache").glob("*.candles")) / 1e6
    print(
        f"{arguments.processes} processes: candles take {sum(used['mapped']):.0f} MB in all of them together, and one "
        f"copy is {copy_mb:.0f} MB: {sum(used['mapped']) / copy_mb:.2f} of it; own memory of a process "
        f"{median(used['own']):.0f} MB"
    )
    print(
        f"runs per second: one process {alone:.2f}, {cores} processes on {cores} cores {both:.2f} (of each "
        f"{both / cores / alone:.2f} of one alone, goal 0.9), {arguments.processes} processes {many:.2f}; load "
        f"{os.getloadavg()[0]:.1f}"
    )


def fill(symbol: str, seed: int, minutes: int) -> int:
    """Store made-up candles as blocks; their number. A read asks for documents only where blocks have gaps, so there
    are none.
    """
    import backtest_kit_mongo as bk
    from backtest_kit_mongo.candles.codec import block_end, block_starts, encode_block
    from backtest_kit_mongo.candles.columns import Columns, between
    from backtest_kit_mongo.candles.intervals import grid_of
    from backtest_kit_mongo.candles.plans import PutBlock
    from backtest_kit_mongo.coherence.record import Key
    from backtest_kit_mongo.domains.table import CANDLE
    from backtest_kit_mongo.setup import make_store

    times = START_MS + np.arange(minutes, dtype=np.int64) * STEP_MS
    close = 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.001, minutes)))
    opened = np.concatenate(([100.0], close[:-1]))
    high, low = np.maximum(opened, close) * 1.0005, np.minimum(opened, close) * 0.9995
    columns = Columns(times, (opened, high, low, close, np.ones(minutes)), 0)
    grid, store, scope = grid_of("1m"), make_store(bk.get_config()), Key(CANDLE, (EXCHANGE, symbol, "1m"))
    store.open()
    starts = block_starts(START_MS, int(times[-1]) + STEP_MS, grid)
    for start in starts:
        part = between(columns, start, block_end(start, grid))
        store.truth.series.put_block(PutBlock(scope, grid, encode_block(part, start, grid)))
    store.close()
    return len(starts)


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
