"""What a run of a sweep costs beyond its replay: claim, result, statistics, bookkeeping.

    python benchmarks/runs.py [--store files mongo] [--blocks 11] [--runs 200] [--directory DIR]

Blocks of the same runs alternate, replayed alone and as a serial sweep; the difference is what a run costs more. The
median over the blocks is what counts, and the first pair is left out. Files are written below DIR (default: the
system's directory for temporary files); what a disk costs is in the numbers.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from backtest_kit_mongo import embedded
from backtest_kit_verify.runs.study import prepare

GOAL_MS = {"files": 1.0, "mongo": 3.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=tuple(GOAL_MS), nargs="+", default=list(GOAL_MS))
    parser.add_argument("--blocks", type=int, default=11)
    parser.add_argument("--runs", type=int, default=200, help="of a block")
    parser.add_argument("--minutes", type=int, default=120, help="of candles for each run")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        measure(arguments)
        return 0
    # Each store in a process of its own: what adapters use belongs to a process.
    given = ["--blocks", str(arguments.blocks), "--runs", str(arguments.runs), "--minutes", str(arguments.minutes)]
    code = 0
    for store in arguments.store:
        command = [sys.executable, __file__, "--alone", "--store", store, *given]
        with tempfile.TemporaryDirectory(dir=arguments.directory) as root:
            code = max(code, subprocess.run(command, cwd=root, check=False).returncode)
            embedded.down(Path(root) / "servers")
    return code


def measure(arguments: argparse.Namespace) -> None:
    (store,) = arguments.store
    os.environ["CC_CANDLE_CACHE_DIR"] = str(Path("cache").absolute())
    if store == "mongo":
        os.environ |= {"CC_EMBEDDED": "1", "CC_EMBEDDED_DIR": str(Path("servers").absolute())}
    file = prepare(Path.cwd(), arguments.minutes)

    import backtest_kit as bt
    import backtest_kit_mongo as bk
    from backtest_kit import loading

    if store == "files":
        bk.PersistRunAdapter.use_json()
    loading.prepare_store(file, "backtest")
    loading.load_strategy(file)

    def swept(first: int) -> bt.Study:
        numbers = range(first, first + arguments.runs)
        return bt.sweep(
            "cross", params={"number": numbers}, symbols="AAA", study=str(first), executor="serial", progress=False
        )

    alone = replaying(arguments.runs)
    swept(-arguments.runs)
    alone(-arguments.runs)
    walls, cpus = [], []
    for block in range(arguments.blocks):
        first = block * arguments.runs
        pair = [alone, swept] if block % 2 else [swept, alone]
        times = {one: timed(one, first) for one in pair}
        walls.append((times[swept][0] - times[alone][0]) / arguments.runs * 1000)
        cpus.append((times[swept][1] - times[alone][1]) / arguments.runs * 1000)
    replay_ms, replay_cpu_ms = (time_s / arguments.runs * 1000 for time_s in times[alone])
    print(
        f"{store:<6} {median(walls):6.2f} ms overhead per run (goal {GOAL_MS[store]:g}; {min(walls):.2f} to "
        f"{max(walls):.2f}), of it {median(cpus):.2f} ms CPU of the worker; a replay takes {replay_ms:.2f} ms "
        f"({replay_cpu_ms:.2f} CPU); {arguments.blocks} blocks of {arguments.runs} runs; load {os.getloadavg()[0]:.1f}"
    )


def replaying(count: int) -> Callable[[int], None]:
    """A function that replays so many runs from a number on, and does nothing else with them."""
    from backtest_kit.market import History, Market
    from backtest_kit.running import RUNS_DIRECTORY, choose, replay_job
    from backtest_kit.runs.params import with_params

    job = choose("AAA", "backtest", strategy="cross")
    assert job.frame is not None
    market = Market(job.exchange, job.symbol)
    minutes = market.minutes(job.frame.start, job.frame.end, job.rules.vwap_candles)
    history = History(market, job.frame.start, job.frame.end, minutes)

    def alone(first: int) -> None:
        from dataclasses import replace

        for number in range(first, first + count):
            one = replace(job, strategy=with_params(job.strategy, {"number": number}))
            replay_job(one, "alone", RUNS_DIRECTORY / "alone", lambda _: history)

    return alone


def timed(function: Callable[[int], object], first: int) -> tuple[float, float]:
    """Seconds of wall time and of this process's CPU."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    function(first)
    return time.perf_counter() - wall_s, time.process_time() - cpu_s


if __name__ == "__main__":
    sys.exit(main())
