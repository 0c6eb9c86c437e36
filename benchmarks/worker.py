"""What the worker carries: audit events per second, the delay from a write to its record, and a backlog in bounded
memory.

    python benchmarks/worker.py [--events N] [--backlog N] [--json FILE]

Throughput: N change events of 1,000 documents are put into the stream, then one worker process, then two, work them
off; the clock runs from the first record to the last, so starting Python does not count. Delay: another process writes
documents, a thousand a second if the machine can, while a worker audits; a change stream here sees each record appear.
Backlog: with --backlog N (a million takes some minutes) one worker works off N events while this process writes;
printed are its highest memory and how much slower the writes were than before. Workers, writer, mongod and redis-server
share this machine's cores. Private servers of the `embedded` extra are used.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import redis
from measuring import percentile, servers, wide_console
from paced_writer import rate_per_s, run_writer
from pymongo import MongoClient
from rich.progress import Progress
from rich.table import Table

import backtest_kit_mongo as bk
from backtest_kit_mongo.backends.redis.link import RedisLink
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.events import Event, Origin
from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.coherence.record import Domain
from backtest_kit_mongo.domains.table import SIGNAL, STATE
from backtest_kit_mongo.testing.examples import example
from backtest_kit_worker.pacing import SHARE_MIN

DATABASE = "bkm-benchmark-worker"
DOCUMENTS = 1_000
PACKET = 1_000
SAMPLE_S = 0.05
Found = dict[str, Any]


class Bench:
    """The servers, and workers as processes."""

    def __init__(self, config: Found) -> None:
        self.config = config
        self.client: redis.Redis = redis.Redis(host=config["redis_host"], port=config["redis_port"])
        self.mongo: MongoClient[Found] = MongoClient(config["mongo_connection_string"], tz_aware=True)
        (self.stream,) = streams(DATABASE, 1)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CC_")},
            **{f"CC_{name.upper()}": str(value) for name, value in config.items()},
        }

    def reset(self) -> None:
        self.client.flushall()
        self.mongo.drop_database(DATABASE)

    def fill(self, count: int, domain: Domain, progress: Progress) -> None:
        """Events as a writer would have published them; the context stands for a key of any domain."""
        bar = progress.add_task("filling the stream", total=count)
        link, body, origin = RedisLink(self.client), pack(example(domain)), Origin("bench", 1)
        for start in range(0, count, PACKET):
            commands: list[list[str | bytes | int]] = []
            for index in range(start, min(count, start + PACKET)):
                rev, document = divmod(index, DOCUMENTS)
                key = (f"S{document}", "bench", "binance")[: len(domain.key)]
                at_ms = time.time_ns() // 1_000_000
                event = Event(domain.name, key, f"{document:024x}", rev + 1, "upsert", None, at_ms, origin, body)
                commands.append(["XADD", self.stream, "*", "e", event.header(), "p", body])
            link.execute_many(commands)
            progress.update(bar, completed=start + PACKET)
        progress.remove_task(bar)

    def start_worker(self, share: float = SHARE_MIN) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "backtest_kit_worker", "--roles", "audit", "--block-ms", "100"]
        command += ["--catch-up-share", str(share)]
        return subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE, text=True)

    def recorded(self) -> int:
        return self.mongo[DATABASE]["audit-items"].estimated_document_count()

    def drained(self, workers: Sequence[subprocess.Popen[str]], count: int, progress: Progress) -> Found:
        """Wait until all events have a record; events per second between the first and the last, and the highest
        memory.
        """
        bar = progress.add_task(f"{len(workers)} worker(s)", total=count)
        began_s, began_at, rss, done = 0.0, 0, 0, 0
        observed = [psutil.Process(worker.pid) for worker in workers]
        used_s: dict[str, float] = {}
        while done < count:
            if ended := [worker for worker in workers if worker.poll() is not None]:
                raise SystemExit(f"a worker ended: {ended[0].stderr.read() if ended[0].stderr else ''}")
            done = self.recorded()
            if done and not began_s:
                began_s, began_at = time.monotonic(), done
                used_s = self.used_s(observed)
            rss = max(rss, *(process.memory_info().rss for process in observed))
            progress.update(bar, completed=done)
            time.sleep(SAMPLE_S)
        took_s = time.monotonic() - began_s
        each_us = {
            f"{who}_us": (s - used_s[who]) / (count - began_at) * 1e6 for who, s in self.used_s(observed).items()
        }
        progress.remove_task(bar)
        per_s = (count - began_at) / took_s
        return {"events": count, "per_s": per_s, "took_s": took_s, "rss_mib": rss / 2**20, **each_us}

    def used_s(self, workers: Sequence[psutil.Process]) -> dict[str, float]:
        """CPU time so far of the workers together, and of the servers."""
        pids = self.mongo.admin.command("serverStatus")["pid"], self.client.info("server")["process_id"]
        who = {"worker": workers, "mongod": [psutil.Process(pids[0])], "redis": [psutil.Process(pids[1])]}
        return {name: sum(sum(one.cpu_times()[:2]) for one in them) for name, them in who.items()}


def stop(workers: Sequence[subprocess.Popen[str]]) -> None:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.communicate(timeout=30)


def throughput(bench: Bench, events: int, progress: Progress) -> list[Found]:
    rows = []
    for count, domain in ((1, STATE), (1, SIGNAL), (2, SIGNAL)):
        bench.reset()
        bench.fill(events, domain, progress)
        workers = [bench.start_worker() for _ in range(count)]
        try:
            found = bench.drained(workers, events, progress)
            rows.append({"workers": count, "payload_bytes": len(pack(example(domain))), **found})
        finally:
            stop(workers)
    return rows


def delay(bench: Bench) -> Found:
    """Milliseconds from a write's return in another process to its record being visible to a majority read."""
    bench.reset()
    worker = bench.start_worker()
    seen_ns: dict[str, int] = {}
    items = bench.mongo[DATABASE]["audit-items"]
    is_over = threading.Event()

    def watch() -> None:
        with items.watch(max_await_time_ms=100) as changes:
            while not is_over.is_set():
                change = changes.try_next()
                if change is not None and change["operationType"] == "insert":
                    seen_ns[change["fullDocument"]["key"][0]] = time.monotonic_ns()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        time.sleep(2)  # The worker must have come up, or its start would be measured.
        returned_ns = run_writer(bench.config)
        deadline_s = time.monotonic() + 30
        while len(seen_ns) < len(returned_ns) and time.monotonic() < deadline_s:
            time.sleep(SAMPLE_S)
    finally:
        is_over.set()
        watcher.join()
        stop([worker])
    delays = [seen_ns[name] - at_ns for name, at_ns in returned_ns.items() if name in seen_ns]
    return {
        "writes": len(returned_ns), "recorded": len(delays), "writes_per_s": rate_per_s(returned_ns),
        "p50_ms": percentile(delays, 0.5) / 1000, "p99_ms": percentile(delays, 0.99) / 1000,
    }  # fmt: skip


