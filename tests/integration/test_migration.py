"""A dump comes into MongoDB whole, whoever wrote it and however often it is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.support import store_for
from typer.testing import CliRunner, Result

import backtest_kit_mongo as bk
from backtest_kit_mongo.cli.main import app
from backtest_kit_mongo.coherence.effects import Find
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import CANDLE, DOMAINS
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.stores import new_file_store
from backtest_kit_mongo.testing.examples import BASE_MS, candles
from backtest_kit_mongo.testing.servers import Servers

pytestmark = pytest.mark.live

SIGNAL = {"id": "s1", "symbol": "BTC", "strategyName": "my_trend", "exchangeName": "okx", "minuteEstimatedTime": None}
ROW = {"timestamp": BASE_MS, "type": "info"}
ROWS = 200


def dump_of_the_original(dump: Path) -> None:
    """By the rules of the npm package: JSON.stringify, parts joined with `_` as they are, infinity as null."""
    files: dict[str, Any] = {
        "data/signal/BTC_my_trend_okx/BTC.json": SIGNAL,
        "data/signal/ETH_my_trend_okx/ETH.json": None,
        "data/strategy/BTC_my_trend_okx/strategy.json": {"isPaused": False, "retryOpenCount": 0},
        "data/risk/main_okx/positions.json": [["my_trend_okx_BTC", {"symbol": "BTC", "openTimestamp": BASE_MS}]],
        "data/partial/BTC_trend_okx/s_1.json": {"s_1": {"profitLevels": [10], "lossLevels": []}},
        "data/storage/live/s_1.json": {**SIGNAL, "id": "s_1", "status": "opened"},
        "data/measure/my_bucket_1h_0/BTC_170.json": {"id": "BTC_170", "data": 1.5, "removed": True},
        "data/interval/b/k.json": {"id": "k", "data": 1, "when": "2024-01-01T00:00:00.000Z", "removed": False},
        "memory/s_1/my_bucket/m_1.json": {"priority": 1, "data": {"a": 1}, "removed": False, "index": "a", "when": 5},
        "data/recent/BTC_my_trend_okx_live/BTC.json": {**SIGNAL, "timestamp": BASE_MS},
        "state/s_1/my_bucket/my_bucket.json": {"id": "s_1_my_bucket", "data": {"n": 1}, "when": 5},
        "session/my_trend/okx/BTC_live.json": {"id": "x", "data": {"n": 1}, "when": 5},
        "session/my_trend/okx/frame_1/BTC_backtest.json": {"id": "x", "data": {"n": 2}, "when": 5},
    }
    files |= {f"data/candle/okx/BTC/1m/{row['timestamp']}.json": row for row in candles(30)}
    files |= {f"data/log/log/l_{number}.json": {**ROW, "id": f"l_{number}"} for number in range(ROWS)}
    for name, entity in files.items():
        (dump / name).parent.mkdir(parents=True, exist_ok=True)
        (dump / name).write_text(json.dumps(entity, separators=(",", ":")), "utf-8")


def bkm(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def database(servers: Servers, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    name = f"{new_database()}_migration"
    monkeypatch.setenv("CC_MONGO_CONNECTION_STRING", servers.mongo_connection_string(name))
    monkeypatch.setenv("CC_REDIS_HOST", servers.redis_host)
    monkeypatch.setenv("CC_REDIS_PORT", str(servers.redis_port))
    monkeypatch.chdir(tmp_path)
    return name


def holdings(store: Store) -> dict[Key, Any]:
    """Every document with what a reader gets of it, and every candle."""
    store.open()
    found: dict[Key, Any] = {}
    for domain in DOMAINS:
        for entry in store.browse(domain):
            if domain is CANDLE:
                found[entry.key] = store.window(entry.key, 0, 2**53)
            else:
                record = store.truth.find(Find(entry.key))
                found[entry.key] = (record.payload, record.when, record.removed)
    return found


def killed_when_it_has(store: Store, count: int) -> None:
    """A migration that is killed as soon as so much has come."""
    code = "from backtest_kit_mongo.cli.main import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, "migrate", "dump"], stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None and sum(store.census(domain).documents for domain in DOMAINS) < count:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_dump_of_the_original_comes_whole_though_it_is_killed_twice(database: str, servers: Servers) -> None:
    dump_of_the_original(Path("dump"))
    planned = json.loads(bkm("migrate", "dump", "--dry-run", "--json").stdout)["domains"]
    assert (planned["log"]["brought"], planned["candle"]["brought"], planned["signal"]["brought"]) == (ROWS, 30, 2)
    with store_for(servers, database) as store:  # type: ignore[arg-type]
        assert not any(store.census(domain).documents for domain in DOMAINS)
        for count in (3, 8):
            killed_when_it_has(store, count)
        done = bkm("migrate", "dump", "--json")
        assert done.exit_code == 0, done.output
        assert holdings(store) == holdings(new_file_store(Path("dump")))
        assert {**SIGNAL, "minuteEstimatedTime": float("inf")} in [payload[0] for payload in holdings(store).values()]
        again = json.loads(bkm("migrate", "dump", "--json").stdout)["domains"]
        assert {(one["found"] - one["there"], one["brought"]) for one in again.values()} == {(0, 0)}

        # And out again: the original finds each under the name that it looks for.
        assert bkm("migrate", str(os.environ["CC_MONGO_CONNECTION_STRING"]), "out").exit_code == 0
        names = [{str(path.relative_to(at)) for path in Path(at).rglob("*.json")} for at in ("dump", "out")]
        assert names[1] == {name for name in names[0] if "/candle/" not in name}  # Those are in blocks.
        assert holdings(new_file_store(Path("out"))) == holdings(store)


def test_what_cannot_be_brought_is_named_and_other_values_stay_unless_they_are_not_wanted(database: str) -> None:
    dump_of_the_original(Path("dump"))
    for name, text in {
        "data/signal/BTC_a_b_okx/BTC.json": "null",
        "data/schedule/BTC_t_okx/BTC.json": '{"id":',
        "data/log/log/l_0.json": "[1]",
        "report/backtest.json": "{}",
    }.items():
        Path("dump", name).parent.mkdir(parents=True, exist_ok=True)
        Path("dump", name).write_text(text)
    bk.setup()
    try:
        bk.PersistStateAdapter.write_state_data({"data": {"n": 9}}, "s_1", "my_bucket", when=5)
        found = bkm("migrate", "dump", "--json")
        report = json.loads(found.stdout)
        left = [one for domain in report["domains"].values() for one in domain["left"]] + report["left"]
        assert found.exit_code == 1
        assert {one["what"] if isinstance(one, dict) else one[0] for one in left} == {
            "data/signal/BTC_a_b_okx/BTC.json", "schedule/BTC/t/okx", "log/l_0", "report/backtest.json",
        }  # fmt: skip
        assert report["domains"]["state"]["differ"] == ["state/s_1/my_bucket"]
        assert bk.PersistStateAdapter.read_state_data("s_1", "my_bucket") == {"data": {"n": 9}}
        for name in ("data/schedule/BTC_t_okx/BTC.json", "data/log/log/l_0.json", "report/backtest.json"):
            Path("dump", name).unlink()
        Path("names.json").write_text('{"strategyName": ["a_b", "my_trend", "trend"]}')
        assert bkm("migrate", "dump", "--contexts", "names.json").exit_code == 4
        assert ("BTC", "a_b", "okx") in [one.key.parts for one in bk.PersistSignalAdapter.entries()]
        assert bkm("migrate", "dump", "--contexts", "names.json", "--overwrite").exit_code == 0
        assert bk.PersistStateAdapter.read_state_data("s_1", "my_bucket") == {
            "id": "s_1_my_bucket", "data": {"n": 1}, "when": 5,
        }  # fmt: skip
    finally:
        bk.shutdown()


def test_an_open_position_moves_from_files_to_mongodb(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    position = {"id": "p1", "symbol": "BTC/USDT", "priceOpen": 1.5, "minuteEstimatedTime": float("inf")}
    key = ("BTC/USDT", "my_trend", "binance")
    with monkeypatch.context() as without_servers:
        without_servers.delenv("CC_MONGO_CONNECTION_STRING")
        bk.PersistSignalAdapter.write_signal_data(position, *key)
    assert bkm("migrate", "dump").exit_code == 0
    bk.setup()
    try:
        assert bk.PersistSignalAdapter.read_signal_data(*key) == position
    finally:
        bk.shutdown()


@pytest.mark.usefixtures("database")
def test_whoever_sets_up_before_he_migrates_hears_of_the_positions_that_stay_in_files(
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = ("BTC", "my_trend", "okx")
    bk.PersistSignalAdapter.use_json()
    bk.PersistSignalAdapter.write_signal_data(SIGNAL, *context)
    bk.shutdown()
    for is_migrated in (False, True):
        if is_migrated:
            assert bkm("migrate", "./dump").exit_code == 0
        caplog.clear()
        bk.setup()
        assert any("bkm migrate" in record.message for record in caplog.records) is not is_migrated
        assert (bk.PersistSignalAdapter.read_signal_data(*context) is not None) is is_migrated
        bk.shutdown()
