"""`bkm demo`: its parts in memory, and the whole on real servers with a killed process."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from backtest_kit_mongo.domains.table import CANDLE, DOMAINS, STATE
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_verify.demo import DemoError
from backtest_kit_verify.demo.book import Book, Host
from backtest_kit_verify.demo.candles import CACHE_CHUNK, Series, Window, load_series, windows_of
from backtest_kit_verify.demo.connection import in_database
from backtest_kit_verify.demo.desk import MemoryDesk
from backtest_kit_verify.demo.replay import replay
from backtest_kit_verify.demo.rows import Write

HOUR_MS = 3_600_000
BKM = (sys.executable, "-c", "from backtest_kit_mongo.cli.main import main; main()")


def host_of(series: Series, variant: str = "fast") -> Host:
    return Host("t", variant, series.symbol, series.interval, series.exchange)


@pytest.fixture(scope="module")
def sample() -> Series:
    (series,) = load_series(None, None)
    return series


def test_the_sample_ships_with_the_package(sample: Series) -> None:
    assert (sample.symbol, sample.interval, len(sample.candles)) == ("EURUSD", "1h", 1000)
    assert sum(window.candle_count for window in sample.windows) == 1000


def test_windows_end_at_gaps_and_at_the_largest_request() -> None:
    times_ms = [i * HOUR_MS for i in (*range(CACHE_CHUNK + 2), 2000, 2001, 2003)]
    assert windows_of(times_ms, HOUR_MS) == [
        Window(0, CACHE_CHUNK),
        Window(CACHE_CHUNK * HOUR_MS, 2),
        Window(2000 * HOUR_MS, 2),
        Window(2003 * HOUR_MS, 1),
    ]


def test_only_the_last_candles_are_taken_when_asked(sample: Series) -> None:
    (short,) = load_series(None, 10)
    assert short.candles == sample.candles[-10:]
    assert (short.available, short.exchange) == (1000, sample.exchange)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("X-1h.txt", "", "SYMBOL-INTERVAL"),
        ("X-7h.csv", "", "interval must be one of"),
        ("X-1h.csv", "time,open\n", "first line must be timestamp,open"),
        ("X-1h.csv", "timestamp,open,high,low,close,volume\n0,1,2,1,a,0\n", "line 2.*'a'"),
        ("X-1h.csv", "timestamp,open,high,low,close,volume\n0,1,1,1,1,0\n0,1,1,1,1,0\n", "two candles open at 0"),
        ("X-1h.csv.gz", "not gzip", "cannot be read"),
    ],
)
def test_an_unusable_file_is_refused_by_name(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DemoError, match=message):
        load_series(tmp_path, None)


def test_both_plain_and_compressed_files_are_read(tmp_path: Path) -> None:
    text = "timestamp,open,high,low,close,volume\n3600000,1,2,0.5,1.5,7\n0,1,2,0.5,1.5,7\n"
    (tmp_path / "A-B-1h.csv").write_text(text)
    (tmp_path / "C-1h.csv.gz").write_bytes(gzip.compress(text.encode()))
    plain, compressed = load_series(tmp_path, None)
    assert (plain.symbol, compressed.symbol) == ("A-B", "C")
    assert plain.windows == compressed.windows == [Window(0, 2)]


def test_a_replay_writes_every_domain_but_candles(sample: Series) -> None:
    desk = MemoryDesk()
    book = replay(desk, host_of(sample), sample.candles, lambda book: None)
    assert {key.domain for key in desk.last} == set(DOMAINS) - {CANDLE}
    assert book.trades > book.wins > 0


class MortalDesk(MemoryDesk):
    """Dies at one of its writes: after it was performed, as a process that is killed before it hears so."""

    def __init__(self, last: dict[Any, bytes], writes_left: int) -> None:
        super().__init__()
        self.last = last
        self._writes_left = writes_left

    def write(self, write: Write) -> None:
        super().write(write)
        self._writes_left -= 1
        if not self._writes_left:
            raise InterruptedError


def test_a_replay_killed_after_any_write_ends_like_an_undisturbed_one(sample: Series) -> None:
    candles = sample.candles[:160]
    undisturbed = MemoryDesk()
    wanted = replay(undisturbed, host_of(sample), candles, lambda book: None)
    kinds = {key.item for key in undisturbed.last if key.domain.name == "memory"}
    assert kinds == {"scheduled", "cancelled", "opened", "partial", "breakeven", "closed"}

    # A process that dies again and again, each time after a few writes more than one step makes.
    for writes_left in range(30, 60):
        last: dict[Any, bytes] = {}
        deaths = 0
        while True:
            try:
                book = replay(MortalDesk(last, writes_left), host_of(sample), candles, lambda book: None)
                break
            except InterruptedError:
                deaths += 1
        assert deaths > 5
        assert (book, last) == (wanted, undisturbed.last)


def test_the_state_is_the_last_write_of_a_step(sample: Series) -> None:
    steps: list[str] = []

    class Recording(MemoryDesk):
        def write(self, write: Write) -> None:
            super().write(write)
            steps.append(write.key.domain.name)

    def on_bar(book: Book) -> None:
        assert not steps or steps[-1] == STATE.name

    replay(Recording(), host_of(sample), sample.candles[:100], on_bar)
    assert steps.count(STATE.name) == 100


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("mongodb://h:1,i:2/a?replicaSet=rs0", "mongodb://h:1,i:2/demo?replicaSet=rs0"),
        ("mongodb://h", "mongodb://h/demo"),
        ("mongodb://u:p@h/a", "mongodb://u:p@h/demo?authSource=a"),
        ("mongodb://u:p@h", "mongodb://u:p@h/demo?authSource=admin"),
        ("mongodb://u:p@h/a?authsource=b", "mongodb://u:p@h/demo?authsource=b"),
    ],
)
def test_another_database_keeps_the_user_where_it_is(uri: str, expected: str) -> None:
    assert in_database(uri, "demo") == expected


@pytest.fixture(scope="module")
def run_demo(servers: Endpoints, new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run `bkm demo` on a database of its own; the answer is the process and its report."""
    report = tmp_path_factory.mktemp("demo") / "report.json"
    database = new_database()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "CC_MONGO_CONNECTION_STRING": servers.mongo_connection_string("not_used"),
        "CC_REDIS_HOST": servers.redis_host,
        "CC_REDIS_PORT": str(servers.redis_port),
    }

    def run(*arguments: str) -> tuple["subprocess.CompletedProcess[str]", dict[str, Any]]:
        command = [*BKM, "demo", "--bars", "70", "--database", database, "--json", str(report), *arguments]
        report.unlink(missing_ok=True)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        return done, json.loads(report.read_text()) if report.exists() else {}

    run.database = database  # type: ignore[attr-defined]
    return run