def write_us(count: int, is_over: threading.Event | None = None) -> Found:
    """Times of writes here; with `is_over` as many as fit until then."""
    payload = example(STATE)
    took_ns: list[int] = []
    while (len(took_ns) < count) if is_over is None else not is_over.is_set():
        start_ns = time.perf_counter_ns()
        bk.PersistStateAdapter.write_state_data(payload, f"s{len(took_ns) % 64}", "bench", 1)
        took_ns.append(time.perf_counter_ns() - start_ns)
        time.sleep(0.005)
    return {"p50": percentile(took_ns, 0.5), "p99": percentile(took_ns, 0.99), "mean": statistics.fmean(took_ns) / 1000}


def backlog(bench: Bench, events: int, share: float, progress: Progress) -> Found:
    bench.reset()
    bk.setup(**bench.config)
    try:
        bench.fill(events, SIGNAL, progress)
        alone_us = write_us(1_000)
        is_over = threading.Event()
        beside: list[Found] = []
        writer = threading.Thread(target=lambda: beside.append(write_us(0, is_over)))
        worker = bench.start_worker(share)
        writer.start()
        try:
            found = bench.drained([worker], events, progress)
        finally:
            is_over.set()
            writer.join()
            stop([worker])
        return {**found, "share": share, "write_alone_us": alone_us, "write_beside_us": beside[0]}
    finally:
        bk.shutdown()


def show(rates: list[Found], late: Found, behind: Found | None) -> None:
    console = wide_console()
    table = Table(title="audit: events worked off a second")
    for heading in ("workers", "payload bytes", "events", "events/s", "highest memory", "goal"):
        table.add_column(heading, justify="right")
    for row in rates:
        goal = (">= 20,000 " + ("met" if row["per_s"] >= 20_000 else "missed")) if row["workers"] == 1 else ""
        table.add_row(
            str(row["workers"]),
            str(row["payload_bytes"]),
            f"{row['events']:,}",
            f"{row['per_s']:,.0f}",
            f"{row['rss_mib']:,.0f} MiB",
            goal,
        )
    console.print(table)
    console.print(
        f"{late['recorded']:,} of {late['writes']:,} writes recorded, at {late['writes_per_s']:,.0f} writes/s; from "
        "return to record: p50 "
        f"{late['p50_ms']:.1f} ms, p99 {late['p99_ms']:.1f} ms (goal: p99 <= 100 ms)"
    )
    if behind is not None:
        alone, beside = behind["write_alone_us"], behind["write_beside_us"]
        times = "; ".join(
            (
                f"{name} {alone[name]:,.0f} us before, {beside[name]:,.0f} us meanwhile "
                f"({beside[name] / alone[name] - 1:+.0%})"
            )
            for name in ("p50", "mean", "p99")
        )
        console.print(
            f"a backlog of {behind['events']:,} events, working {behind['share']:.0%} of the time: "
            f"{behind['per_s']:,.0f} events/s, highest "
            f"memory {behind['rss_mib']:,.0f} MiB. A write took: {times}. Goal: +10 %"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=60_000, help="events of the throughput table")
    parser.add_argument("--backlog", type=int, default=0, help="also work off so many while writing")
    parser.add_argument(
        "--share",
        type=float,
        default=SHARE_MIN,
        help="share of the time that the worker works on the backlog (--catch-up-share)",
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    arguments = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("CC_")]:
        del os.environ[name]  # The stream is emptied: never on servers that are in use.
    with servers(DATABASE) as found, Progress(console=wide_console(), transient=True) as progress:
        bench = Bench({**found, "lease_ms": 3_000})
        rates = throughput(bench, arguments.events, progress)
        late = delay(bench)
        behind = backlog(bench, arguments.backlog, arguments.share, progress) if arguments.backlog else None
    show(rates, late, behind)
    if arguments.json:
        arguments.json.write_text(json.dumps({"throughput": rates, "delay": late, "backlog": behind}, indent=2))


if __name__ == "__main__":
    main()
