"""`bkm candles`: what it stores, prints and how it exits."""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from bson import Decimal128
from pymongo import MongoClient
from pymongo.database import Database
from typer.testing import CliRunner, Result

from backtest_kit_mongo.adapters.candle_instance import CandleInstance
from backtest_kit_mongo.candles.columns import FIELDS
from backtest_kit_mongo.cli import candle_transfer
from backtest_kit_mongo.cli.candles import candles
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.errors import WriteOutcomeUnknown
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.operate import fetching
from backtest_kit_mongo.operate.fetching import FetchFailed, Source

HEADER = "timestamp,open,high,low,close,volume"
HOUR = 3_600_000
START = 1_515_700_800_000
"""Thursday, 2018-01-11 20:00 UTC: 26 hours before forex closes."""


def lines(*hours: int, close: float = 1.5) -> str:
    rows = (f"{START + hour * HOUR},1.25,2.5,0.1,{close!r},{1_400 + hour}" for hour in hours)
    return "\n".join((HEADER, *rows, ""))


@pytest.fixture(scope="module")
def database(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Database[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](servers.mongo_connection_string("test")) as client:
        yield client[new_database()]


@pytest.fixture
def environment(servers: Endpoints, database: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """No candles, but the indexes of the test before: building them is what a fresh database takes most of its time
    for.
    """
    for collection in database.list_collection_names():
        database[collection].delete_many({})
    monkeypatch.setenv("CC_MONGO_CONNECTION_STRING", servers.mongo_connection_string(database.name))
    monkeypatch.setenv("CC_REDIS_HOST", servers.redis_host)
    monkeypatch.setenv("CC_REDIS_PORT", str(servers.redis_port))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two files: 50 hours without a gap, and 60 hours of which the weekend and two more are missing."""
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "ABC%2FUSDT-1h.csv").write_text(lines(*range(50)))
    hours = [hour for hour in range(82) if not 26 <= hour < 74 and hour not in {5, 6}]
    (directory / "EURUSD-1h.csv.gz").write_bytes(gzip.compress(lines(*hours).encode()))
    return directory


def bkm(*arguments: object) -> Result:
    return CliRunner().invoke(candles, [str(argument) for argument in arguments])


def bkm_json(*arguments: object) -> list[Any]:
    return [json.loads(line) for line in bkm(*arguments, "--json").stdout.splitlines()]


pytestmark = [pytest.mark.live, pytest.mark.usefixtures("environment")]


def test_what_is_imported_is_exported_with_the_same_text(data: Path, tmp_path: Path) -> None:
    imported = bkm("import", data, "--exchange", "csv")
    assert imported.exit_code == 0, imported.output
    assert "50 candles of ABC/USDT 1h, 50 new, 0 known\n" in imported.stdout
    assert "32 candles of EURUSD 1h, 32 new, 0 known\n" in imported.stdout
    assert "82 candles in" in imported.stderr
    out = tmp_path / "out"
    assert bkm("export", out, "--exchange", "csv").exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == ["ABC%2FUSDT-1h.csv.gz", "EURUSD-1h.csv.gz"]
    for mine, theirs in (
        (gzip.decompress((out / "ABC%2FUSDT-1h.csv.gz").read_bytes()), (data / "ABC%2FUSDT-1h.csv").read_bytes()),
        ((out / "EURUSD-1h.csv.gz").read_bytes(), (data / "EURUSD-1h.csv.gz").read_bytes()),
    ):
        assert mine == theirs or gzip.decompress(mine) == gzip.decompress(theirs)
    again = bkm("import", out, "--exchange", "csv")
    assert "ABC/USDT 1h, 0 new, 50 known\n" in again.stdout


def test_export_takes_a_part_of_a_series_and_prints_one_to_standard_output(data: Path, tmp_path: Path) -> None:
    bkm("import", data, "--exchange", "csv")
    one = bkm(
        "export", "-", "--exchange", "csv", "--symbol", "EURUSD", "--since", START + HOUR + 1, "--until", "2018-01-12"
    )
    assert one.stdout == lines(2, 3)
    both = bkm("export", "-", "--exchange", "csv")
    assert both.exit_code == ExitCode.WRONG_ARGUMENT
    assert "ABC/USDT 1h, EURUSD 1h" in both.stderr
    nothing = bkm("export", tmp_path / "out", "--exchange", "other")
    assert nothing.exit_code == ExitCode.FAILED
    assert "There are no candles of other" in nothing.stderr
    wrong = bkm("export", "-", "--exchange", "csv", "--symbol", "EURUSD", "--since", "yesterday")
    assert (wrong.exit_code, "not a moment" in wrong.stderr) == (ExitCode.WRONG_ARGUMENT, True)


def test_a_limit_beyond_one_series_leaves_the_others_alone(data: Path, tmp_path: Path) -> None:
    (data / "OLD-1h.csv").write_text(lines(-500))
    bkm("import", data, "--exchange", "csv")
    later = bkm("export", tmp_path, "--exchange", "csv", "--since", START, "--format", "csv")
    assert later.exit_code == 0, later.output
    assert "OLD-1h.csv: 0 candles" in later.stdout
    assert "ABC%2FUSDT-1h.csv: 50 candles" in later.stdout
    outside = bkm("check", "--symbol", "ABC/USDT", "--until", START)
    assert (outside.exit_code, "nothing was checked" in outside.stderr) == (ExitCode.FAILED, True)
    assert bkm("check", "--since", START, "--until", START - HOUR).exit_code == ExitCode.WRONG_ARGUMENT


def test_files_of_different_series_do_not_become_one(data: Path) -> None:
    refused = bkm("import", data, "--exchange", "csv", "--symbol", "ABC/USDT")
    assert refused.exit_code == ExitCode.WRONG_ARGUMENT
    assert "the files of ABC/USDT 1h would all become ABC/USDT 1h" in refused.stderr
    assert "No candles." in bkm("list").stdout
    renamed = bkm("import", data / "EURUSD-1h.csv.gz", "--exchange", "csv", "--symbol", "EUR/USD")
    assert "32 candles of EUR/USD 1h, 32 new" in renamed.stdout


def test_a_file_with_a_fault_is_left_out_as_a_whole_and_the_others_are_imported(data: Path) -> None:
    (data / "OTHER-10h.csv").write_text(lines(1))
    (data / "BAD-1h.csv").write_text(lines(1, 2).replace(f"{START + 2 * HOUR},1.25", f"{START + 2 * HOUR},x"))
    result = bkm("import", data, "--exchange", "csv")
    assert result.exit_code == ExitCode.FAILED
    assert "BAD-1h.csv, line 3, column open: 'x' is not a number. Nothing of this file was used." in result.stderr
    shown = json.loads(bkm("list", "--json").stdout)
    assert [series["symbol"] for series in shown] == ["ABC/USDT", "EURUSD"]
    errors = [one["error"] for one in bkm_json("import", data, "--exchange", "csv")]
    assert [error is not None for error in errors] == [False, True, False, True]
    assert "OTHER-10h.csv: left out: the interval must be one of 1s, 1m" in errors[3]


def test_a_name_that_does_not_say_the_series_needs_options_for_it(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    path.write_text(lines(0, 1))
    refused = bkm("import", path, "--exchange", "csv")
    assert refused.exit_code == ExitCode.WRONG_ARGUMENT
    assert "the name does not say what it holds" in refused.stderr
    assert bkm("import", path, "--exchange", "csv", "--symbol", "X", "--interval", "1x").exit_code == 2
    assert bkm("import", tmp_path / "absent", "--exchange", "csv").exit_code == 2
    taken = bkm("import", path, "--exchange", "csv", "--symbol", "X", "--interval", "1h")
    assert "2 candles of X 1h, 2 new" in taken.stdout


def test_wrong_arguments_are_reported_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC_MONGO_CONNECTION_STRING", "mongodb://127.0.0.1:1/none")
    assert "neither a file nor a directory" in bkm("import", tmp_path / "absent", "--exchange", "csv").stderr


def test_an_unclosed_candle_is_refused_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "X-1h.csv"
    now = time.time_ns() // 1_000_000 // HOUR * HOUR
    path.write_text(f"{HEADER}\n{now - HOUR},1,1,1,1,1\n{now + HOUR},1,1,1,1,1\n")
    assert "1 new, 0 known, 1 refused: not closed yet" in bkm("import", path, "--exchange", "csv").stdout


def test_a_store_that_fails_names_how_far_the_file_came(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = CandleInstance.write_candles
    calls = []

    def failing(self: CandleInstance, chunk: Any, **options: Any) -> Any:
        calls.append(len(chunk))
        if len(calls) == 3:
            raise WriteOutcomeUnknown("connection lost.")
        return write(self, chunk, **options)

    monkeypatch.setattr(candle_transfer, "CHUNK", 20)
    monkeypatch.setattr(CandleInstance, "write_candles", failing)
    stopped = bkm("import", data / "ABC%2FUSDT-1h.csv", "--exchange", "csv")
    assert stopped.exit_code == ExitCode.FAILED
    assert "stopped at candle 41 of 50, which opens at 2018-01-13 12:00: connection lost." in stopped.stderr
    assert "All candles before it are stored" in stopped.stderr
    again = bkm("import", data / "ABC%2FUSDT-1h.csv", "--exchange", "csv")
    assert "10 new, 40 known" in again.stdout


def test_list_shows_ranges_and_gaps(data: Path) -> None:
    assert "No candles." in bkm("list").stdout
    bkm("import", data, "--exchange", "csv")
    series = json.loads(bkm("list", "--symbol", "EURUSD", "--json").stdout)[0]
    assert series == {
        "exchange": "csv", "symbol": "EURUSD", "interval": "1h", "first": START, "last": START + 81 * HOUR,
        "candles": 32, "gaps": 2, "missing": 50, "blocks": 0, "inBlocks": 0,
    }  # fmt: skip
    printed = bkm("list").stdout
    for text in ("ABC/USDT", "2018-01-11 20:00", "2018-01-15 05:00", "0 (0 %)"):
        assert text in printed


def test_list_shows_open_times_that_no_calendar_has(database: Database[dict[str, Any]]) -> None:
    times = [START * 1_000, Decimal128(str(START))]  # Microseconds, and what is no candle.
    shared = {"exchangeName": "csv", "symbol": "X", "interval": "1h", **dict.fromkeys(FIELDS, 1.0)}
    database["candle-items"].insert_many([{**shared, "timestamp": time} for time in times])
    shown = bkm("list")
    assert shown.exit_code == 0, shown.output
    assert str(START * 1_000) in shown.stdout


def test_check_names_each_gap_and_exits_with_its_own_code(data: Path) -> None:
    bkm("import", data, "--exchange", "csv")
    found = bkm("check")
    assert found.exit_code == ExitCode.DIFFERS
    assert "csv ABC/USDT 1h: 50 candles, no gaps\n" in found.stdout
    assert "csv EURUSD 1h: 32 candles, 50 missing in 2 gaps\n" in found.stdout
    assert "  2018-01-12 01:00 to 2018-01-12 02:00: 2\n  2018-01-12 22:00 to 2018-01-14 21:00: 48\n" in found.stdout
    assert "and 2 more" in bkm("check", "--gaps", "0").stdout
    assert bkm("check", "--symbol", "ABC/USDT").exit_code == 0


def test_check_expects_nothing_while_the_market_is_closed(data: Path) -> None:
    bkm("import", data, "--exchange", "csv")
    one = bkm_json("check", "--calendar", "forex", "--symbol", "EURUSD")[0]
    gap = {"first": START + 5 * HOUR, "last": START + 6 * HOUR, "count": 2}
    assert (one["gaps"], one["missing"], one["unexpected"]) == ([gap], 2, 0)
    assert bkm_json("check", "--calendar", "weekdays", "--symbol", "EURUSD")[0]["unexpected"] == 2
    other = bkm("check", "--calendar", "forex", "--symbol", "ABC/USDT").stdout
    assert "50 candles, 24 while the market is closed, no gaps" in other


def test_check_of_a_longer_range_counts_what_is_missing_at_its_ends(data: Path) -> None:
    bkm("import", data / "ABC%2FUSDT-1h.csv", "--exchange", "csv")
    bounds = ("--since", START - 2 * HOUR, "--until", "2018-01-14")
    one = bkm_json("check", "--symbol", "ABC/USDT", *bounds)[0]
    assert [gap["count"] for gap in one["gaps"]] == [2, 2]


def test_conflicts_shows_both_versions(data: Path, tmp_path: Path) -> None:
    assert "No conflicts." in bkm("conflicts").stdout
    bkm("import", data / "EURUSD-1h.csv.gz", "--exchange", "csv")
    other = tmp_path / "EURUSD-1h.csv"
    other.write_text(lines(2, 3, close=1.75))
    assert (
        "0 new, 2 known, 2 conflicts, see `bkm candles conflicts`" in bkm("import", other, "--exchange", "csv").stdout
    )
    rows = bkm_json("conflicts", "--symbol", "EURUSD")
    assert sorted(row["timestamp"] for row in rows) == [START + 2 * HOUR, START + 3 * HOUR]
    assert {(row["stored"]["close"], row["offered"]["close"], row["count"]) for row in rows} == {(1.5, 1.75, 1)}
    assert bkm_json("conflicts", "--exchange", "other") == []
    printed = bkm("conflicts").stdout
    assert "close 1.5 -> 1.75" in printed
    assert "2018-01-11 22:00" in printed


class Market:
    """An exchange with hours 0 to 99."""

    id = "fake"
    has: dict[str, Any] = {}  # noqa: RUF012 - never changed

    def fetch_ohlcv(self, symbol: str, timeframe: str, since: int | None, limit: int | None) -> Sequence[list[Any]]:
        assert since is not None
        if symbol != "BTC/USDT":
            raise FetchFailed("no such symbol")
        hours = [hour for hour in range(100) if START + hour * HOUR >= since]
        volume = None if timeframe == "2h" else 3.0
        return [[START + hour * HOUR, 1.0, 2.0, 0.5, 1.5, volume] for hour in hours][:limit]


@pytest.fixture
def market(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_source(exchange: str, symbol: str, interval: str, page: int | None) -> Source:
        return Source(Market(), symbol, interval, page or 20)

    monkeypatch.setattr(fetching, "open_source", open_source)


@pytest.mark.usefixtures("market")
def test_fetch_stores_what_is_missing_and_says_what_still_is() -> None:
    bounds = ("--from", "fake", "--interval", "1h", "--since", "2018-01-11T20:00", "--until", START + 110 * HOUR)
    first = bkm("fetch", "BTC/USDT", *bounds, "--as", "BTCUSDT", "--exchange", "binance")
    assert first.exit_code == 0, first.output
    assert first.stdout == "binance BTCUSDT 1h up to 2018-01-16 10:00: 100 new, 10 still missing (6 requests)\n"
    again = bkm("fetch", "BTC/USDT", *bounds, "--as", "BTCUSDT", "--exchange", "binance", "--page", 5)
    assert "0 new, 10 still missing (2 requests)" in again.stdout
    partly = bkm("fetch", "BTC/USDT", *bounds, "--interval", "2h", "--page", 500)
    assert partly.exit_code == ExitCode.FAILED
    assert "55 rows left out, volume: there is no value" in partly.stdout
    failed = bkm("fetch", "X", *bounds)
    assert (failed.exit_code, "no such symbol" in failed.stderr) == (ExitCode.FAILED, True)


def test_fetch_without_ccxt_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ccxt", None)
    result = bkm("fetch", "BTC/USDT", "--from", "binance", "--interval", "1h", "--since", "2018-01-11")
    assert result.exit_code == ExitCode.FAILED
    assert "backtest-kit-mongo[ccxt]" in result.stderr


def test_help_of_every_command_has_an_example() -> None:
    for command in ("import", "export", "list", "check", "conflicts", "fetch"):
        assert "bkm candles" in bkm(command, "--help").stdout
    assert "blocks" in bkm("--help").stdout
