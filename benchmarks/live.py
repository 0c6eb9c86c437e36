"""What a live tick costs beside MongoDB and Redis: `python benchmarks/live.py`.

A bot trades made-up minutes by a clock that never waits; between two minutes a bare `find_one_and_update` that changes
something is timed on the same server. Printed: the median of the minute that opens a position (from the strategy's
answer to the last row stored), of one that closes, of one in which nothing happens, each as a multiple of the bare
write; and how long a new process takes from its start to its first tick, beyond importing the packages.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.write_concern import WriteConcern

import backtest_kit_mongo as bk
from backtest_kit import bot
from backtest_kit.context import Context
from backtest_kit.declare import Exchange, Strategy
from backtest_kit.events import Event
from backtest_kit.identity import MINUTE_MS
from backtest_kit.signals import Proposal, long
from backtest_kit_mongo.testing.servers import private_servers
from backtest_kit_verify.bots.desk import CandlesAtDesk, Desk
from backtest_kit_verify.bots.plan import SYMBOL, job, walk
from backtest_kit_verify.made_up import START_MS

MINUTES = 400
RESTARTS = 5
FIRST_TICK = """
import sys, time
import numpy, pymongo, redis, backtest_kit_mongo as bk
from backtest_kit import bot, ticking, durable, fleet, leases
since = time.perf_counter()
from benchmarks.live import resume
resume(*sys.argv[1:])
print(time.perf_counter() - since)
"""


class Minutes(Desk):
    """A clock that notes how long each minute took, and times a bare write between two."""

    def __init__(self, path: Path, bare: Any) -> None:
        super().__init__(path, START_MS)
        self._bare, self._since_s, self.kind = bare, 0.0, "nothing"
        self.took_s: dict[str, list[float]] = {"opens": [], "closes": [], "nothing": [], "bare write": []}
        self._count = 0

    def wait(self, seconds: float, stop: threading.Event) -> None:
        if self._since_s:
            self.took_s[self.kind].append(time.perf_counter() - self._since_s)
        self._count += 1
        since_s = time.perf_counter()
        self._bare.find_one_and_update({"_id": "bare"}, {"$inc": {"n": 1}}, upsert=True)
        self.took_s["bare write"].append(time.perf_counter() - since_s)
        super().wait(seconds, stop)
        self._since_s, self.kind = time.perf_counter(), "nothing"


def a_strategy(desk: Minutes | None) -> Strategy:
    def get_signal(ctx: Context) -> Proposal | None:
        if desk is not None:
            desk._since_s = time.perf_counter()
        return long(take_profit=ctx.price * 1.006, stop_loss=ctx.price * 0.994, minutes=5)

    def noted(kind: str) -> Any:
        def note(ctx: Context, event: Event) -> None:
            if desk is not None:
                desk.kind = kind

        return note

    return Strategy("bench", get_signal, "1m", callbacks={"on_open": noted("opens"), "on_close": noted("closes")})


def settings_of(servers: Any) -> dict[str, Any]:
    string = servers.mongo_connection_string("bench")
    return {"mongo_connection_string": string, "redis_host": servers.redis_host, "redis_port": servers.redis_port}


def resume(mongo: str, redis_port: str, directory: str) -> None:
    """A new process: from nothing to the end of its first tick."""
    bk.setup(mongo_connection_string=mongo, redis_host="127.0.0.1", redis_port=int(redis_port))
    desk = Desk(Path(directory) / "desk.sqlite", START_MS)
    exchange = Exchange("bench", get_candles=CandlesAtDesk(desk, walk("bench", MINUTES + 60)), broker=desk)
    with bk.in_mode("live", Path(directory) / "runs"):
        bot.run(job("live", a_strategy(None), exchange, MINUTES), clock=desk, until_ms=desk.now_ms() + MINUTE_MS)


def main() -> None:
    with tempfile.TemporaryDirectory() as name, private_servers(Path(name) / "servers") as servers:
        settings, directory = settings_of(servers), Path(name)
        client: MongoClient[Any] = MongoClient(settings["mongo_connection_string"])
        bare = client["bench"].get_collection("bare", write_concern=WriteConcern(w="majority", j=True))
        desk = Minutes(directory / "desk.sqlite", bare)
        bk.setup(**settings)
        exchange = Exchange("bench", get_candles=CandlesAtDesk(desk, walk("bench", MINUTES + 60)), broker=desk)
        with bk.in_mode("live", directory / "runs"):
            bot.run(
                job("live", a_strategy(desk), exchange, MINUTES), clock=desk, until_ms=START_MS + MINUTES * MINUTE_MS
            )
        bk.shutdown()
        bare_s = statistics.median(desk.took_s["bare write"])
        print(
            f"load {os.getloadavg()[0]:.1f}; {SYMBOL}, {MINUTES} minutes; bare find_one_and_update "
            f"{bare_s * 1000:.2f} ms"
        )
        for kind in ("opens", "closes", "nothing"):
            took = desk.took_s[kind]
            p50_s = statistics.median(took)
            print(
                f"a minute in which it {kind:8} p50 {p50_s * 1000:6.2f} ms = {p50_s / bare_s:4.1f} bare writes "
                f"({len(took)} minutes)"
            )
        print("resume, after a stop that gave the lease back: " + ", ".join(_resumes(settings, directory)) + " s")


def _resumes(settings: dict[str, Any], directory: Path) -> list[str]:
    root = Path(__file__).resolve().parents[1]
    arguments = [settings["mongo_connection_string"], str(settings["redis_port"]), str(directory)]
    command = [sys.executable, "-c", FIRST_TICK, *arguments]
    found = [
        subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout for _ in range(RESTARTS)
    ]
    return [f"{float(text.split()[-1]):.2f}" for text in found]


if __name__ == "__main__":
    main()
