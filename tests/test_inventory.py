"""`bkm ls`, `get` and `find` over real servers and files, and what Python says of the same."""

from __future__ import annotations

import json
from collections.abc import Callable
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
) -> tuple[str, ...]:
    """Where the commands look, after a position was opened and another one closed."""
    monkeypatch.chdir(tmp_path)
    if request.param == "files":
        bk.PersistSignalAdapter.use_json()
        open_and_closed()
        return "--at", "dump"
    servers: Servers = request.getfixturevalue("servers")
    monkeypatch.setenv("CC_MONGO_CONNECTION_STRING", servers.mongo_connection_string(new_database()))
    monkeypatch.setenv("CC_REDIS_HOST", servers.redis_host)
    monkeypatch.setenv("CC_REDIS_PORT", str(servers.redis_port))
    bk.setup()
    open_and_closed()
    return ()


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
