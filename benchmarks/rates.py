"""What becomes of a write when others write beside it, and when there are many documents.

    python benchmarks/rates.py [--processes 8] [--documents 10000,1000000] [--blocks 9] [--block-s 2]

On private servers, in alternating blocks (medians of the blocks' ratios). First, processes that all write, beside as
many that call the bare driver's `find_one_and_update`: their total rates. Then one process that writes and reads in a
database with the first number of documents of a domain, beside one with the second number: the same 500 keys,
spread over all, so that the number is all that differs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Any

from bson import ObjectId
from bson.int64 import Int64
from measuring import servers
from pymongo import MongoClient
from pymongo.write_concern import WriteConcern

import backtest_kit_mongo as bk
from backtest_kit_mongo.domains.table import SIGNAL
from backtest_kit_mongo.testing.examples import example

DATABASE = "bkm-benchmark-rates"
KEYS = 500
PAGE = 10_000
OPEN_S = 3.5
"""A cache that is seen for the first time is closed for a lease time, here 3 s."""
Found = dict[str, Any]


class Child:
    """A process that does one thing for a while when told to, and says how often it did."""

    def __init__(self, found: Found, database: str, documents: int, seed: int) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        arguments = (theirs, found, database, documents, seed)
        self._process = multiprocessing.get_context("spawn").Process(target=serve, args=arguments)
        self._process.start()

    def __enter__(self) -> Child:
        self._pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._process.join()

    def begin(self, what: str, seconds: float) -> None:
        self._pipe.send((what, seconds))

    def rate_per_s(self) -> float:
        rate: float = self._pipe.recv()
        return rate


def serve(pipe: Connection, found: Found, database: str, documents: int, seed: int) -> None:
    uri = found["mongo_connection_string"].replace(f"/{DATABASE}", f"/{database}")
    bk.setup(**{**found, "mongo_connection_string": uri, "lease_ms": 3_000})
    payload = example(SIGNAL)
    client: MongoClient[Found] = MongoClient(uri)
    bare = client.get_database("bare", write_concern=WriteConcern("majority", j=True))["bare"]

    def key(number: int) -> tuple[str, str, str]:
        return f"S{(number * 7919 + seed) % KEYS * (documents // KEYS)}", "bench", "binance"

    def write(number: int) -> None:
        bk.PersistSignalAdapter.write_signal_data({**payload, "priceOpen": 100.0 + number}, *key(number))

    def read(number: int) -> None:
        bk.PersistSignalAdapter.read_signal_data(*key(number))

    def write_bare(number: int) -> None:
        change = {"$set": {"payload": {**payload, "priceOpen": 100.0 + number}, "updatedDate": datetime.now(UTC)}}
        bare.find_one_and_update(
            {"_id": key(number)[0]}, {**change, "$inc": {"rev": Int64(1)}}, {"rev": 1}, upsert=True
        )

    ways: dict[str, Callable[[int], None]] = {"write": write, "read": read, "bare": write_bare}
    number = 0
    pipe.send("ready")
    while (order := pipe.recv()) is not None:
        what, seconds = order
        since_s, count = time.perf_counter(), 0
        while (taken_s := time.perf_counter() - since_s) < seconds:
            ways[what](number)
            number, count = number + 1, count + 1
        pipe.send(count / taken_s)
    client.close()
    bk.shutdown()


def fill(found: Found, database: str, documents: int) -> None:
    """Documents as this package's writes leave them; the first write of all makes the indexes."""
    uri = found["mongo_connection_string"].replace(f"/{DATABASE}", f"/{database}")
    bk.setup(**{**found, "mongo_connection_string": uri})
    payload, now = example(SIGNAL), datetime.now(UTC)
    bk.PersistSignalAdapter.write_signal_data(payload, "first", "bench", "binance")
    collection = bk.get_mongo()[database]["signal-items"]
    for start in range(0, documents, PAGE):
        page = [
            {
                "_id": ObjectId(), "symbol": f"S{number}", "strategyName": "bench", "exchangeName": "binance",
                "payload": payload, "createDate": now, "updatedDate": now, "__v": 0, "rev": Int64(1),
            }
            for number in range(start, min(documents, start + PAGE))
        ]  # fmt: skip
        collection.insert_many(page, ordered=False)
    bk.shutdown()


def total_per_s(children: list[Child], what: str, seconds: float) -> float:
    for child in children:
        child.begin(what, seconds)
    return sum(child.rate_per_s() for child in children)


def compare(name: str, blocks: int, ours: Callable[[], float], floor: Callable[[], float], goal: str) -> None:
    ours(), floor()  # To get warm.
    pairs = [(ours(), floor()) for _ in range(blocks)]
    rates = [statistics.median(each) for each in zip(*pairs, strict=True)]
    ratios = sorted(a / b for a, b in pairs)
    print(
        f"{name:44s} {rates[0]:8,.0f}/s beside {rates[1]:8,.0f}/s: {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f}; goal {goal}); load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def together(found: Found, processes: int, blocks: int, seconds: float) -> None:
    with ExitStack() as stack:
        children = [Child(found, DATABASE, KEYS, seed * KEYS // processes) for seed in range(processes)]
        for child in children:
            stack.enter_context(child)
        compare(
            f"{processes} processes that write, beside bare ones", blocks,
            lambda: total_per_s(children, "write", seconds), lambda: total_per_s(children, "bare", seconds), ">= 0.8",
        )  # fmt: skip


def growth(found: Found, few: int, many: int, blocks: int, seconds: float) -> None:
    sizes = {f"{DATABASE}-{documents}": documents for documents in (few, many)}
    for database, documents in sizes.items():
        fill(found, database, documents)
    with ExitStack() as stack:
        small, large = (stack.enter_context(Child(found, name, count, 0)) for name, count in sizes.items())
        for child in (small, large):
            total_per_s([child], "write", 1)
        time.sleep(OPEN_S)
        for what in ("write", "read"):
            compare(
                f"{what} of {few:,} documents, beside {many:,}", blocks,
                lambda what=what: total_per_s([small], what, seconds),  # type: ignore[misc]
                lambda what=what: total_per_s([large], what, seconds), "<= 1.2",  # type: ignore[misc]
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=8, help="how many write at once; 0: leave this out")
    parser.add_argument("--documents", default="10000,1000000", help="two numbers; empty: leave this out")
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--block-s", type=float, default=2.0)
    given = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("CC_")]:
        del os.environ[name]  # Databases are filled: never on servers that are in use.
    with servers(DATABASE) as found:
        if given.processes:
            together(found, given.processes, given.blocks, given.block_s)
        if given.documents:
            few, many = map(int, given.documents.split(","))
            growth(found, few, many, given.blocks, given.block_s)


if __name__ == "__main__":
    main()
