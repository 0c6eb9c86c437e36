"""What the index over signals costs the audit role, in alternating blocks with and without it.

    python benchmarks/signal_index.py [--blocks N] [--events N]

Each block: one worker works off N events of positions, each of which names a signal, fifty to one. Printed are events a
second, and of worker and mongod together the CPU of an event, which other processes disturb less. Private servers.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import time
from collections.abc import Iterator

import psutil
from measuring import servers, wide_console
from rich.progress import Progress

from backtest_kit_mongo.audit.records import SIGNALS
from backtest_kit_mongo.backends.redis.link import RedisLink
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.events import Event, Origin
from backtest_kit_mongo.domains.table import SIGNAL
from backtest_kit_mongo.testing.examples import example
from worker import DATABASE, Bench, stop

INDEX = "_".join(str(part) for part in SIGNALS[0])
OF_SIGNAL = 50
PACKET = 1_000


def fill(bench: Bench, count: int) -> None:
    link, origin, row = RedisLink(bench.client), Origin("bench", 1), example(SIGNAL)
    for start in range(0, count, PACKET):
        commands: list[list[str | bytes | int]] = []
        for number in range(start, min(count, start + PACKET)):
            name, at_ms = f"{number // OF_SIGNAL:032x}", time.time_ns() // 1_000_000
            key, document = (f"S{number % 100}", "bench", "binance"), f"{number % 100:024x}"
            body = pack({**row, "id": name})
            event = Event("signal", key, document, number // 100 + 1, "upsert", None, at_ms, origin, body)
            commands.append(["XADD", bench.stream, "*", "e", event.header(), "p", body])
        link.execute_many(commands)


def block(bench: Bench, events: int, progress: Progress, *, is_indexed: bool) -> tuple[float, float]:
    """Events a second, and microseconds of CPU for each."""
    bench.reset()
    worker = bench.start_worker(1.0)
    items = bench.mongo[DATABASE]["audit-items"]
    try:
        while INDEX not in items.index_information():
            time.sleep(0.05)
        os.kill(worker.pid, signal.SIGSTOP)
        if not is_indexed:
            items.drop_index(INDEX)
        fill(bench, events)
        processes = [psutil.Process(worker.pid), *mongods()]
        before_s = sum(cpu_s(processes))
        os.kill(worker.pid, signal.SIGCONT)
        found = bench.drained([worker], events, progress)
        used_s = sum(cpu_s(processes)) - before_s
    finally:
        stop([worker])
    return found["per_s"], used_s * 1e6 / events


def mongods() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if "mongod" in one.name()]


def cpu_s(processes: list[psutil.Process]) -> Iterator[float]:
    for process in processes:
        times = process.cpu_times()
        yield times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=5, help="of each kind")
    parser.add_argument("--events", type=int, default=40_000, help="of each block")
    arguments = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("CC_")]:
        del os.environ[name]  # The stream is emptied: never on servers that are in use.
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    console = wide_console()
    with servers(DATABASE) as config, Progress(console=console, transient=True) as progress:
        bench = Bench({**config, "lease_ms": 3_000})
        for number in range(arguments.blocks * 2):
            is_indexed = bool((number + number // 2) % 2)
            found[is_indexed].append(block(bench, arguments.events, progress, is_indexed=is_indexed))
    (rate, cpu), (rate_without, cpu_without) = (
        [statistics.median(values) for values in zip(*found[kind], strict=True)] for kind in (True, False)
    )
    console.print(
        f"with the index {rate:,.0f} events/s and {cpu:.1f} us of CPU each, without it {rate_without:,.0f} and "
        f"{cpu_without:.1f}: {rate / rate_without - 1:+.1%} and {cpu / cpu_without - 1:+.1%}; medians of "
        f"{arguments.blocks} blocks each; load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
