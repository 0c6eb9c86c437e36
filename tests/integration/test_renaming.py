"""A strategy under another name: everything goes on under it, and who, when and why is recorded."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from tests.integration.test_backup import bed, run, served
from tests.integration.test_deletion import write
from tests.worker.recovery_support import Bed

from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import LOG, PARTIAL, RISK, RUN, SIGNAL, STATE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.operate import renaming
from backtest_kit_mongo.stores import new_file_store
from backtest_kit_mongo.testing.examples import example

pytestmark = pytest.mark.live
__all__ = ["bed"]
OPEN = Key(SIGNAL, ("ETH/USDT", "trend", "binance"))
BOOK = Key(RISK, ("swing", "binance"))
OWNED = Key(STATE, ("ETH/USDT:trend:binance:live", "state"))


def held(store: Store, strategy: str) -> list[Key]:
    """Of a strategy with an open position: everything that has its name."""
    keys = write(store, strategy)
    position = {**example(RISK)[0][1], "strategyName": strategy}
    for key, payload in (
        (OPEN._replace(parts=("ETH/USDT", strategy, "binance")), {**example(SIGNAL), "strategyName": strategy}),
        (BOOK, [[f"{strategy}_binance_ETH/USDT", position], ["other_binance_ETH/USDT", {"strategyName": "other"}]]),
        (Key(STATE, (f"ETH/USDT:{strategy}:binance:live", "state")), {"data": {"of": strategy}}),
        (Key(RUN, ("r1",)), {"kind": "run", "data": {"strategy": strategy}}),
    ):
        store.write(make_change(key, payload, 7 if key.domain.has_when else None))
        keys.append(key)
    return keys


@pytest.mark.parametrize("backend", ["mongo", "files"])
def test_a_strategy_goes_on_under_its_new_name_and_what_keeps_the_old_one_is_said(
    bed: Bed, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bed.store if backend == "mongo" else new_file_store(tmp_path / "dump")
    at = () if backend == "mongo" else ("--at", tmp_path / "dump")
    keys, others = held(store, "trend"), write(store, "trend2")
    odd = {"symbol": "ODD", "strategyName": "trend", "exchangeName": "binance", "payload": ObjectId()}
    bed.mongo["signal-items"].insert_one(odd)
    bed.mongo["risk-items"].insert_one({"riskName": "ODD", "exchangeName": "binance", "positions": {"no": "book"}})
    before, of_others = served(store, keys), served(store, others)
    command = ("rename", "--strategy", "trend", "swing:v2", "--why", "a second one comes", *at)
    planned = json.loads(run(*command, "--dry-run", "--json"))
    assert served(store, keys) == before
    assert any("log/" in one["key"] for one in planned["left"])
    assert ["signal/ODD/trend/binance"] * (backend == "mongo") == [
        one["key"] for one in planned["left"] if "what this package stores" in one["why"] and "risk" not in one["key"]
    ]
    assert {"run/r1", "state/ETH%2FUSDT:swing%253Av2:binance:live/state"} <= {one["key"] for one in planned["left"]}

    with monkeypatch.context() as patch:
        patch.setattr(renaming, "delete", lambda *_: 1 / 0)  # It dies between the two halves.
        run(*command, "--yes", status=1)
    assert "renamed" in run(*command, "--yes")

    new = {key: _moved(key) for key in keys}
    after = served(store, [*keys, *new.values()])
    for key, target in new.items():
        if key.domain in (LOG, RUN):
            assert after[key] == before[key]
            continue
        if target != key:
            assert after[key] is None, key
        assert after[target] == json.loads(_text(before[key])), key
    assert after[BOOK][0] == ["swing:v2_binance_ETH/USDT", {**before[BOOK][0][1], "strategyName": "swing:v2"}]
    assert served(store, others) == of_others
    assert "nothing is to be renamed" in run(*command, "--yes")
    if backend == "mongo":
        bed.catch_up()
        deleted = bed.records(operation="delete")
        assert {tuple(one["key"]) for one in deleted} == {k.parts for k, target in new.items() if target != k}
        assert all("renamed to swing:v2: a second one comes" in one["payload"]["why"] for one in deleted)


def _moved(key: Key) -> Key:
    if key == OWNED:
        return key._replace(parts=("ETH/USDT:swing%3Av2:binance:live", "state"))
    return key._replace(parts=tuple("swing:v2" if part == "trend" else part for part in key.parts))


def _text(payload: Any) -> str:
    return (
        json.dumps(payload, default=str)
        .replace('"strategyName": "trend"', '"strategyName": "swing:v2"')
        .replace('"trend_binance', '"swing:v2_binance')
    )


def test_nothing_is_renamed_while_it_runs_or_where_the_new_name_is_taken(bed: Bed) -> None:
    keys = held(bed.store, "trend")
    before = served(bed.store, keys)
    command = ("rename", "--strategy", "trend", "trend2", "--yes")
    lease = {
        "_id": "context/live/binance/ETH%2FUSDT/trend",
        "holder": "host/1",
        "until": datetime.now(UTC) + timedelta(1),
    }
    bed.mongo["engine-leases"].insert_one(lease)
    assert "stop the strategy" in run(*command, status=2)
    bed.mongo["engine-leases"].delete_many({})
    taken = Key(PARTIAL, ("BTC/USDT", "trend2", "binance", "trend-3"))
    bed.store.write(make_change(taken, {"y": {"profitLevels": [20], "lossLevels": []}}, 1))
    assert "documents of its own" in run(*command, status=2)
    assert served(bed.store, keys) == before
