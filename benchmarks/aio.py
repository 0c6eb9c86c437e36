"""`bk.aio`: what an event loop pays for its threads, and whether it ever waits.

    python benchmarks/aio.py [--blocks 9]

On private servers: 64 tasks that write beside 16 threads that write, in alternating blocks (medians of their ratios),
the same for warm reads, and how long the loop was kept from its next turn: with tasks writing, with none, and while
MongoDB and Redis are stopped (SIGSTOP) in the middle of writes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import backtest_kit_mongo as bk
from backtest_kit_mongo import embedded
from backtest_kit_mongo.embedded.pair import status

THREADS, TASKS = 16, 64
STOPPED_S = 6.0
Await = Callable[[int, int], Coroutine[Any, Any, Any]]


def place(who: int, number: int) -> tuple[str, str, str]:
    return f"S{who}-{number % 4}", "bench", "binance"


def write(who: int, number: int) -> None:
    bk.PersistSignalAdapter.write_signal_data({"id": str(time.time_ns())}, *place(who, number))


def read(who: int, number: int) -> None:
    bk.PersistSignalAdapter.read_signal_data(*place(who, number))


async def awrite(who: int, number: int) -> None:
    await bk.aio.PersistSignalAdapter.write_signal_data({"id": str(time.time_ns())}, *place(who, number))


async def aread(who: int, number: int) -> None:
    await bk.aio.PersistSignalAdapter.read_signal_data(*place(who, number))


def by_threads(call: Callable[[int, int], None], count: int) -> float:
    def work(who: int) -> None:
        for number in range(count // THREADS):
            call(who, number)

    with ThreadPoolExecutor(THREADS) as pool:
        start_s = time.perf_counter()
        list(pool.map(work, range(THREADS)))
        return count / (time.perf_counter() - start_s)


async def by_tasks(call: Await, count: int) -> float:
    async def work(who: int) -> None:
        for number in range(count // TASKS):
            await call(who, number)

    start_s = time.perf_counter()
    await asyncio.gather(*map(work, range(TASKS)))
    return count / (time.perf_counter() - start_s)


async def turns(work: Coroutine[Any, Any, Any]) -> list[float]:
    """How much later than asked for each turn of the loop came while the work was done, milliseconds, sorted."""
    late: list[float] = []
    task = asyncio.create_task(work)
    while not task.done():
        before_s = time.perf_counter()
        await asyncio.sleep(0.001)
        late.append((time.perf_counter() - before_s) * 1000 - 1)
    task.result()
    return sorted(late)


async def while_stopped(directory: Path) -> None:
    servers = [one.pid for one in (status(directory).mongo, status(directory).redis) if one.pid is not None]
    work = asyncio.gather(*(awrite(who, 0) for who in range(TASKS)), return_exceptions=True)
    for pid in servers:
        os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(STOPPED_S)
    finally:
        for pid in servers:
            os.kill(pid, signal.SIGCONT)
    await work


def say(what: str, late: list[float]) -> None:
    p50, p99, longest = late[len(late) // 2], late[len(late) * 99 // 100], late[-1]
    print(f"  {what:34s} p50 {p50:5.2f}  p99 {p99:6.2f}  longest {longest:6.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=9, help="measured turns of each way (default: %(default)s)")
    blocks = parser.parse_args().blocks
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        endpoints = embedded.up(directory, die_with_caller=True)
        try:
            bk.setup(
                mongo_connection_string=endpoints.mongo_connection_string("aio"),
                redis_host=endpoints.redis_host, redis_port=endpoints.redis_port,
            )  # fmt: skip
            measure(blocks, directory)
        finally:
            bk.shutdown()
            embedded.down(directory)


def measure(blocks: int, directory: Path) -> None:
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores; {TASKS} tasks beside {THREADS} threads")
    for what, call, acall, count in (("write", write, awrite, 1_600), ("warm read", read, aread, 6_400)):
        by_threads(call, count), asyncio.run(by_tasks(acall, count))
        pairs = [(by_threads(call, count), asyncio.run(by_tasks(acall, count))) for _ in range(blocks)]
        rates = [statistics.median(rate) for rate in zip(*pairs, strict=True)]
        ratio = statistics.median(tasks / threads for threads, tasks in pairs)
        print(f"  {what:10s} threads {rates[0]:7,.0f}/s  tasks {rates[1]:7,.0f}/s  ratio {ratio:.2f}")
    print("how late the loop's next turn came")
    say("nothing else to do", asyncio.run(turns(asyncio.sleep(3))))
    say(f"{TASKS} tasks write", asyncio.run(turns(by_tasks(awrite, 3_200))))
    say("and both servers are stopped", asyncio.run(turns(while_stopped(directory))))


if __name__ == "__main__":
    main()
