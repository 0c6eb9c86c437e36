"""What the console costs: its pages over many documents and records, and browsers that follow positions.

    python benchmarks/console.py pages --documents 100000 --records 1000000
    python benchmarks/console.py browser --axe axe.min.js
    python benchmarks/console.py live --browsers 20

It starts servers of its own in a temporary directory, or in `--data`, which keeps what was filled in (some minutes) for
the next time. `pages` prints, of each page, the first, the median and the slowest of ten, and the CPU of all processes
(console, mongod, redis-server) that one costs, which other load on the machine changes little. `browser` is the same
through a real Chromium: `console_browser.py` with its check. `serve` only serves, for whoever wants to look. `live`
writes positions from another process, in turns with and without browsers, and prints how long a write takes in both,
what the console takes of a core, and how long after its write a position is on the page.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import console_data
import psutil

import backtest_kit_mongo as bk
from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.embedded import down
from backtest_kit_worker.roles.audit import AuditRole

TIMES = 10
WRITER = "import console; console.write_for_ever()"


@contextmanager
def servers(data: Path | None = None) -> Iterator[Any]:
    """Private servers, empty without `data`; this process is set up for them."""
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made) if data is None else data / "servers"
        directory.mkdir(parents=True, exist_ok=True)
        os.environ.update(CC_EMBEDDED="1", CC_EMBEDDED_DIR=str(directory))
        settings = bk.setup()
        yield settings
        bk.shutdown()
        down(directory)


@contextmanager
def filled(given: argparse.Namespace) -> Iterator[Any]:
    """Servers with much in them, and something of everything."""
    with servers(given.data) as settings:
        database = bk.get_mongo()[settings.database]
        if not database["run-items"].find_one({}):
            bk.shutdown()
            with tempfile.TemporaryDirectory() as directory:
                print(*console_data.live_a_day(settings, Path(directory)), flush=True)
                bk.setup()
                console_data.fill()
                console_data.park(bk.get_redis(), streams(settings.database, settings.partitions)[0])
                since = console_data.now_ms() - given.documents * console_data.MINUTE_MS // 2
                candles = console_data.candles(1, 64_250.5, since, given.documents // 2)
                bk.write_candles("MANY/USDT", "1m", "binance", candles)
                database = bk.get_mongo()[settings.database]
                AuditRole(database).open()  # Its indexes.
                console_data.fill_much(database, given.documents, given.records)
                console_data.sweep(Path(directory))
        yield settings


@contextmanager
def console() -> Iterator[tuple[int, psutil.Process]]:
    """The command, as it is installed; its port and process."""
    with subprocess.Popen(["bkm", "console", "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().rsplit(":", 1)[1]), psutil.Process(process.pid)
        finally:
            process.terminate()


def get(port: int, address: str) -> tuple[float, str]:
    """Milliseconds, and the page."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", address)
    answer = connection.getresponse()
    page = answer.read().decode()
    connection.close()
    assert answer.status == 200, (address, answer.status)
    return (time.perf_counter() - began) * 1000, page


PAGES = {
    "overview": "/",
    "positions": "/positions",
    "signals": "/signals",
    "signals around 14:03": "/signals?at=14:03",
    "a signal's trace": "/signals?id={signal}",
    "runs": "/runs",
    "a study": "/runs/study?study={study}",
    "audit": "/audit",
    "audit, one domain": "/audit?domain=state",
    "a key of ten revisions": f"/audit/key?{urlencode({'key': 'state/s-50/counters'})}",
    "a key of a tenth of all records": f"/audit/key?{urlencode({'key': 'state/s-0/counters'})}",
    "dead letters": "/letters",
    "candles": "/candles",
    "180 candles": "/candles/series?exchange=binance&symbol=MANY%2FUSDT&interval=1m",
    "10,000 candles": "/candles/series?exchange=binance&symbol=MANY%2FUSDT&interval=1m&count=10000",
}


def pages(given: argparse.Namespace) -> None:
    with filled(given) as settings, console() as (port, process):
        database = bk.get_mongo()[settings.database]
        names = {"signal": _a_signal(database), "study": _a_study(database)}
        print(f"{given.documents:,} documents, {given.records:,} audit records; load {load()}")
        print(f"{'page':34} first   median  slowest, ms   CPU, ms")
        for name, address in PAGES.items():
            asked = address.format(**names)
            first = get(port, asked)[0]
            used = _cpu_s(process)
            others = [get(port, asked)[0] for _ in range(TIMES)]
            cpu_ms = (_cpu_s(process) - used) * 1000 / TIMES
            print(
                f"{name:34} {first:5.0f} {statistics.median(others):8.0f} {max(others):8.0f} {cpu_ms:11.0f}", flush=True
            )
        print(f"the console's memory: {process.memory_info().rss / 2**20:.0f} MiB; load {load()}")


def _a_signal(database: Any) -> str:
    """One that lived through several hosts."""
    query = {"payload.strategyName": "noted", "payload.status": "closed"}
    return quote(database["storage-items"].find_one(query)["signalId"])


def _a_study(database: Any) -> str:
    return quote(database["run-items"].find_one({"runId": "studies"})["payload"]["data"]["titles"][0])


