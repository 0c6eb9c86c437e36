"""Classes of values by id beside one another: a write, a read, and the list of a thousand ids.

    python benchmarks/persist.py

On private servers, in a temporary directory (TMPDIR says where: on a RAM disk, flushing costs nothing). Blocks of the
classes alternate; what is printed are medians of the blocks' medians, in milliseconds, as a table for
docs/backends.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import backtest_kit_mongo as bk
from backtest_kit_mongo.collections.persist import (
    CachedPersist,
    MongoPersist,
    PostgresPersist,
    RedisPersist,
    ReplicatedPersist,
    SqlitePersist,
)
from backtest_kit_mongo.testing.postgres import private_postgres
from backtest_kit_mongo.testing.servers import private_servers
from backtest_kit_mongo.testing.serving import fresh_settings

IDS = 1_000
VALUE = {"payload": {"id": "signal", "note": "x" * 400, "price": 64_250.5}, "rev": 1, "when": None, "removed": False}


def classes() -> dict[str, Any]:
    return {
        "`bk.PersistBase`": bk.PersistBase,
        "`SqlitePersist`": SqlitePersist,
        "`PostgresPersist`": PostgresPersist,
        "`RedisPersist`": RedisPersist,
        "`MongoPersist`": MongoPersist,
        "`CachedPersist(PostgresPersist)`": CachedPersist(PostgresPersist),
        "`ReplicatedPersist(PostgresPersist, (RedisPersist,))`": ReplicatedPersist(PostgresPersist, (RedisPersist,)),
    }


def took_ms(call: Callable[[int], object], times: int) -> float:
    """The median of so many calls."""
    found = []
    for number in range(times):
        since_s = time.perf_counter()
        call(number)
        found.append(time.perf_counter() - since_s)
    return statistics.median(found) * 1000


def speeds(values: Any, size: int) -> dict[str, float]:
    return {
        "write": took_ms(lambda number: values.write_value(str(number), VALUE), size),
        "read": took_ms(lambda number: values.read_value(str(number)), size),
        "list": took_ms(lambda number: list(values.keys()), 3),
    }


def measure(blocks: int, size: int, base_dir: str) -> dict[str, dict[str, list[float]]]:
    made = {name: maker("state/speed", f"{base_dir}/{index}") for index, (name, maker) in enumerate(classes().items())}
    took: dict[str, dict[str, list[float]]] = {name: {"write": [], "read": [], "list": []} for name in made}
    for values in made.values():
        values.wait_for_init(True)
        for number in range(IDS):
            values.write_value(str(number), VALUE)
    for block in range(blocks + 1):
        for name, values in made.items():
            found = speeds(values, size)
            if block:  # The first one warms up.
                for what, ms in found.items():
                    took[name][what].append(ms)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--size", type=int, default=100)
    given = parser.parse_args()
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        servers = stack.enter_context(private_servers(Path(directory) / "servers"))
        postgres = stack.enter_context(private_postgres())
        settings = stack.enter_context(fresh_settings(servers))
        stack.callback(bk.shutdown)
        named = {name: getattr(settings, name) for name in settings.model_fields_set}
        bk.setup(named | {"postgres_connection_string": postgres})
        took = measure(given.blocks, given.size, f"{directory}/values")
        for maker in classes().values():
            if isinstance(maker, ReplicatedPersist):
                maker.close()
    print(
        f"{given.blocks} alternating blocks of {given.size}; load {os.getloadavg()[0]:.1f}; {tempfile.gettempdir()}\n"
    )
    print("| | write | read | list of 1,000 ids |\n|---|---|---|---|")
    for name, found in took.items():
        print(f"| {name} | {' | '.join(f'{statistics.median(ms):.2f} ms' for ms in found.values())} |")


if __name__ == "__main__":
    main()