@pytest.mark.live
def test_a_killed_process_resumes_and_every_check_passes(run_demo: Any) -> None:
    done, report = run_demo("--kill", "--run", "first")
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["passed"]
    assert "70 fetched, 0 from the store" in done.stderr
    assert [row["bars"] for row in report["hosts"]] == [70, 70, 70]
    assert all(row["documents"] and row["events"] == row["audit_records"] for row in report["domains"])
    (kill,) = (check for check in report["checks"] if "killed host" in check["name"])
    assert "got SIGKILL after bar" in kill["detail"]
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.live
def test_a_second_run_fetches_no_candle_and_a_changed_document_is_found(run_demo: Any, servers: Endpoints) -> None:
    done, report = run_demo("--run", "second", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert report["passed"]

    with MongoClient[dict[str, Any]](servers.mongo_url) as client:
        mine = {"strategyName": "second.medium"}
        client[run_demo.database]["session-items"].update_one(mine, {"$set": {"payload.data.trades": 99}})
    done, report = run_demo("--run", "second")
    assert "0 fetched, 70 from the store" in done.stderr
    assert done.returncode == 1
    failed = {check["name"]: check["detail"] for check in report["checks"] if not check["passed"]}
    assert "so does MongoDB's own document" in failed
    # Once recovery has taken the old entry away, the adapters read the changed document too.
    assert failed.keys() <= {
        "so does MongoDB's own document",
        "every value read back through the adapters equals the last write",
    }
    assert all(detail.startswith("session second.medium/") for detail in failed.values())
    assert "✗ so does MongoDB's own document" in done.stdout


@pytest.mark.live
def test_an_unusable_directory_ends_the_demo_before_it_starts_anything(run_demo: Any, tmp_path: Path) -> None:
    done, report = run_demo("--candles", str(tmp_path))
    assert (done.returncode, report) == (1, {})
    assert "EURUSD-1h.csv.gz" in done.stderr