def _cpu_s(console: psutil.Process) -> float:
    """CPU seconds of the console and its servers so far."""
    every = [console, *map(psutil.Process, _servers())]
    return float(sum(sum(one.cpu_times()[:2]) for one in every))


def _servers() -> list[int]:
    """Process numbers of MongoDB and Redis."""
    directory = Path(os.environ["CC_EMBEDDED_DIR"])
    return [json.loads((directory / f"{name}.json").read_text())["pid"] for name in ("mongo", "redis")]


def browser(given: argparse.Namespace) -> None:
    with filled(given), console() as (port, process):
        asked = ["check", *(["--axe", str(given.axe)] if given.axe else ())]
        asked += [f"--process={number}" for number in (process.pid, *_servers())]
        command = [sys.executable, str(Path(__file__).with_name("console_browser.py")), f"http://127.0.0.1:{port}"]
        print(f"{given.documents:,} documents, {given.records:,} audit records; load {load()}", flush=True)
        sys.exit(subprocess.run([*command, *asked], check=False).returncode)


def serve(given: argparse.Namespace) -> None:
    with filled(given) as settings:
        uri, port = settings.mongo_connection_string.get_secret_value(), settings.redis_port
        print(f"export CC_MONGO_CONNECTION_STRING='{uri}' CC_REDIS_PORT={port}", flush=True)
        with console() as (address, _):
            print(f"http://127.0.0.1:{address}", flush=True)
            signal.pause()


def load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def write_for_ever() -> None:
    """Positions that change, one write after the other; how long each took (ms) on standard output."""
    bk.setup()
    number = 0
    while True:
        symbol = f"S{number % 50}/USDT"
        row = console_data.signal(f"p-{number}", symbol, "trend", 100.0 + number, 1, "made up", is_long=True)
        began = time.perf_counter()
        bk.PersistSignalAdapter.write_signal_data(row, symbol, "trend", "binance")
        print(f"{(time.perf_counter() - began) * 1000:.3f}", flush=True)
        number += 1


class Browser(threading.Thread):
    """Follows positions as a page does."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        since = re.search(r"since=([0-9a-f]+-\d+)", get(port, "/positions")[1])
        assert since is not None
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection.request("GET", f"/positions/live?since={since[1]}")
        self._answer = self._connection.getresponse()
        self.ended, self.rows = False, 0

    def run(self) -> None:
        while not self.ended and (line := self._answer.readline()):
            if line.startswith(b"data: "):
                self.rows += line.count(b'"html"')
        self._connection.close()


def live(browsers: int, rounds: int, seconds: float) -> None:
    with servers(), console() as (port, process):
        command = [sys.executable, "-c", WRITER]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent) as writer:
            took: list[float] = []
            threading.Thread(target=lambda: took.extend(map(float, writer.stdout or ())), daemon=True).start()
            time.sleep(3)
            try:
                _alternate(port, process, took, browsers, rounds, seconds)
            finally:
                writer.terminate()
        _delays(port)


def _alternate(port: int, process: psutil.Process, took: list[float], count: int, rounds: int, seconds: float) -> None:
    alone, beside, shares, rows = [], [], [], 0
    for _ in range(rounds):
        alone.append(_block(took, seconds))
        watching = [Browser(port) for _ in range(count)]
        for each in watching:
            each.start()
        time.sleep(0.5)
        used = sum(process.cpu_times()[:2])
        beside.append(_block(took, seconds))
        shares.append((sum(process.cpu_times()[:2]) - used) / seconds)
        for each in watching:
            each.ended = True
        rows += watching[0].rows
        time.sleep(1.5)
    slower = statistics.median(b / a for a, b in zip(alone, beside, strict=True)) - 1
    print(f"{rounds} pairs of blocks of {seconds:g} s, {count} browsers; load {load()}")
    print(f"a write: {statistics.median(alone):.2f} ms without, {statistics.median(beside):.2f} ms with: {slower:+.1%}")
    print(f"the console: {statistics.median(shares):.1%} of a core; each browser got {rows:,} rows")


def _block(took: list[float], seconds: float) -> float:
    """Mean of the writes of a while, ms."""
    before = len(took)
    time.sleep(seconds)
    return statistics.fmean(took[before:])


def _delays(port: int) -> None:
    """From before a write to its row on a page, alone."""
    delays = []
    for number in range(30):
        browser = Browser(port)
        row = console_data.signal(f"d-{number}", "D/USDT", "trend", 1.0 + number, 1, "", is_long=True)
        began = time.perf_counter()
        bk.PersistSignalAdapter.write_signal_data(row, "D/USDT", "trend", "binance")
        browser.start()
        while not browser.rows:
            time.sleep(0.002)
        delays.append((time.perf_counter() - began) * 1000)
        browser.ended = True
    print(f"a write is on the page after {statistics.median(delays):.0f} ms, at most {max(delays):.0f} ms, of 30")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pages", "browser", "serve", "live"))
    parser.add_argument("--data", type=Path, help="keep servers and data here")
    parser.add_argument("--axe", type=Path, help="browser: axe.min.js of axe-core")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--browsers", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args()
    if given.what == "live":
        live(given.browsers, given.rounds, given.seconds)
    else:
        {"pages": pages, "browser": browser, "serve": serve}[given.what](given)


if __name__ == "__main__":
    main()
