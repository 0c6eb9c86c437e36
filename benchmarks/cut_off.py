"""Writers that are cut off from MongoDB, and what TCP delivers when the cut heals.

    python benchmarks/cut_off.py                  20 cuts of 2 to 20 s, about five minutes; root and iproute2 are needed

Two writers live in a network namespace, with one link to MongoDB and one to Redis; two more and the servers outside.
The link to MongoDB is taken down again and again, for longer than a write may take and than a lease lasts. What the
kernel then still holds of sockets that were closed long ago arrives when the link is up again. MongoDB's change stream
tells in which order everything was committed. Exit status 1 if a value went back: if a write was committed after one
that began when its caller had long had its answer.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pymongo

from backtest_kit_mongo import embedded
from backtest_kit_mongo.backends.mongo import deadline, documents
from backtest_kit_mongo.backends.mongo.layout import collection_of, payload_field
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.errors import BacktestKitError, WriteOutcomeUnknown
from backtest_kit_mongo.settings import load
from backtest_kit_mongo.setup import make_store
from backtest_kit_verify.chaos.wire import Wire

DATABASE = "cut-off"
KEY = Key(STATE, ("position", "held"))
LEASE_MS, TIMEOUT_MS = 3_000, 2_000
PAUSE_S = 0.02
DELIVERY_S = 6.0
"""After the last cut: TCP tries again at ever longer intervals."""


class Call(NamedTuple):
    """One write, in seconds of CLOCK_MONOTONIC. `outcome`: returned, unknown, refused."""

    writer: str
    number: int
    began_s: float
    ended_s: float
    outcome: str


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def namespace() -> Iterator[tuple[str, str, list[str]]]:
    """A network namespace with two links. Gives its name, the outer device of the first, and this side's addresses."""
    name = f"bkm{os.getpid() % 100_000}"
    network = os.getpid() % 200
    ip("netns", "add", name)
    try:
        addresses = []
        for number in range(2):
            outer, inner = f"{name}o{number}", f"{name}i{number}"
            ip("link", "add", outer, "type", "veth", "peer", "name", inner)
            ip("link", "set", inner, "netns", name)
            ip("addr", "add", f"10.{77 + number}.{network}.1/24", "dev", outer)
            ip("link", "set", outer, "up")
            ip("-n", name, "addr", "add", f"10.{77 + number}.{network}.2/24", "dev", inner)
            ip("-n", name, "link", "set", inner, "up")
            addresses.append(f"10.{77 + number}.{network}.1")
        yield name, f"{name}o0", addresses
    finally:
        ip("netns", "del", name)  # And with it the links.


def write(name: str, settings: Mapping[str, Any], *, has_deadline: bool) -> None:
    """Write numbers until standard input is closed; report each on standard output."""
    if not has_deadline:
        setattr(deadline, "LATE", "1")  # noqa: B010 - a constant: now a late command succeeds like any other
        setattr(documents, "require", lambda *_: None)  # noqa: B010 - it is imported there, not exported
    store = make_store(load(**settings))
    ends = threading.Event()

    def until_closed() -> None:
        sys.stdin.read()
        ends.set()

    threading.Thread(target=until_closed, daemon=True).start()
    number = 0
    while not ends.is_set():
        number += 1
        change = make_change(KEY, {"data": {"writer": name, "number": number}}, 5)
        began_s = time.monotonic()
        try:
            store.write(change)
            outcome = "returned"
        except WriteOutcomeUnknown:
            outcome = "unknown"
        except BacktestKitError:
            outcome = "refused"
        print(json.dumps(Call(name, number, began_s, time.monotonic(), outcome)), flush=True)
        ends.wait(PAUSE_S)
    store.close()


class Writer:
    """A process that writes."""

    def __init__(self, name: str, prefix: list[str], settings: Mapping[str, Any], has_deadline: bool) -> None:
        task = json.dumps([name, dict(settings), has_deadline])
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CC_")}
        self._process = subprocess.Popen(
            [*prefix, sys.executable, __file__, "--write", task],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.calls: list[Call] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.calls += (Call(*json.loads(line)) for line in self._process.stdout)

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._reader.join()


class Commits(threading.Thread):
    """What MongoDB has committed, in its order, as (writer, number)."""

    def __init__(self, uri: str) -> None:
        super().__init__(daemon=True)
        self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri)
        self._stream = self._client[DATABASE][collection_of(STATE)].watch(max_await_time_ms=100)
        self.seen: list[tuple[str, int]] = []
        self.is_ending = False
        self.start()

    def run(self) -> None:
        while True:
            event = self._stream.try_next()
            if event is None:
                if self.is_ending:
                    return
                continue
            fields = event.get("fullDocument") or event["updateDescription"]["updatedFields"]
            data = fields[payload_field(STATE)]["data"]
            self.seen.append((data["writer"], data["number"]))

    def end(self) -> None:
        self.is_ending = True
        self.join()
        self._stream.close()
        self._client.close()


