"""How fast `bkm backup` and `bkm restore` are: documents of a kilobyte, on private servers.

python benchmarks/backup.py [COUNT]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymongo

from backtest_kit_mongo import embedded
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.backends.redis.cluster import link_over
from backtest_kit_mongo.caches import identity_document, identity_of
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.operate.backup.archive import Draft, open_backup
from backtest_kit_mongo.operate.backup.dumping import Dump
from backtest_kit_mongo.operate.backup.loading import Load
from backtest_kit_mongo.servers import Servers
from backtest_kit_mongo.settings import load
from backtest_kit_mongo.setup import make_store

PAGE = 10_000


def timed(what: str, count: int, size: int, call: Callable[[], Any]) -> None:
    since_s = time.perf_counter()
    call()
    taken_s = time.perf_counter() - since_s
    print(
        f"{what:<10}{taken_s:7.1f} s   {count / taken_s:10,.0f} documents/s   {size / taken_s / 1e6:6.1f} MB/s"
        f"   load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def main(count: int) -> None:
    directory = Path(tempfile.mkdtemp(prefix="bkm-backup-"))
    running = embedded.up(directory / "servers", die_with_caller=True)
    settings = load(
        mongo_connection_string=running.mongo_connection_string("source"),
        redis_host=running.redis_host,
        redis_port=running.redis_port,
    )
    store = make_store(settings)
    store.open()
    with pymongo.MongoClient[dict[str, Any]](running.mongo_url) as client:
        states = client["source"][collection_of(STATE)]
        for start in range(0, count, PAGE):
            states.insert_many(
                {
                    "signalId": f"s-{number}", "bucketName": "b", "rev": 1, "when": number,
                    "payload": {"data": [number * step / 7 for step in range(80)]},
                }
                for number in range(start, min(start + PAGE, count))
            )  # fmt: skip
        size = int(client["source"].command("collStats", states.name)["size"])
    with Servers(settings) as servers:
        timed("backup", count, size, lambda: Dump(servers.database).into(Draft(directory / "backup")))
        backup = open_backup(directory / "backup")
        print(f"{'':10}{backup.manifest.size_bytes / size:7.2f} of the size of the documents")
        document = identity_document(settings, lambda: servers.mongo)
        identity = identity_of(settings, lambda: servers.mongo, link_over(servers.redis))
        plan = Load(backup, servers.database, identity, document, servers.redis, replace=True)
        timed("check", count, size, backup.check)
        timed("restore", count, size, plan.run)
    store.close()
    embedded.down(directory / "servers")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
