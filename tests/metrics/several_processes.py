"""Run by a test: a process and its forked child, each with a store of its own, over a few ports. Prints what each port
says.
"""

from __future__ import annotations

import os
import sys
import urllib.request

from backtest_kit_mongo import metrics, stores
from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.ports import NoCache

COUNTER = 'bkm_store_reads_total{domain="state",outcome="miss"}'


def make() -> Store:
    """As `setup()` makes it when CC_METRICS_PORT is set."""
    metrics.serve("127.0.0.1", first_port, 8)
    return Store("s", MemoryTruth(), NoCache())


def read(count: int) -> None:
    for _ in range(count):
        stores.live_store().read(Key(STATE, ("signal", "bucket")))


def reported() -> str:
    """How many reads the port of this process reports."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port()}/metrics", timeout=10) as answer:
        lines: list[str] = answer.read().decode().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(COUNTER))


first_port = int(sys.argv[1])
stores.configure_live(make)
read(3)
parents = metrics.port()
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
    print("parent", reported(), flush=True)  # noqa: T201
else:
    assert metrics.port() is None
    read(5)
    assert metrics.port() != parents
    print("child", reported(), flush=True)  # noqa: T201
    os._exit(0)