def gone_back(calls: Mapping[tuple[str, int], Call], commits: list[tuple[str, int]]) -> list[str]:
    """Writes that were committed after one that began when their caller had its answer."""
    found = []
    newest: Call | None = None
    for each in commits:
        call = calls.get(each)
        if call is None:
            continue
        if newest is not None and newest.began_s > call.ended_s:
            found.append(f"{call} was committed after {newest}")
        if newest is None or call.began_s > newest.began_s:
            newest = call
    return found


@contextmanager
def own_servers() -> Iterator[embedded.Endpoints]:
    with tempfile.TemporaryDirectory(prefix="bkm-cut-off-") as directory:
        yield embedded.up(Path(directory), die_with_caller=True)
        embedded.down(Path(directory))


def run(options: argparse.Namespace) -> dict[str, Any]:
    rng = random.Random(options.seed)
    with ExitStack() as stack:
        servers = stack.enter_context(own_servers()) if options.servers is None else embedded.up(options.servers)
        name, link, (to_mongo, to_redis) = stack.enter_context(namespace())
        port = int(servers.mongo_url.rsplit(":", 1)[1].split("/")[0])
        mongo = stack.enter_context(Wire("127.0.0.1", port, to_mongo))
        cache = stack.enter_context(Wire(servers.redis_host, servers.redis_port, to_redis))
        common = {"lease_ms": LEASE_MS, "mongo_timeout_ms": TIMEOUT_MS, "near_cache": ""}
        outside = {
            **common,
            "mongo_connection_string": servers.mongo_connection_string(DATABASE),
            "redis_host": servers.redis_host,
            "redis_port": servers.redis_port,
        }
        inside = {
            **common,
            "mongo_connection_string": f"mongodb://{to_mongo}:{mongo.port}/{DATABASE}?directConnection=true",
            "redis_host": to_redis,
            "redis_port": cache.port,
        }
        make_store(load(**outside)).open()
        commits = Commits(servers.mongo_url)
        in_namespace = ["ip", "netns", "exec", name]
        writers = [
            Writer(f"in{number}", in_namespace, inside, not options.without_deadline)
            for number in range(options.writers)
        ]
        writers += [
            Writer(f"out{number}", [], outside, not options.without_deadline) for number in range(options.writers)
        ]
        while not all(writer.calls or not writer._reader.is_alive() for writer in writers):
            time.sleep(0.05)
        for _ in range(options.cuts):
            time.sleep(rng.uniform(0.5, 1.5))
            ip("link", "set", link, "down")
            time.sleep(rng.uniform(options.least, options.most))
            ip("link", "set", link, "up")
            time.sleep(options.calm)
        time.sleep(options.delivery)
        for writer in writers:
            writer.end()
        commits.end()
        calls = {(call.writer, call.number): call for writer in writers for call in writer.calls}
    back = gone_back(calls, commits.seen)
    last = calls[commits.seen[-1]]
    returned = max((call for call in calls.values() if call.outcome == "returned"), key=lambda call: call.ended_s)
    return {
        "cuts": options.cuts,
        "calls": len(calls),
        "unknown": sum(call.outcome == "unknown" for call in calls.values()),
        "refused": sum(call.outcome == "refused" for call in calls.values()),
        "commits": len(commits.seen),
        "gone_back": back,
        "ends_right": last.ended_s >= returned.began_s,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--least", type=float, default=2.0, help="seconds of the shortest cut")
    parser.add_argument("--most", type=float, default=20.0, help="seconds of the longest one")
    parser.add_argument("--calm", type=float, default=2.0, help="seconds after each")
    parser.add_argument("--delivery", type=float, default=DELIVERY_S, help="seconds after the last one")
    parser.add_argument("--writers", type=int, default=2, help="on each side")
    parser.add_argument("--servers", type=Path, help="directory of running embedded servers")
    parser.add_argument("--seed", default="cut off")
    parser.add_argument("--without-deadline", action="store_true", help="as it was before: something must go back")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        name, settings, has_deadline = json.loads(options.write)
        write(name, settings, has_deadline=has_deadline)
        return 0
    result = run(options)
    print(json.dumps(result, indent=2))
    return 0 if not result["gone_back"] and result["ends_right"] else 1


if __name__ == "__main__":
    sys.exit(main())
