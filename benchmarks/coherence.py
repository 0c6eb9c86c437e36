"""The cost of coherence: this package against an unprotected cache-aside, and what each of them gets wrong.

    python benchmarks/coherence.py [--json FILE] [--seconds N]

Three tables. Cost: the same reads and writes through the protocol and through the cache-aside of cache_aside.py, in
turns; measuring.py says how, and what is done about noise. Mistakes: both under the same load of several writers and
readers of a few hot keys; every read is compared with the newest revision that was known before it began, and in every
pause the cache is compared with MongoDB. These are counts, not times: noise changes how many, never whether a protected
store may have any. Herd: how many reads MongoDB gets for one invalidation while 64 readers want the key. Uses the
servers of the CC_ environment variables (and a database of its own there), or private ones of the `embedded` extra.
Nothing is judged by exit code.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis
from cache_aside import CacheAside
from coherence_faults import Mistakes, Subject, count_mistakes, show_mistakes
from coherence_herd import Herd, count_herds, show_herds
from measuring import Case, Row, measure, servers, show, wide_console
from pymongo import MongoClient
from rich.console import Console
from rich.progress import track

from backtest_kit_mongo.coherence.keys import names
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import SIGNAL
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.settings import Settings, load
from backtest_kit_mongo.setup import make_store
from backtest_kit_mongo.testing.examples import example

DATABASE = "bkm-benchmark-coherence"
LEASE_MS = 3_000
KEYS = 64
MIXED_READS = 9


def parts_of(index: int) -> tuple[str, ...]:
    return f"S{index % KEYS}", "bench", "binance"


@dataclass(frozen=True, slots=True)
class Bench:
    """One connected store of ours, and bare clients."""

    settings: Settings
    store: Store
    mongo: MongoClient[dict[str, Any]]
    redis: redis.Redis
    payload: Any

    def aside(self, after_write: Any = "SET", *, with_event: bool = False) -> CacheAside:
        name = f"{self.settings.database}-aside"
        return CacheAside(self.mongo, self.redis, name, after_write, with_event=with_event)

    def read(self, index: int) -> object:
        return self.store.read(Key(SIGNAL, parts_of(index)))

    def write(self, index: int) -> object:
        return self.store.write(make_change(Key(SIGNAL, parts_of(index)), self.payload))

    def evict(self, index: int) -> None:
        parts = parts_of(index)
        self.redis.delete(names(self.settings.database, self.settings.partitions, SIGNAL.name, parts).entry)

    def subjects(self) -> Iterator[Subject]:
        yield Subject(
            "with the protocol",
            lambda index: self.store.read(Key(SIGNAL, parts_of(index))).rev,
            lambda index: self.store.write(make_change(Key(SIGNAL, parts_of(index)), self.payload)).rev,
            self.evict,
        )
        for after_write in ("SET", "DEL"):
            yield aside_subject(self.aside(after_write), f"cache-aside, {after_write} after write", self.payload)


def aside_subject(aside: CacheAside, name: str, payload: Any) -> Subject:
    return Subject(
        name,
        lambda index: aside.read(parts_of(index))[0],
        lambda index: aside.write(parts_of(index), payload),
        lambda index: aside.evict(parts_of(index)),
    )


def cost_cases(bench: Bench) -> Iterator[Case]:
    aside, with_event = bench.aside(), bench.aside(with_event=True)

    def floor_read(index: int) -> object:
        return aside.read(parts_of(index))

    def floor_write(index: int) -> object:
        return aside.write(parts_of(index), bench.payload)

    def floor_write_event(index: int) -> object:
        return with_event.write(parts_of(index), bench.payload)

    for index in range(KEYS):
        bench.write(index)
        floor_write(index)
    yield Case("warm read", bench.read, "GET, decode", floor_read, None, 4_000)
    yield Case(
        "cold read", bench.read, "GET, find_one, SET", floor_read, None, 1_000,
        prepare=bench.evict, floor_prepare=lambda index: aside.evict(parts_of(index)),
    )  # fmt: skip
    yield Case("write with event", bench.write, "update, SET", floor_write, None, 1_000)
    yield Case("write with event", bench.write, "update, SET + XADD", floor_write_event, None, 1_000)
    for threads in (1, 16):
        yield Case(
            f"{MIXED_READS} reads + 1 write, {threads} thread{'s' * (threads > 1)}",
            mixed(bench.read, bench.write), "the same, no event", mixed(floor_read, floor_write), None,
            800 // threads, threads,
        )  # fmt: skip


def mixed(read: Callable[[int], object], write: Callable[[int], object]) -> Callable[[int], None]:
    """Ten operations on ten keys, one of them a write: measured as one, or the median would be a read's."""

    def run(index: int) -> None:
        start = index * (MIXED_READS + 1)
        write(start)
        for offset in range(1, MIXED_READS + 1):
            read(start + offset)

    return run


