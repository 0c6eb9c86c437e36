"""Another process that writes new documents at a steady rate, for benchmarks of what others hear of it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import Any

from measuring import in_threads

import backtest_kit_mongo as bk
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.testing.examples import example

WRITES, WRITES_PER_S, THREADS = 4_000, 1_000, 12


def run_writer(config: dict[str, Any]) -> dict[str, int]:
    """Write from a process of its own; by first key part, when each write returned (CLOCK_MONOTONIC, ns)."""
    done = subprocess.run(
        [sys.executable, __file__], input=json.dumps(config), stdout=subprocess.PIPE, text=True, check=True
    )
    returned_ns: dict[str, int] = json.loads(done.stdout)
    return returned_ns


def rate_per_s(returned_ns: dict[str, int]) -> float:
    """The rate that the machine allowed."""
    return len(returned_ns) / (max(returned_ns.values()) - min(returned_ns.values())) * 1e9


def main() -> None:
    bk.setup(**json.loads(sys.stdin.read()))
    payload = example(STATE)
    returned_ns: dict[str, int] = {}
    start_s = time.monotonic()

    def work(offset: int) -> None:
        for index in range(offset, WRITES, THREADS):
            threading.Event().wait(max(0.0, start_s + index / WRITES_PER_S - time.monotonic()))
            bk.PersistStateAdapter.write_state_data(payload, f"s{index}", "bench", 1)
            returned_ns[f"s{index}"] = time.monotonic_ns()

    in_threads([lambda offset=offset: work(offset) for offset in range(THREADS)])  # type: ignore[misc]
    sys.stdout.write(json.dumps(returned_ns))
    bk.shutdown()


if __name__ == "__main__":
    main()
