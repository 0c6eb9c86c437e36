"""Dumps that the original wrote are read: its layout, its names, its JSON, with what JSON lost put back."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any

import pytest

from backtest_kit_mongo.adapters import instances as i
from backtest_kit_mongo.backends.files.json import Stamp, seal
from backtest_kit_mongo.drivers.store import Store
from tests.backends.support import T

SIGNAL = {
    "id": "s1",
    "position": "long",
    "priceOpen": 100.5,
    "minuteEstimatedTime": None,
    "scheduledAt": T,
    "note": None,
}
SIGNAL_READ = {**SIGNAL, "minuteEstimatedTime": inf}
CANDLE = {"timestamp": T, "open": 1, "high": 2.5, "low": 0.5, "close": 2, "volume": 0}
INTERVAL = {
    "id": "k",
    "data": {"when": "2024-01-01T00:00:00.000Z"},
    "when": "2024-01-01T00:00:00.000Z",
    "removed": False,
}
MIDNIGHT = datetime(2024, 1, 1, tzinfo=UTC)
LOG = {
    "id": "l1",
    "type": "info",
    "timestamp": T,
    "executionContext": {"symbol": "B", "when": "2024-01-01T00:00:00.000Z"},
}
MEMORY = {"priority": T, "data": {"a": None}, "removed": False, "index": "a", "when": T}


def put(dump: Path, path: str, entity: Any) -> Path:
    """Write a file as Node does: `JSON.stringify`, nothing after it."""
    file = dump / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(entity, separators=(",", ":"), ensure_ascii=False), "utf-8")
    return file


Read = Callable[[Store], Any]
ORIGINALS: list[tuple[str, Any, Read, Any]] = [
    (f"data/candle/binance/BTCUSDT/1m/{T}.json", CANDLE,
     lambda s: i.CandleInstance(s, "BTCUSDT", "1m", "binance").read_candles_data(1, T, T), [CANDLE]),
    ("data/signal/BTC_trend_okx/BTC.json", SIGNAL,
     lambda s: i.SignalInstance(s, "BTC", "trend", "okx").read_signal_data(), SIGNAL_READ),
    ("data/signal/ETH_trend_okx/ETH.json", None,
     lambda s: i.SignalInstance(s, "ETH", "trend", "okx").read_signal_data(), None),
    ("data/schedule/BTC_trend_okx/BTC.json", SIGNAL,
     lambda s: i.ScheduleInstance(s, "BTC", "trend", "okx").read_schedule_data(), SIGNAL_READ),
    ("data/strategy/BTC_trend_okx/strategy.json", {"createdSignal": SIGNAL, "commitQueue": [], "closedSignal": None},
     lambda s: i.StrategyInstance(s, "BTC", "trend", "okx").read_strategy_data(),
     {"createdSignal": SIGNAL_READ, "commitQueue": [], "closedSignal": None}),
    ("data/risk/main_okx/positions.json", [["trend_okx_BTC", {"symbol": "BTC", "minuteEstimatedTime": None}]],
     lambda s: i.RiskInstance(s, "main", "okx").read_position_data(0),
     [["trend_okx_BTC", {"symbol": "BTC", "minuteEstimatedTime": inf}]]),
    ("data/partial/BTC_trend_okx/s1.json", {"s1": {"profitLevels": [10], "lossLevels": []}},
     lambda s: i.PartialInstance(s, "BTC", "trend", "okx").read_partial_data("s1", 0),
     {"s1": {"profitLevels": [10], "lossLevels": []}}),
    ("data/breakeven/BTC_trend_okx/s1.json", {"s1": {"reached": True}},
     lambda s: i.BreakevenInstance(s, "BTC", "trend", "okx").read_breakeven_data("s1", 0), {"s1": {"reached": True}}),
    ("data/storage/live/s1.json", {**SIGNAL, "status": "opened"},
     lambda s: i.StorageInstance(s, False).read_storage_data(), [{**SIGNAL_READ, "status": "opened"}]),
    ("data/notification/backtest/n1.json", {"id": "n1", "type": "risk.rejection", "minuteEstimatedTime": None},
     lambda s: i.NotificationInstance(s, True).read_notification_data(),
     [{"id": "n1", "type": "risk.rejection", "minuteEstimatedTime": inf}]),
    ("data/log/log/l1.json", LOG, lambda s: i.LogInstance(s).read_log_data(),
     [{**LOG, "executionContext": {"symbol": "B", "when": MIDNIGHT}}]),
    (f"data/measure/sma_1m_0/BTC_{T}.json", {"id": "k", "data": [1.5], "removed": False},
     lambda s: i.MeasureInstance(s, "sma_1m_0").read_measure_data(f"BTC_{T}"),
     {"id": "k", "data": [1.5], "removed": False}),
    ("data/interval/bucket/BTC_0.json", INTERVAL,
     lambda s: i.IntervalInstance(s, "bucket").read_interval_data("BTC_0", when=0), {**INTERVAL, "when": MIDNIGHT}),
    ("memory/s1/bucket/m1.json", MEMORY,
     lambda s: list(i.MemoryInstance(s, "s1", "bucket").list_memory_data(when=0)), [{"memoryId": "m1",
         "data": MEMORY}]),
    ("data/recent/BTC_trend_okx_2024_backtest/BTC.json", SIGNAL,
     lambda s: i.RecentInstance(s, "BTC", "trend", "okx", "2024", True).read_recent_data(), SIGNAL_READ),
    ("data/recent/BTC_trend_okx_live/BTC.json", SIGNAL,
     lambda s: i.RecentInstance(s, "BTC", "trend", "okx", "", False).read_recent_data(when=0), SIGNAL_READ),
    ("state/s1/main/main.json", {"id": "s1_main", "data": {"n": 1}, "when": T},
     lambda s: i.StateInstance(s, "s1", "main").read_state_data(when=0), {"id": "s1_main", "data": {"n": 1},
         "when": T}),
    ("dictionary/s1/words.json", {"id": "s1_words", "data": {"a": {"value": None, "when": T}}, "when": T},
     lambda s: i.DictionaryInstance(s, "s1", "words").read_dictionary_data(),
     {"id": "s1_words", "data": {"a": {"value": None, "when": T}}, "when": T}),
    ("session/trend/okx/2024/BTC_backtest.json", {"id": "x", "data": None, "when": T},
     lambda s: i.SessionInstance(s, "trend", "okx", "2024", "BTC", True).read_session_data(),
     {"id": "x", "data": None, "when": T}),
    ("session/trend/okx/BTC_live.json", {"id": "x", "data": {"a": 1}, "when": T},
     lambda s: i.SessionInstance(s, "trend", "okx", "", "BTC", False).read_session_data(),
     {"id": "x", "data": {"a": 1}, "when": T}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "entity", "read", "expected"), ORIGINALS, ids=[row[0] for row in ORIGINALS])
def test_a_file_of_the_original_is_read_with_its_infinities_and_dates(
    dump: Path, store: Store, path: str, entity: Any, read: Read, expected: Any
) -> None:
    file = put(dump, path, entity)
    before = file.read_bytes()
    assert read(store) == expected
    assert file.read_bytes() == before
    assert [p for p in dump.rglob("*") if p.is_file()] == [file]


LEGACY: list[tuple[str, Any, Read, Any]] = [
    ("data/signal/BTC_my_strategy_okx/BTC.json", SIGNAL,
     lambda s: i.SignalInstance(s, "BTC", "my_strategy", "okx").read_signal_data(), SIGNAL_READ),
    ("data/recent/BTC_my_strategy_okx_live/BTC.json", SIGNAL,
     lambda s: i.RecentInstance(s, "BTC", "my_strategy", "okx", "", False).read_recent_data(), SIGNAL_READ),
    (f"data/candle/okx/BTC/USDT:USDT/1m/{T}.json", CANDLE,
     lambda s: i.CandleInstance(s, "BTC/USDT:USDT", "1m", "okx").read_candles_data(1, T, T), [CANDLE]),
    ("data/measure/my:bucket/BTC:1.json", {"data": 1},
     lambda s: [i.MeasureInstance(s, "my:bucket").read_measure_data("BTC:1"),
                *i.MeasureInstance(s, "my:bucket").list_measure_data()], [{"data": 1}, "BTC:1"]),
    ("data/measure/bucket/BTC:1.json", {"data": 1},
     lambda s: list(i.MeasureInstance(s, "bucket").list_measure_data(limit=5)), ["BTC:1"]),
    ("data/storage/live/a:b.json", {"id": "a:b"},
     lambda s: i.StorageInstance(s, False).read_storage_data(), [{"id": "a:b"}]),
    ("session/my:strategy/okx/BTC/USDT_live.json", {"data": 1},
     lambda s: i.SessionInstance(s, "my:strategy", "okx", "", "BTC/USDT", False).read_session_data(), {"data": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "entity", "read", "expected"), LEGACY, ids=[row[0] for row in LEGACY])
def test_a_file_under_the_originals_unescaped_name_is_found(
    dump: Path, store: Store, path: str, entity: Any, read: Read, expected: Any
) -> None:
    put(dump, path, entity)
    assert read(store) == expected


def test_a_write_goes_to_the_escaped_name_and_hides_the_originals_file(dump: Path, store: Store) -> None:
    old = put(dump, "data/measure/bucket/BTC:1.json", {"data": "old", "removed": False})
    measures = i.MeasureInstance(store, "bucket")
    measures.write_measure_data({"data": "new", "removed": False}, "BTC:1", 0)
    assert measures.read_measure_data("BTC:1") == {"data": "new", "removed": False}
    assert list(measures.list_measure_data()) == ["BTC:1"]
    assert json.loads(old.read_text()) == {"data": "old", "removed": False}
    measures.remove_measure_data("BTC:1")
    assert measures.read_measure_data("BTC:1") is None
    assert list(measures.list_measure_data()) == []


def test_removing_a_document_of_the_original_hides_it_and_keeps_its_file(dump: Path, store: Store) -> None:
    old = put(dump, "data/measure/bucket/BTC:1.json", {"data": 1, "removed": False})
    measures = i.MeasureInstance(store, "bucket")
    measures.remove_measure_data("BTC:1")
    assert measures.read_measure_data("BTC:1") is None
    assert list(measures.list_measure_data()) == []
    assert old.exists()


def test_candles_of_the_original_count_as_stored_and_are_read_beside_ours(dump: Path, store: Store) -> None:
    put(dump, f"data/candle/okx/BTC/USDT/1m/{T}.json", {**CANDLE, "close": 1.25})
    series = i.CandleInstance(store, "BTC/USDT", "1m", "okx")
    following = {**CANDLE, "timestamp": T + 60_000}
    report = series.write_candles_data([CANDLE, following])
    assert (report.inserted, report.known) == (1, 1)
    assert series.read_candles_data(2, T, T) == [{**CANDLE, "close": 1.25}, following]
    assert store.window(series._context, 0, 2**53) == [{**CANDLE, "close": 1.25}, following]


def test_the_originals_way_to_join_names_never_leads_to_a_document_that_we_wrote(dump: Path, store: Store) -> None:
    # The name that the original gives to the second context is the one that we give to the first.
    i.RecentInstance(store, "BTC", "my", "strategy", "okx", False).write_recent_data({"id": "first"}, 0)
    assert (dump / "data/recent/BTC_my_strategy_okx_live/BTC.json").exists()
    assert i.RecentInstance(store, "BTC", "my_strategy", "okx", "", False).read_recent_data() is None
    i.MeasureInstance(store, "a:b").write_measure_data({"data": 1}, "c:d", 0)
    assert i.MeasureInstance(store, "a%3Ab").read_measure_data("c%3Ad") is None
    assert list(i.MeasureInstance(store, "a%3Ab").list_measure_data()) == []
    i.SessionInstance(store, "a", "b", "c", "BTC", False).write_session_data({"data": 1}, 0)
    assert i.SessionInstance(store, "a/b", "c", "", "BTC", False).read_session_data() is None


def test_what_node_rewrites_is_foreign_again_and_visible_at_any_time(dump: Path, store: Store) -> None:
    state = i.StateInstance(store, "s1", "main")
    state.write_state_data({"data": {"limit": inf}, "when": T}, T)
    assert state.read_state_data(when=T - 1) is None
    file = dump / "state/s1/main/main.json"
    put(dump, "state/s1/main/main.json", json.loads(file.read_text()) | {"data": {"limit": None}})
    assert state.read_state_data(when=T - 1) == {"data": {"limit": None}, "when": T}
    assert store.read(state._context).rev == 0


def test_node_sees_the_entity_and_nothing_else(dump: Path, store: Store) -> None:
    partials = i.PartialInstance(store, "BTC", "trend", "okx")
    partials.write_partial_data({"s1": {"profitLevels": [10], "lossLevels": []}}, "s1", T)
    content = (dump / "data/partial/BTC_trend_okx/s1.json").read_bytes()
    assert content.rstrip() == b'{"s1":{"profitLevels":[10],"lossLevels":[]}}'
    assert set(content[len(content.rstrip()) :]) <= set(b" \t\n")


SHARED = "data/signal/BTC_my_strategy_okx/BTC.json"


def signals(store: Store, strategy: str, exchange: str) -> i.SignalInstance:
    return i.SignalInstance(store, "BTC", strategy, exchange)


def test_a_part_with_an_underscore_is_written_where_the_original_looks_and_read_from_there(
    dump: Path, store: Store
) -> None:
    signals(store, "my_strategy", "okx").write_signal_data({**SIGNAL, "id": "ours"})
    assert json.loads((dump / SHARED).read_text())["id"] == "ours"
    put(dump, SHARED, {**SIGNAL, "id": "node's"})
    assert signals(store, "my_strategy", "okx").read_signal_data() == {**SIGNAL_READ, "id": "node's"}
    signals(store, "my_strategy", "okx").write_signal_data(None)
    assert json.loads((dump / SHARED).read_text()) is None
    i.SessionInstance(store, "a_b", "okx", "f_1", "BTC_USDT", False).write_session_data({"id": "x"}, 5)
    assert json.loads((dump / "session/a_b/okx/f_1/BTC_USDT_live.json").read_text()) == {"id": "x"}
    assert [path.suffix for path in dump.rglob("*") if path.is_file()] == [".json"] * 2


def test_a_second_key_of_the_same_name_is_kept_apart_and_said_so(
    dump: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = signals(store, "my_strategy", "okx"), signals(store, "my", "strategy_okx")
    first.write_signal_data({"id": "first"})
    assert second.read_signal_data() is None
    second.write_signal_data({"id": "second"})
    assert "signal/BTC/my/strategy_okx: another key has the same name" in caplog.text
    assert (first.read_signal_data(), second.read_signal_data()) == ({"id": "first"}, {"id": "second"})
    put(dump, SHARED, {"id": "node's"})
    assert (first.read_signal_data(), second.read_signal_data()) == ({"id": "node's"}, {"id": "second"})
    second.write_signal_data({"id": "again"})
    assert first.read_signal_data() == {"id": "node's"}


def test_a_file_that_the_original_rewrote_still_belongs_to_the_key_that_was_there_first(
    dump: Path, store: Store
) -> None:
    first, second = signals(store, "my_strategy", "okx"), signals(store, "my", "strategy_okx")
    first.write_signal_data({"id": "first"})
    put(dump, SHARED, {"id": "node's"})
    assert (first.read_signal_data(), second.read_signal_data()) == ({"id": "node's"}, None)
    second.write_signal_data({"id": "second"})
    assert (first.read_signal_data(), second.read_signal_data()) == ({"id": "node's"}, {"id": "second"})


def test_a_key_that_has_no_other_name_takes_it_over_and_the_first_one_keeps_its_value(dump: Path, store: Store) -> None:
    first = i.RecentInstance(store, "BTC", "my_strategy", "okx", "", False)
    plain = i.RecentInstance(store, "BTC", "my", "strategy", "okx", False)
    shared = dump / "data/recent/BTC_my_strategy_okx_live/BTC.json"
    first.write_recent_data({"id": "first"}, 5)
    assert shared.exists()
    assert plain.read_recent_data() is None
    plain.write_recent_data({"id": "plain"}, 5)
    assert json.loads(shared.read_text()) == {"id": "plain"}
    assert (first.read_recent_data(), plain.read_recent_data()) == ({"id": "first"}, {"id": "plain"})
    first.write_recent_data({"id": "again"}, 5)
    assert (first.read_recent_data(), plain.read_recent_data()) == ({"id": "again"}, {"id": "plain"})


def test_a_document_under_the_escaped_name_of_an_older_release_moves_where_the_original_sees_it(
    dump: Path, store: Store
) -> None:
    old = dump / "data/risk/my%5Frisk_okx/positions.json"
    old.parent.mkdir(parents=True)
    old.write_bytes(seal(b"[]", Stamp(4, 5)))
    risk = i.RiskInstance(store, "my_risk", "okx")
    assert (risk.read_position_data(5), store.read(risk._context).rev) == ([], 4)
    risk.write_position_data([["k", {"symbol": "BTC"}]], 6)
    assert not old.exists()
    assert json.loads((dump / "data/risk/my_risk_okx/positions.json").read_text()) == [["k", {"symbol": "BTC"}]]
    assert store.read(risk._context).rev == 5