@contextmanager
def connected(found: dict[str, Any], payload: Any) -> Iterator[Bench]:
    """A bench whose cache has been seen for one lease time: before that nothing is cached, by design."""
    settings = load(**found, lease_ms=LEASE_MS)
    with ExitStack() as stack:
        store = make_store(settings)
        stack.callback(store.close)
        mongo: MongoClient[dict[str, Any]] = MongoClient(settings.mongo_connection_string.get_secret_value())
        stack.callback(mongo.close)
        client = redis.Redis(
            host=settings.redis_host, port=settings.redis_port, username=settings.redis_user or None,
            password=settings.redis_password.get_secret_value() or None,
        )  # fmt: skip
        stack.callback(client.close)
        bench = Bench(settings, store, mongo, client, payload)
        end = time.monotonic() + 2 * LEASE_MS / 1000
        while getattr(store.cache, "counts", {}).get("hit") == 0:
            if time.monotonic() > end:
                raise SystemExit("the cache does not answer; is Redis reachable and CC_CACHE_MODE `document`?")
            bench.read(0)
            time.sleep(0.01)
        yield bench


def report(rows: list[Row], mistakes: list[Mistakes], herds: list[Herd], console: Console) -> None:
    show(rows, "cost: microseconds, p50 and p99; the floor is an unprotected cache-aside in the same run", console)
    show_mistakes(mistakes, console)
    show_herds(herds, console)


def own_database(found: dict[str, Any]) -> dict[str, Any]:
    """The same servers, another database: a benchmark may not write into the one that a user configured."""
    if found:
        return found
    scheme, _, tail = load().mongo_connection_string.get_secret_value().partition("://")
    hosts, _, rest = tail.partition("/")
    name, _, options = rest.partition("?")
    if "@" in hosts and "authsource=" not in options.lower():
        # Without it the user would be looked for in the database that the path names.
        options = "&".join(filter(None, (options, f"authSource={name or 'admin'}")))
    return {"mongo_connection_string": f"{scheme}://{hosts}/{DATABASE}?{options}"}


def drop(bench: Bench) -> None:
    for name in (bench.settings.database, f"{bench.settings.database}-aside"):
        bench.mongo.drop_database(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--seconds", type=float, default=5, help="how long each side of the mistakes table is loaded")
    arguments = parser.parse_args()
    console = wide_console()
    payload = example(SIGNAL, "s1")
    with servers(DATABASE) as found:
        chosen = own_database(found)
        with connected(chosen, payload) as bench:
            drop(bench)
        with connected(chosen, payload) as bench:
            cases, subjects = list(cost_cases(bench)), list(bench.subjects())
            rows = [measure(case) for case in track(cases, "cost", console=console, transient=True)]
            mistakes = [
                count_mistakes(subject, arguments.seconds)
                for subject in track(subjects, "mistakes", console=console, transient=True)
            ]
        # Clients that are made from here on are listened to, which costs time: so it comes last.
        herds = count_herds(lambda: connected(chosen, payload))
        with connected(chosen, payload) as bench:
            drop(bench)
    report(rows, mistakes, herds, console)
    if arguments.json:
        tables: dict[str, list[Any]] = {"cost": rows, "mistakes": mistakes, "herd": herds}
        arguments.json.write_text(
            json.dumps({name: [asdict(row) for row in table] for name, table in tables.items()}, indent=2)
        )


if __name__ == "__main__":
    main()
