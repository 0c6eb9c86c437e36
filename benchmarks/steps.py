"""Steps: what six writes together cost, and that no kill leaves a part of them.

    python benchmarks/steps.py                        a step of six documents beside six bare `find_one_and_update`
    python benchmarks/steps.py --kills 500            processes killed inside steps, then what is where

Both on private servers. The first measures in alternating blocks and prints medians of their ratios. The second kills
a process at a random moment of its steps, again and again, beside a worker (audit, recovery, replica); each step writes
one number into six documents and a row of a list. Exit status 1 if MongoDB has a part of a step at any moment, or the
audit log or the replica once the worker is through.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pymongo
from bson.int64 import Int64

import backtest_kit_mongo as bk
from backtest_kit_mongo import embedded
from backtest_kit_mongo.testing.examples import BASE_MS

DATABASE, REPLICA = "steps", "steps-replica"
COLLECTIONS = ("signal-items", "schedule-items", "strategy-items", "recent-items", "state-items", "dictionary-items")
LIST = "storage-items"
QUIET_S = 60.0
"""How long the worker may need to have recorded everything after the last kill."""


def write(number: int) -> None:
    """Six documents in six domains."""
    context = ("BTCUSDT", "strategy", "exchange")
    row = {"id": "signal", "note": str(number)}
    bk.PersistSignalAdapter.write_signal_data(row, *context)
    bk.PersistScheduleAdapter.write_schedule_data(row, *context)
    bk.PersistStrategyAdapter.write_strategy_data({"note": str(number)}, *context)
    bk.PersistRecentAdapter.write_recent_data(row, *context, "frame", False, BASE_MS)
    bk.PersistStateAdapter.write_state_data({"note": str(number)}, "signal", "bucket", BASE_MS)
    bk.PersistDictionaryAdapter.write_dictionary_data({"note": str(number)}, "signal", "name", BASE_MS)


def setup(endpoints: embedded.Endpoints) -> None:
    bk.setup(
        mongo_connection_string=endpoints.mongo_connection_string(DATABASE),
        redis_host=endpoints.redis_host, redis_port=endpoints.redis_port,
    )  # fmt: skip


@contextmanager
def servers() -> Iterator[embedded.Endpoints]:
    with tempfile.TemporaryDirectory() as directory:
        try:
            yield embedded.up(Path(directory), die_with_caller=True)
        finally:
            bk.shutdown()
            embedded.down(Path(directory))


# -- what it costs


def measure(blocks: int, size: int) -> None:
    with servers() as endpoints:
        setup(endpoints)
        database = bk.get_mongo().get_database(
            DATABASE, write_concern=pymongo.WriteConcern("majority", j=True)
        )  # fmt: skip
        bare = [database[f"bare-{name}"] for name in COLLECTIONS]
        for collection in bare:
            collection.create_index("name", unique=True)

        def find_one_and_update(number: int) -> None:
            for collection in bare:
                collection.find_one_and_update(
                    {"name": "one"},
                    {
                        "$set": {"payload": {"id": "signal", "note": str(number)}, "updatedDate": datetime.now(UTC)},
                        "$inc": {"rev": Int64(1)}, "$setOnInsert": {"createDate": datetime.now(UTC)},
                    },
                    upsert=True, projection={"rev": 1},
                )  # fmt: skip

        ways: dict[str, Callable[[int], None]] = {
            "bare": find_one_and_update, "a step": bk.step(write), "six writes": write,
        }  # fmt: skip
        took: dict[str, list[float]] = {name: [] for name in ways}
        number = 0
        for block in range(blocks + 1):
            for name, way in ways.items():
                times = []
                for _ in range(size):
                    number += 1
                    since_s = time.perf_counter()
                    way(number)
                    times.append(time.perf_counter() - since_s)
                if block:  # The first one warms up.
                    took[name].append(statistics.median(times))
        print(f"{blocks} alternating blocks of {size}; load {os.getloadavg()[0]:.1f}")
        for name, medians in took.items():
            ratios = [one / bare for one, bare in zip(medians, took["bare"], strict=True)]
            print(f"{name:<12} {statistics.median(medians) * 1000:7.2f} ms   {statistics.median(ratios):.2f} of bare")


# -- kills


def forever(endpoints: embedded.Endpoints, ready: int, first: int) -> None:
    """A process that makes steps until it is killed."""
    number = first
    while True:
        try:
            if number == first:
                setup(endpoints)
            with bk.step():
                write(number)
                bk.PersistStorageAdapter.write_storage_data([{"id": "row", "note": str(number)}], False)
        except bk.EnvironmentFault:
            time.sleep(0.05)  # The documents of the killed one are still locked.
        else:
            os.write(ready, b".")
            number += 1


def kill_once(endpoints: embedded.Endpoints, first: int) -> None:
    """Let a process make two steps, and kill it somewhere in the third one or soon after it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            forever(endpoints, writing, first)
        except BaseException:
            traceback.print_exc()  # What `_exit` would swallow.
        finally:
            os._exit(1)
    os.close(writing)
    moments = []
    for _ in range(2):
        if os.read(reading, 1) != b".":
            raise SystemExit("a process ended by itself")
        moments.append(time.monotonic())
    time.sleep(random.uniform(0, 1.3) * (moments[1] - moments[0]))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)


