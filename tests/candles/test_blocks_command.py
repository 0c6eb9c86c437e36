"""`bkm candles blocks`: what it prints, what it mends, and how it exits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pymongo
import pytest
from pymongo.database import Database
from typer.testing import CliRunner, Result

from backtest_kit_mongo.backends.mongo.candles import MongoCandles
from backtest_kit_mongo.candles.codec import BLOCK_ROWS, encode_block
from backtest_kit_mongo.candles.columns import Columns, of_rows
from backtest_kit_mongo.candles.intervals import grid_of
from backtest_kit_mongo.candles.plans import FindRows, PutBlock
from backtest_kit_mongo.cli.candle_blocks import blocks
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.coherence.series import Append
from backtest_kit_mongo.domains.table import CANDLE
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.operate.compaction import BlockRange, ToDo, find_ranges, find_series

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("environment")]

STEP_MS = 60_000
GRID = grid_of("1m")
SPAN_MS = BLOCK_ROWS * STEP_MS
SCOPE = Key(CANDLE, ("binance", "BTC/USDT", "1m"))
OTHER = Key(CANDLE, ("binance", "ETH/USDT", "1m"))
Documents = Database[dict[str, Any]]


@pytest.fixture(scope="module")
def module_database(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Documents]:
    with pymongo.MongoClient[dict[str, Any]](servers.mongo_url, tz_aware=True) as client:
        yield client[f"{new_database()}_blocks"]


@pytest.fixture
def database(module_database: Documents) -> Iterator[Documents]:
    yield module_database
    for name in module_database.list_collection_names():
        module_database[name].delete_many({})


@pytest.fixture
def environment(servers: Endpoints, database: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC_MONGO_CONNECTION_STRING", servers.mongo_connection_string(database.name))
    monkeypatch.setenv("COLUMNS", "200")


def candles(*places: int) -> Columns:
    values = {"open": 2.0, "high": 3.0, "low": 1.0, "close": 2.5, "volume": 7}
    return of_rows([{"timestamp": place * STEP_MS, **values} for place in places])


def store(database: Documents, *places: int, scope: Key = SCOPE) -> None:
    MongoCandles(database, 10, 0).append(Append(scope, candles(*places), GRID))


def put(database: Documents, columns: Columns, start: int = 0) -> None:
    MongoCandles(database, 10, 0).put_block(PutBlock(SCOPE, GRID, encode_block(columns, start, GRID)))


def bkm(*arguments: str) -> Result:
    return CliRunner().invoke(blocks, list(arguments))


def test_series_and_ranges_are_found_without_reading_all_candles(database: Documents) -> None:
    store(database, -1, 0, 5, 3 * BLOCK_ROWS)
    store(database, 0, scope=OTHER)
    store(database, 0, scope=Key(CANDLE, ("kraken", "BTC/USDT", "1h")))
    for junk in ({"interval": "7m"}, {"interval": "1d", "timestamp": float("inf")}, {"symbol": 7}):
        database["candle-items"].insert_one({**SCOPE.query(), **junk})
    put(database, candles(9 * BLOCK_ROWS), 9 * SPAN_MS)
    assert [each.start // SPAN_MS for each in find_ranges(database, SCOPE)] == [-1, 0, 3, 9]
    assert find_ranges(database, Key(CANDLE, ("binance", "BTC/USDT", "1d"))) == []
    assert find_series(database, symbol="ETH/USDT") == [OTHER]
    assert find_series(database, "binance", interval="1m") == [SCOPE, OTHER]
    assert len(find_series(database)) == 4
    assert find_series(database, "kraken", "ETH/USDT", "1h") == []


def test_rebuild_makes_all_blocks_and_verify_finds_them_right(database: Documents) -> None:
    store(database, 0, 1, BLOCK_ROWS)
    store(database, 7, scope=OTHER)
    put(database, candles(0))
    done = bkm("rebuild")
    assert (done.exit_code, done.stdout) == (
        0,
        "3 blocks made, 0 wrong ones removed, 0 were right and whole\n",
    )
    checked = bkm("verify")
    assert (checked.exit_code, checked.stdout.splitlines()) == (
        0,
        ["3 blocks compared, 0 differ from their documents", "0 ranges have candles that are in documents only"],
    )


def test_rebuild_again_leaves_right_blocks_alone(database: Documents) -> None:
    store(database, 0, BLOCK_ROWS)
    bkm("rebuild")
    before = list(database["candle-blocks"].find())
    assert bkm("rebuild").stdout == "0 blocks made, 0 wrong ones removed, 2 were right and whole\n"
    assert list(database["candle-blocks"].find()) == before


def test_rebuild_goes_on_where_it_was_interrupted(database: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    store(database, 0, BLOCK_ROWS, 2 * BLOCK_ROWS)
    find_rows = MongoCandles.find_rows

    def interrupted(self: MongoCandles, effect: FindRows) -> Columns:
        if effect.ranges[0][0] == SPAN_MS:
            raise KeyboardInterrupt
        return find_rows(self, effect)

    with monkeypatch.context() as patched:
        patched.setattr(MongoCandles, "find_rows", interrupted)
        assert bkm("rebuild").exit_code != 0
    assert database["candle-blocks"].count_documents({}) == 1
    assert bkm("rebuild").stdout == "2 blocks made, 0 wrong ones removed, 1 were right and whole\n"


def test_only_the_chosen_series_are_rebuilt(database: Documents) -> None:
    store(database, 0)
    store(database, 0, scope=OTHER)
    assert bkm("rebuild", "--symbol", "ETH/USDT", "--exchange", "binance").exit_code == 0
    assert database["candle-blocks"].distinct("symbol") == ["ETH/USDT"]


@pytest.mark.parametrize("command", ["list", "rebuild", "verify"])
def test_naming_a_series_that_does_not_exist_is_an_error(database: Documents, command: str) -> None:
    store(database, 0)
    found = bkm(command, "--symbol", "BTCUSDT")
    assert found.exit_code == 1
    assert "no series of BTCUSDT" in found.stderr
    assert (bkm(command).exit_code, database["candle-items"].count_documents({})) == (0, 1)


def change_value(database: Documents) -> str:
    columns = candles(0, 1, 2)
    put(database, Columns(columns.timestamp, (columns.values[0] + [0, 1, 1], *columns.values[1:]), columns.integers))
    return "2 candle(s) have another open, the first opens at 60000: 3.0 instead of 2.0"


def invent_candle(database: Documents) -> str:
    put(database, candles(0, 1, 8))
    return "1 candle(s) are in no document, the first opens at 480000"


def forget_integers(database: Documents) -> str:
    columns = candles(0, 1, 2)
    put(database, Columns(columns.timestamp, columns.values, 0))
    return "integers are 00000 instead of 10000"


def damage(database: Documents) -> str:
    put(database, candles(0, 1, 2))
    database["candle-blocks"].update_one({}, {"$bit": {"checksum": {"xor": 1}}})
    return "CorruptBlock: block 0: "


def cut(database: Documents) -> str:
    put(database, candles(0, 1, 2))
    database["candle-blocks"].update_one({}, {"$unset": {"data": 1}})
    return "KeyError: 'data'"


def spoil_count(database: Documents) -> str:
    put(database, candles(0, 1, 2))
    database["candle-blocks"].update_one({}, {"$set": {"count": float("inf")}})
    return "OverflowError: "


def rename(database: Documents) -> str:
    put(database, candles(0, 1, 2))
    stored = database["candle-blocks"].find_one_and_delete({})
    assert stored is not None
    database["candle-blocks"].insert_one({**stored, "_id": "x"})
    return "its _id is 'x' and not 'binance:BTC"


def misplace(database: Documents) -> str:
    put(database, candles(0, 1, 2))
    stored = database["candle-blocks"].find_one_and_delete({})
    assert stored is not None
    database["candle-blocks"].insert_one({**stored, "_id": "x", "start": STEP_MS})
    return f"CorruptBlock: block {STEP_MS}"


@pytest.mark.parametrize(
    "spoil", [change_value, invent_candle, forget_integers, damage, cut, spoil_count, rename, misplace]
)
def test_a_block_that_differs_is_found_and_mended(database: Documents, spoil: Callable[[Documents], str]) -> None:
    store(database, 0, 1, 2)
    fault = spoil(database)
    found = bkm("verify")
    assert found.exit_code == 4
    assert f": {fault}" in found.stdout
    assert "1 differ from their documents" in found.stdout
    mended = bkm("rebuild")
    assert mended.exit_code == 0
    assert mended.stdout.startswith("1 blocks made, 1 wrong ones removed")
    assert fault in mended.stderr
    assert json.loads(bkm("verify", "--json").stdout) == {"blocks": 1, "notWhole": 0, "faults": []}


def test_a_block_whose_documents_are_gone_is_removed(database: Documents) -> None:
    put(database, candles(0, 1))
    faults = json.loads(bkm("verify", "--json").stdout)["faults"]
    assert [fault["fault"] for fault in faults] == ["2 candle(s) are in no document, the first opens at 0"]
    assert bkm("rebuild").stdout == "0 blocks made, 1 wrong ones removed, 0 were right and whole\n"
    assert database["candle-blocks"].count_documents({}) == 0


def test_a_block_that_lacks_candles_is_counted_and_no_fault(database: Documents) -> None:
    store(database, 0, 1, BLOCK_ROWS)
    put(database, candles(1))
    found = bkm("verify", "--json")
    assert (found.exit_code, json.loads(found.stdout)) == (0, {"blocks": 1, "notWhole": 2, "faults": []})


def test_list_shows_what_blocks_each_series_has(database: Documents) -> None:
    store(database, 0, 1, 2)
    store(database, 0, scope=OTHER)
    put(database, candles(0, 1))
    ToDo(database).add({BlockRange(SCOPE, 0): 1}, datetime.now(UTC))
    mine, other = map(json.loads, bkm("list", "--json").stdout.splitlines())
    assert (mine["exchange"], mine["symbol"], mine["interval"]) == SCOPE.parts
    assert (mine["blocks"], mine["candles"], mine["since"], mine["until"], mine["toDo"]) == (1, 2, 0, SPAN_MS, 1)
    assert mine["bytes"] > 2 * 40
    assert (other["symbol"], other["blocks"], other["since"], other["madeAt"]) == ("ETH/USDT", 0, None, None)
    shown = bkm("list").stdout
    assert "BTC/USDT" in shown
    assert "1970-01-06 16:32" in shown


def test_without_candles_there_is_nothing_to_do() -> None:
    assert "There are no candles." in bkm("list").stderr
    assert bkm("rebuild").stdout == "0 blocks made, 0 wrong ones removed, 0 were right and whole\n"
    assert bkm("verify").exit_code == 0
