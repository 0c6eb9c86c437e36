"""What a run of a sweep costs beyond its replay, and whether one answer survives any number of workers and kills.

    python benchmarks/runs.py [--runs 10000] [--store mongo|files] [--processes 1 2 4] [--dask 2] [--kill 0.3]

Prints a line for each way of running: runs, seconds, rate, overhead per run (all that is not the replay), workers
killed, and the digest, which has to be the same in all lines. Ends with exit status 1 if it is not.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

STRATEGY = """
from pathlib import Path
import backtest_kit as bt

bt.exchange(name="made-up", files=Path(__file__).parent / "candles")


@bt.strategy(interval="5m")
def cross(ctx, number=0):
    close = ctx.candles("1m", 20).close
    if len(close) == 20 and close[-3 - number % 7:].mean() > close.mean():
        return bt.long(take_profit=ctx.price * 1.006, stop_loss=ctx.price * 0.994, minutes=20 + number % 11)
"""
START_MS = 1_704_067_200_000


def prepare(root: Path, minutes: int) -> None:
    """A strategy beside the candles of one symbol."""
    (root / "candles").mkdir(parents=True)
    (root / "cross.py").write_text(STRATEGY)
    draw = np.random.default_rng(7)
    close = 100 * np.exp(np.cumsum(draw.normal(0, 0.002, minutes)))
    lines = ["timestamp,open,high,low,close,volume"]
    lines += [f"{START_MS + at * 60_000},{p},{p * 1.001},{p * 0.999},{p},1" for at, p in enumerate(close.tolist())]
    (root / "candles" / "AAA-1m.csv").write_text("\n".join(lines))


@contextmanager
def killing(share: float, seed: int) -> Iterator[list[int]]:
    """SIGKILL for a random worker now and then, until the share of all workers that were seen has died."""
    killed: list[int] = []
    seen: set[int] = set()
    is_over = threading.Event()
    source = random.Random(seed)

    def kill() -> None:
        while not is_over.wait(source.uniform(0.5, 1.5)):
            workers = [one.pid for one in psutil.Process().children(recursive=True) if is_worker(one)]
            seen.update(workers)
            if workers and len(killed) < share * len(seen):
                killed.append(source.choice(workers))
                os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    if share:
        thread.start()
    yield killed
    is_over.set()
    if share:
        thread.join()


def is_worker(process: psutil.Process) -> bool:
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "multiprocessing" in command and "resource_tracker" not in command and bool(process.ppid() != os.getpid())


def ways(arguments: argparse.Namespace, stack: ExitStack) -> Iterator[tuple[str, dict[str, Any], float]]:
    yield "serial", {"executor": "serial"}, 0.0
    for count in arguments.processes:
        yield f"{count} processes", {"workers": count}, 0.0
    if arguments.kill:
        yield "processes, killed", {"workers": max(arguments.processes), "lease_s": 3.0}, arguments.kill
    if arguments.dask:
        from distributed import Client, LocalCluster

        cluster = stack.enter_context(
            LocalCluster(n_workers=arguments.dask, threads_per_worker=1, dashboard_address=None)
        )
        client = stack.enter_context(Client(cluster))
        yield f"Dask, {arguments.dask} workers", {"executor": client.get_executor(), "workers": arguments.dask}, 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--minutes", type=int, default=120, help="of candles for each run")
    parser.add_argument("--store", choices=("files", "mongo"), default="files")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--dask", type=int, default=0)
    parser.add_argument(
        "--kill", type=float, default=0.3, help="share of the workers that are killed in one of the ways"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        root = Path(name)
        prepare(root, arguments.minutes)
        os.chdir(root)
        os.environ["CC_CANDLE_CACHE_DIR"] = str(root / "cache")
        if arguments.store == "mongo":
            os.environ["CC_EMBEDDED"] = "1"
        return measure(arguments, stack)


def measure(arguments: argparse.Namespace, stack: ExitStack) -> int:
    import backtest_kit as bt
    from backtest_kit import loading

    loading.prepare_store(Path("cross.py"), "backtest")
    loading.load_strategy(Path("cross.py"))
    found = set()
    print(f"{arguments.runs:,} runs of {arguments.minutes} minutes, {arguments.store}; load {os.getloadavg()[0]:.1f}")
    for at, (title, how, share) in enumerate(ways(arguments, stack)):
        with killing(share, at) as killed:
            study = bt.sweep(
                "cross",
                params={"number": range(arguments.runs)},
                symbols="AAA",
                study=f"way {at}",
                again=True,
                progress=False,
                **how,
            )
        workers = how.get("workers", 1)
        replayed_s = sum(row.elapsed_s for row in study)
        overhead_ms = (study.elapsed_s * min(workers, os.cpu_count() or 1) - replayed_s) / len(study) * 1000
        found.add(study.digest)
        print(
            f"{title:<20} {study.elapsed_s:8.1f} s {len(study) / study.elapsed_s:8.1f} runs/s  {overhead_ms:6.2f} ms "
            "overhead/run  "
            f"{len(killed):3} killed  {sum(row.attempt > 1 for row in study):3} done again  {len(study.failed)} "
            f"failed  {study.digest}"
        )
    since = time.perf_counter()
    again = bt.sweep("cross", params={"number": range(arguments.runs)}, symbols="AAA", study="way 0", progress=False)
    print(f"once more            {time.perf_counter() - since:8.1f} s, {again.executed} executed, {again.digest}")
    found.add(again.digest)
    print("one digest" if len(found) == 1 else f"{len(found)} DIGESTS")
    return 0 if len(found) == 1 and not again.executed else 1


if __name__ == "__main__":
    sys.exit(main())
