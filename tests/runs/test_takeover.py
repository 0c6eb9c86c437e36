"""A worker that sleeps through its lease on real servers: the other's result stays, and the sleeper says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backtest_kit_mongo.embedded import Endpoints

SLEEPER = """
import os, signal, sys, time
from pathlib import Path
import backtest_kit as bt
import backtest_kit_mongo as bk

bt.exchange(name="files", files=Path("candles"))


@bt.strategy(interval="1h")
def slow(ctx, number=0):
    if sys.argv[1] == "sleeper" and not Path("asleep").exists():
        Path("asleep").touch()
        os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    bk.setup()
    study = bt.sweep("slow", params={"number": [1, 2]}, symbols="AAA", executor="serial", lease_s=1.0, progress=False)
    print([row.status for row in study], sorted(row.attempt for row in study), study.digest, study.notes)
"""


@pytest.mark.live
def test_a_worker_that_sleeps_through_its_lease_stores_nothing_and_says_so(
    strategy: Path, servers: Endpoints, new_database: Callable[[], str]
) -> None:
    Path("slow.py").write_text(SLEEPER)
    environment = {
        **os.environ,
        "CC_MONGO_CONNECTION_STRING": servers.mongo_connection_string(new_database()),
        "CC_REDIS_HOST": servers.redis_host,
        "CC_REDIS_PORT": str(servers.redis_port),
        "CC_CANDLE_CACHE_DIR": str(Path("cache").absolute()),
    }

    def start(role: str) -> subprocess.Popen[str]:
        command = [sys.executable, "slow.py", role]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    sleeper = start("sleeper")
    deadline = time.monotonic() + 90
    while not Path("asleep").exists():
        assert sleeper.poll() is None, sleeper.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    awake, _ = start("awake").communicate(timeout=90)
    sleeper.send_signal(signal.SIGCONT)
    late, errors = sleeper.communicate(timeout=90)
    assert awake.startswith("['done', 'done'] [1, 2] "), awake
    assert "taken over" in late, (late, errors)
    assert late.split("'taken")[0].split()[4] == awake.split()[4], "one digest"
