"""What `bkm delete --strategy` costs: 10,000 documents, with two readers whose caches are warm.

python benchmarks/deletion.py [COUNT]            starts private servers; --single: one document at a time, as before
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backtest_kit_mongo import embedded
from backtest_kit_mongo.coherence.inventory import Selection
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import NOTIFICATION, PARTIAL
from backtest_kit_mongo.operate.deletion import belongings, delete, note
from backtest_kit_mongo.settings import load
from backtest_kit_mongo.setup import make_store

MERGED = 1_000


def main(count: int, *, single: bool) -> None:
    directory = Path(tempfile.mkdtemp(prefix="bkm-deletion-"))
    servers = embedded.up(directory, die_with_caller=True)
    settings = load(
        mongo_connection_string=servers.mongo_connection_string("deletion"),
        redis_host=servers.redis_host,
        redis_port=servers.redis_port,
    )
    store, *readers = (make_store(settings) for _ in range(3))
    half = count // 2
    documents = [Key(PARTIAL, ("BTC/USDT", "trend", "binance", f"s-{number}")) for number in range(half)]
    level = {"x": {"profitLevels": [10], "lossLevels": []}}
    rows = [
        make_change(Key(NOTIFICATION, (False, f"n-{number}")), {"id": f"n-{number}", "strategyName": "trend"})
        for number in range(count - half)
    ]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.write(make_change(key, level, 1)), documents))
        for start in range(0, len(rows), MERGED):
            store.merge(rows[0].key.scope, rows[start : start + MERGED])
        for reader in readers:
            list(pool.map(reader.read, documents))
    since_s = time.perf_counter()
    keys = belongings(store, Selection((("strategyName", "trend"),))).keys
    found_s = time.perf_counter()
    if single:
        with ThreadPoolExecutor(8) as pool:
            gone = sum(one is not None for one in pool.map(lambda key: store.delete(key, note("")), keys))
    else:
        gone = delete(store, keys, note("")).total()
    taken_s = time.perf_counter() - found_s
    left = sum(reader.read(key).exists for reader in readers for key in documents)
    print(
        f"{gone:,} of {len(keys):,} documents deleted in {taken_s:.1f} s (found in {found_s - since_s:.1f} s), "
        f"{left} of them read afterwards; load {os.getloadavg()[0]:.1f}"
    )
    for each in (store, *readers):
        each.close()
    embedded.down(directory)


if __name__ == "__main__":
    given = [one for one in sys.argv[1:] if one != "--single"]
    main(int(given[0]) if given else 10_000, single="--single" in sys.argv)
