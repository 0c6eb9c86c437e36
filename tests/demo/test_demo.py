"""`bkm demo` as a user runs it, and that its checks can fail."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backtest_kit_mongo.demo.candles import load_series
from backtest_kit_mongo.demo.errors import DemoError
from backtest_kit_mongo.embedded import Endpoints

HEADER = "timestamp,open,high,low,close,volume\n"
BKM = [sys.executable, "-c", "from backtest_kit_mongo.cli.main import main; main()"]


def demo(servers: Endpoints, database: str, report: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    environment = {
        **os.environ,
        "CC_MONGO_CONNECTION_STRING": servers.mongo_connection_string(database),
        "CC_REDIS_HOST": servers.redis_host,
        "CC_REDIS_PORT": str(servers.redis_port),
    }
    command = [*BKM, "demo", "--database", database, "--json", str(report), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(report.read_text()), done.stdout + done.stderr


@pytest.mark.live
class TestTheDemo:
    def test_it_passes_its_checks_over_a_crash_and_fetches_no_candle_again(
        self, servers: Endpoints, new_database: Callable[[], str], tmp_path: Path
    ) -> None:
        database = f"{new_database()}_demo"
        first, said = demo(servers, database, tmp_path / "first.json", "--bars", "60", "--kill")
        assert first["passed"]
        assert len(first["hosts"]) == 3
        assert any("SIGKILL" in check["detail"] for check in first["checks"])
        assert "candles: 60 fetched, 0 from the store" in said
        domains = {row["domain"]: row for row in first["domains"]}
        assert len(domains) == 17
        assert all(row["documents"] and row["events"] == row["audit_records"] for row in domains.values())
        second, said = demo(servers, database, tmp_path / "second.json", "--bars", "60")
        assert second["passed"]
        assert "candles: 0 fetched, 60 from the store" in said


class TestCandleFiles:
    def write(self, directory: Path, name: str, text: str) -> Path:
        with gzip.open(directory / name, "wt") as file:
            file.write(text)
        return directory

    def test_files_are_named_by_symbol_and_interval(self, tmp_path: Path) -> None:
        self.write(tmp_path, "BTC-1m.csv.gz", HEADER + "60000,1,2,0.5,1.5,10\n120000,1,2,0.5,1.5,10\n")
        (series,) = load_series(tmp_path, None)
        assert (series.symbol, series.interval, len(series.candles)) == ("BTC", "1m", 2)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("BTC-7m.csv.gz", HEADER + "60000,1,2,0.5,1.5,10\n"),
            ("BTC-1m.csv.gz", HEADER + "60000,1,2\n"),
            ("BTC-1m.csv.gz", HEADER + "60000,1,2,0.5,x,10\n"),
            ("BTC-1m.csv.gz", HEADER + "60000,1,2,0.5,1,1\n60000,1,2,0.5,1,1\n"),
        ],
    )
    def test_an_unusable_file_is_named(self, tmp_path: Path, name: str, text: str) -> None:
        with pytest.raises(DemoError, match=name):
            load_series(self.write(tmp_path, name, text), None)

    def test_an_empty_directory_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(DemoError):
            load_series(tmp_path, None)


def test_the_sample_ships_with_the_package() -> None:
    (series,) = load_series(None, 10)
    assert (series.symbol, series.interval, len(series.candles)) == ("EURUSD", "1h", 10)
