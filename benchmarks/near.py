"""The near cache: how much faster a copy is than asking Redis, and how soon another process hears of a write.

    python benchmarks/near.py [--json FILE]

Reads go through the public adapters, of three domains whose values have ever more containers to copy; the floor is a
bare redis-py GET of as many bytes, which decodes nothing. Both in turns, in blocks of many calls, because a read takes
no longer than reading a clock a few times. Then a second process writes documents, a thousand a second if the machine
can, while this one listens: how long after a write returned there did the invalidation arrive here (negative: before it
returned, which is the rule, since it is sent before MongoDB is asked). Uses the servers of the CC_ environment
variables (and a database of its own there), or private ones of the `embedded` extra.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from measuring import BLOCKS, percentile, servers, wide_console
from paced_writer import rate_per_s, run_writer
from rich.table import Table

import backtest_kit_mongo as bk
from backtest_kit_mongo import stores
from backtest_kit_mongo.backends.near_cache import NearCache
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import SIGNAL, STATE
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.testing.examples import example

DATABASE = "bkm-benchmark-near"
NEAR = "measure,state,signal"
GOAL = 50
NEAR_CALLS, GET_CALLS = 5_000, 200
CC = {"lease_ms": 3_000, "near_cache": NEAR, "near_cache_max_staleness_ms": 1_000}


def per_call_us(action: Callable[[], object], calls: int) -> float:
    start_ns = time.perf_counter_ns()
    for _ in range(calls):
        action()
    return (time.perf_counter_ns() - start_ns) / calls / 1000


def read_rows(settings: Settings) -> list[dict[str, Any]]:
    """A row a domain: our time, the floor's, how many times faster."""
    signal, state = example(SIGNAL), example(STATE)
    measure = {"id": "key", "data": [1.5, 2.5, 3.5], "removed": False}
    bk.PersistSignalAdapter.write_signal_data(signal, "BTC/USDT", "bench", "binance")
    bk.PersistStateAdapter.write_state_data(state, "signal", "bucket", 1)
    bk.PersistMeasureAdapter.write_measure_data(measure, "bucket", "key", 1)
    cases: list[tuple[str, Any, Callable[[], Any]]] = [
        ("measure", measure, lambda: bk.PersistMeasureAdapter.read_measure_data("bucket", "key")),
        ("state", state, lambda: bk.PersistStateAdapter.read_state_data("signal", "bucket")),
        ("signal", signal, lambda: bk.PersistSignalAdapter.read_signal_data("BTC/USDT", "bench", "binance")),
    ]
    client = redis.Redis(host=settings.redis_host, port=settings.redis_port)
    rows = []
    for name, payload, read in cases:
        floor_key, body = f"floor:{name}", pack(payload)
        client.set(floor_key, body)
        wait_for_copy(read)
        before = near().hit_count
        pairs = [
            (
                per_call_us(read, NEAR_CALLS),
                per_call_us(lambda key=floor_key: client.get(key), GET_CALLS),  # type: ignore[misc]
            )
            for _ in range(BLOCKS)
        ]
        hits = (near().hit_count - before) / (BLOCKS * NEAR_CALLS)
        ours, floor = (statistics.median(side) for side in zip(*pairs, strict=True))
        low, _, high = statistics.quantiles([get / copy for copy, get in pairs], n=4)
        rows.append(
            {"domain": name, "payload_bytes": len(body), "copy_us": ours, "get_us": floor, "times_faster": floor / ours,
             "low": low, "high": high, "hit_share": hits}
        )  # fmt: skip
    client.close()
    return rows


def near() -> NearCache:
    found = stores.live_store().near
    assert isinstance(found, NearCache)
    return found


def wait_for_copy(read: Callable[[], object]) -> None:
    before = near().hit_count
    while near().hit_count == before:
        read()
        time.sleep(0.02)


def hearing_row(settings: Settings, config: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds from a write's return in another process to its invalidation here."""
    heard_ns: dict[str, int] = {}
    copies = near()._copies
    shipped = copies.heard

    def noting(channel: str, number: int, key: Key) -> None:
        shipped(channel, number, key)
        heard_ns[str(key.parts[0])] = time.monotonic_ns()

    copies.heard = noting  # type: ignore[method-assign]
    uri = settings.mongo_connection_string.get_secret_value()
    returned_ns = run_writer({**config, "mongo_connection_string": uri})
    time.sleep(0.2)
    delays = [heard_ns[name] - at_ns for name, at_ns in returned_ns.items() if name in heard_ns]
    return {
        "writes": len(returned_ns), "heard": len(delays), "writes_per_s": rate_per_s(returned_ns),
        "p50_ms": percentile(delays, 0.5) / 1000, "p99_ms": percentile(delays, 0.99) / 1000,
        "max_ms": max(delays) / 1e6, "after_return": sum(delay > 0 for delay in delays),
    }  # fmt: skip


def show(rows: list[dict[str, Any]], hearing: dict[str, Any]) -> None:
    console = wide_console()
    table = Table(title="a read served from a copy, and a bare redis-py GET of as many bytes")
    for heading in ("domain", "bytes", "copy us", "GET us", "times faster", "of blocks", "goal"):
        table.add_column(heading, justify="left" if heading == "domain" else "right")
    for row in rows:
        mark = "[green]met[/]" if row["times_faster"] >= GOAL else "[red]missed[/]"
        table.add_row(
            row["domain"], f"{row['payload_bytes']:,}", f"{row['copy_us']:.2f}", f"{row['get_us']:.0f}",
            f"{row['times_faster']:.0f}", f"{row['low']:.0f}-{row['high']:.0f}", f">= {GOAL} {mark}",
        )  # fmt: skip
    console.print(table)
    console.print(
        f"{hearing['heard']:,} of {hearing['writes']:,} writes of another process heard, at "
        f"{hearing['writes_per_s']:,.0f} writes/s; from "
        f"return there to forgotten here: p50 {hearing['p50_ms']:.2f} ms, p99 {hearing['p99_ms']:.2f} ms, longest "
        f"{hearing['max_ms']:.2f} ms; {hearing['after_return']:,} after the return (goal: p99 <= 5 ms)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    arguments = parser.parse_args()
    with servers(DATABASE) as found:
        config = {**CC, **found}
        settings = bk.setup(**config)
        bk.get_mongo().drop_database(settings.database)
        bk.shutdown()
        settings = bk.setup(**config)
        time.sleep(3.2)  # A Redis seen for the first time caches nothing for one lease time.
        try:
            rows = read_rows(settings)
            hearing = hearing_row(settings, config)
        finally:
            bk.shutdown()
    show(rows, hearing)
    if arguments.json:
        arguments.json.write_text(json.dumps({"reads": rows, "hearing": hearing}, indent=2))


if __name__ == "__main__":
    main()