def kinds(database: Any) -> list[tuple[int, str]]:
    """Revision and number of each document of the step, as of one moment."""
    found = []
    with database.client.start_session(snapshot=True) as session:
        for name in (*COLLECTIONS, LIST):
            document = database[name].find_one({}, session=session) or {}
            payload = document.get("payload") or {}
            found.append((int(document.get("rev", 0)), str(payload.get("note"))))
    return found


def in_part(database: Any) -> str:
    """What is only there in part; empty: nothing."""
    found = kinds(database)
    return "" if len(set(found)) == 1 else f"{database.name}: {found}"


def unrecorded(database: Any, rev: int) -> str:
    """Which step the audit log has in part; empty: none."""
    by_rev: dict[int, set[str]] = {}
    for record in database["audit-items"].find({"rev": {"$lte": rev}}, {"rev": 1, "domain": 1}):
        by_rev.setdefault(int(record["rev"]), set()).add(record["domain"])
    short = [one for one in range(1, rev + 1) if len(by_rev.get(one, ())) != len(COLLECTIONS) + 1]
    return f"{len(short)} of {rev} steps, the first is {short[0]}: {by_rev.get(short[0])}" if short else ""


def behind(database: Any, rev: int) -> str:
    found = kinds(database)[0][0]
    return f"revision {found} of {rev}" if found < rev else ""


def until_whole(look: Callable[[], str]) -> str:
    """What is still wrong after the worker has had its time; empty: nothing."""
    end_s = time.monotonic() + QUIET_S
    while (said := look()) and time.monotonic() < end_s:
        time.sleep(0.5)
    return said


@contextmanager
def worker(endpoints: embedded.Endpoints) -> Iterator[None]:
    environment = {
        **os.environ,
        "CC_MONGO_CONNECTION_STRING": endpoints.mongo_connection_string(DATABASE),
        "CC_REPLICA_MONGO_CONNECTION_STRING": endpoints.mongo_connection_string(REPLICA),
        "CC_REDIS_HOST": endpoints.redis_host, "CC_REDIS_PORT": str(endpoints.redis_port),
    }  # fmt: skip
    roles = ["--roles", "audit,recovery,replica", "--block-ms", "100"]
    process = subprocess.Popen([sys.executable, "-m", "backtest_kit_worker", *roles], env=environment)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def mongo_of(endpoints: embedded.Endpoints) -> pymongo.MongoClient[dict[str, Any]]:
    return pymongo.MongoClient(endpoints.mongo_url)


def kill(count: int) -> bool:
    """Whether anything was ever there in part."""
    with servers() as endpoints, mongo_of(endpoints) as client:
        database, parts = client[DATABASE], 0
        setup(endpoints)
        bk.shutdown()
        with worker(endpoints):
            for number in range(count):
                kill_once(endpoints, number * 100_000)
                if said := in_part(database):
                    parts += 1
                    print(f"kill {number + 1}: a part of a step in {said}")
            last = kinds(database)[0][0]
            recorded = until_whole(lambda: unrecorded(database, last))
            copied = until_whole(lambda: in_part(client[REPLICA]) or behind(client[REPLICA], last))
        steps = len(database["audit-items"].distinct("step"))
        print(f"{count} kills, {last} steps, {steps} ids of steps in the audit log; load {os.getloadavg()[0]:.1f}")
        print(f"in part: in MongoDB {parts or 'none'}, audit log {recorded or 'none'}, replica {copied or 'none'}")
        return bool(parts or recorded or copied)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, help="kill so many processes instead of measuring")
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--size", type=int, default=40)
    given = parser.parse_args()
    if given.kills:
        raise SystemExit(int(kill(given.kills)))
    measure(given.blocks, given.size)


if __name__ == "__main__":
    main()
