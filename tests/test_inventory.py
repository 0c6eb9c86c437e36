"""`bkm ls`, `get` and `find` over real servers and files, and what Python says of the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import backtest_kit_mongo as bk
from backtest_kit_mongo.cli.main import app
from backtest_kit_mongo.testing.servers import Servers

KEY = ("BTC/USDT", "my_trend", "binance")
ROW = {"id": "s1", "symbol": "BTC/USDT", "priceOpen": 100.5, "minuteEstimatedTime": float("inf")}


def bkm(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def open_and_closed() -> None:
    bk.PersistSignalAdapter.write_signal_data(ROW, *KEY)
    bk.PersistSignalAdapter.write_signal_data(ROW, "ETH/USDT", *KEY[1:])
    bk.PersistSignalAdapter.write_signal_data(None, "ETH/USDT", *KEY[1:])


@pytest.fixture(params=["servers", "files"])
def at(
    request: pytest.FixtureRequest, tmp_path: Path, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, ...]]:
    """Where the commands look, after a position was opened and another one closed."""
    monkeypatch.chdir(tmp_path)
    if request.param == "files":
        bk.PersistSignalAdapter.use_json()
    else:
        servers: Servers = request.getfixturevalue("servers")
        monkeypatch.setenv("CC_MONGO_CONNECTION_STRING", servers.mongo_connection_string(new_database()))
        monkeypatch.setenv("CC_REDIS_HOST", servers.redis_host)
        monkeypatch.setenv("CC_REDIS_PORT", str(servers.redis_port))
        bk.setup()
    open_and_closed()
    yield ("--at", "dump") if request.param == "files" else ()
    bk.shutdown()


def test_open_positions_are_one_line_and_any_document_is_shown_with_its_place(at: tuple[str, ...]) -> None:
    try:
        listed = [bk.PersistSignalAdapter.read_signal_data(**one) for one in bk.PersistSignalAdapter.list_contexts()]
        (held,) = (one for one in bk.inventory(symbol="BTC/USDT") if one.domain == "signal")
        with bk.simulation_time(1_700_000_000_000), pytest.raises(bk.LookAhead):
            bk.PersistSignalAdapter.list_contexts()
        with pytest.raises(bk.InvalidKey, match="colour"):
            bk.PersistSignalAdapter.list_contexts(colour="red")
    finally:
        bk.shutdown()
    assert (listed, held.census and held.census.holding) == ([ROW], 1)

    (shown,) = map(json.loads, bkm("ls", "signal", "--json", *at).stdout.splitlines())
    assert (shown["key"], shown["rev"], shown["empty"]) == ("signal/BTC%2FUSDT/my_trend/binance", 1, False)
    assert "ETH%2FUSDT/my_trend/binance (cleared)" in bkm("ls", "signal", "--all", *at).stdout
    table = bkm("ls", *at).stdout.splitlines()
    assert max(map(len, table)) <= 80
    assert any(line.split()[1:7:2] == ["signal", "2", "1"] for line in table if "signal" in line)
    document = json.loads(bkm("get", "signal", *KEY, "--json", *at).stdout)
    assert document["value"] == {**ROW, "minuteEstimatedTime": {"$numberDouble": "Infinity"}}
    assert document["rev"] == 1
    assert document["cache"] in (None, "revision 1")  # A new database's cache is closed for one lease time.
    assert document["place"]
    assert bkm("find", "MY_TR", *at).stdout.splitlines() == [
        f"signal/{one}%2FUSDT/my_trend/binance" for one in ("BTC", "ETH")
    ]
    assert bkm("find", "100.5", "--values", *at).stdout.splitlines() == ["signal/BTC%2FUSDT/my_trend/binance"]
    for wrong, status in (
        (("find", "nothing-like-it"), 1),
        (("get", "signal", "X", "Y", "Z"), 1),
        (("ls", "sgnal"), 2),
    ):
        assert bkm(*wrong, *at).exit_code == status


def test_the_series_of_candles_are_listed_with_what_is_missing(at: tuple[str, ...]) -> None:
    row = {"open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1.0}
    for symbol, interval, opens in (("ETH", "1h", (0, 2)), ("BTC", "1d+16h", (16,)), ("BTC", "1m", (0,))):
        hours = [{**row, "timestamp": 1_704_067_200_000 + hour * 3_600_000} for hour in opens]
        bk.write_candles(symbol, interval, "okx", hours)
    found = bk.list_candles(exchange="okx")
    assert [(one.symbol, one.interval, one.candles, one.missing) for one in found] == [
        ("BTC", "1m", 1, 0), ("BTC", "1d+16h", 1, 0), ("ETH", "1h", 2, 1)
    ]  # fmt: skip
    assert found[2].last - found[2].first == 7_200_000
    assert bk.list_candles("BTC", "1m") == found[:1]
    assert bk.list_candles("SOL") == []
    with pytest.raises(bk.InvalidKey, match="one of 1s"):
        bk.list_candles(interval="7m")
