"""What may be stored, under which names, and what comes back from encodings that lose something."""

import inspect
import json
from copy import deepcopy
from datetime import UTC, datetime
from math import inf, nan
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from backtest_kit_mongo.domains import payloads
from backtest_kit_mongo.domains.payloads import (
    NOTIFICATION_VARIANTS,
    CandleData,
    LogEntry,
    NotificationModel,
    Payload,
    PublicSignalRow,
    SignalDto,
    SignalRow,
    StorageSignalRow,
    StrategyData,
    check,
    dump,
    restoration,
    restore,
)

MS = 1_736_942_400_000
WHEN = datetime(2025, 1, 15, 12, tzinfo=UTC)
PNL = {"pnlPercentage": 1.5, "priceOpen": 42_000.5, "priceClose": 42_630.5, "pnlCost": 1.5, "pnlEntries": 100}
DTO = {
    "id": "s1", "symbol": "BTC/USDT", "position": "long", "note": "breakout", "priceOpen": 42_000.5,
    "priceTakeProfit": 43_000,
    "priceStopLoss": 41_000.5, "minuteEstimatedTime": inf, "cost": 100, "multiplier": 1, "isolated": True,
}  # fmt: skip
SIGNAL = DTO | {
    "exchangeName": "binance", "strategyName": "alpha", "frameName": "", "scheduledAt": MS, "pendingAt": MS,
    "timestamp": MS,
    "_isScheduled": False,
    "_partial": [
        {"type": "profit", "percent": 25, "currentPrice": 42_500.5, "costBasisAtClose": 100, "entryCountAtClose": 1,
        "timestamp": MS}
    ],
    "_entry": [{"price": 42_000.5, "cost": 100, "timestamp": MS}],
    "_trailingPriceStopLoss": 41_500.5, "_trailingPriceTakeProfit": 42_900.5,
    "_peak": PNL | {"price": 42_700.5, "timestamp": MS}, "_fall": PNL | {"price": 41_900.5, "timestamp": MS},
}  # fmt: skip
PUBLIC = SIGNAL | {
    "originalPriceStopLoss": 41_000.5, "originalPriceTakeProfit": 43_000, "originalPriceOpen": 42_000.5,
    "partialExecuted": 25,
    "totalEntries": 1, "totalPartials": 1, "pnl": PNL, "peakProfit": PNL, "maxDrawdown": PNL,
}  # fmt: skip
STRATEGY = {
    "pendingSignalId": "s1", "lastPendingId": None, "createdSignal": DTO,
    "commitQueue": [
        {"action": "partial-profit", "symbol": "BTC", "backtest": False, "percentToClose": 50,
        "currentPrice": 42_000.5},
        {"action": "partial-loss", "symbol": "BTC", "backtest": False, "percentToClose": 50, "currentPrice": 42_000.5},
        {"action": "breakeven", "symbol": "BTC", "backtest": False, "currentPrice": 42_000.5},
        {"action": "average-buy", "symbol": "BTC", "backtest": False, "currentPrice": 42_000.5, "cost": 100,
        "totalEntries": 2},
        {"action": "trailing-stop", "symbol": "BTC", "backtest": False, "percentShift": -0.5, "currentPrice": 42_000.5},
        {"action": "trailing-take", "symbol": "BTC", "backtest": False, "percentShift": 0.5, "currentPrice": 42_000.5},
        {"action": "activate-scheduled", "symbol": "BTC", "backtest": False, "signalId": "s1", "activateId": "a1"},
    ],
    "closedSignal": SIGNAL | {"closeId": "c1", "closeNote": "why"},
    "cancelledSignal": SIGNAL | {"cancelId": "c1", "cancelNote": "why"},
    "activatedSignal": SIGNAL | {"activateId": "a1", "activateNote": "why"},
    "takeProfitSignal": None, "stopLossSignal": SIGNAL, "retryOpenSignal": SIGNAL,
    "retryOpenCount": 1, "retryCloseCount": 0, "isPaused": False,
}  # fmt: skip
POSITION = {
    "strategyName": "alpha", "exchangeName": "binance", "frameName": "", "symbol": "BTC", "position": "short",
    "priceOpen": 42_000.5,
    "priceStopLoss": 43_000, "priceTakeProfit": 41_000, "minuteEstimatedTime": inf, "openTimestamp": MS,
}  # fmt: skip
NOTIFICATION = {
    "id": "n1", "type": "signal.closed", "timestamp": MS, "backtest": False, "symbol": "BTC", "strategyName": "alpha",
    "exchangeName": "binance", "signalId": "s1", "position": "long", "note": "why", "currentPrice": 42_000.5,
    "priceOpen": 42_000.5,
    "priceTakeProfit": 43_000, "priceStopLoss": 41_000, "originalPriceTakeProfit": 43_000,
    "originalPriceStopLoss": 41_000,
    "originalPriceOpen": 42_000.5, "totalEntries": 1, "totalPartials": 0, "minuteEstimatedTime": inf, "cost": 100,
    "multiplier": 1,
    "isolated": True, "pnl": PNL, "peakProfit": PNL, "maxDrawdown": PNL, "pnlPercentage": 1.5, "pnlPriceOpen": 42_000.5,
    "pnlPriceClose": 42_630.5, "pnlCost": 1.5, "pnlEntries": 100, "peakProfitPriceOpen": 42_000.5,
    "peakProfitPriceClose": 42_630.5,
    "peakProfitCost": 1.5, "peakProfitPercentage": 1.5, "peakProfitEntries": 100, "maxDrawdownPriceOpen": 42_000.5,
    "maxDrawdownPriceClose": 41_900.5, "maxDrawdownCost": -0.5, "maxDrawdownPercentage": -0.5,
    "maxDrawdownEntries": 100,
    "scheduledAt": MS, "pendingAt": MS, "createdAt": MS, "priceClose": 42_630.5, "closeReason": "take_profit",
    "duration": 90,
}  # fmt: skip
LOG = {
    "id": "l1", "type": "info", "priority": MS, "createdAt": "2025-01-15T12:00:00.000Z", "timestamp": MS,
    "methodContext": {"exchangeName": "binance", "strategyName": "alpha", "frameName": ""},
    "executionContext": {"symbol": "BTC", "when": WHEN, "backtest": True}, "topic": "t", "args": [1, "x", {"y": None}],
}  # fmt: skip
CANDLE = {"timestamp": MS, "open": 1.5, "high": 2.5, "low": 0.5, "close": 2, "volume": 10.25}
FREE = {"timestamp": 1.0, "when": "2025-01-15T12:00:00.000Z", "minuteEstimatedTime": None}
"""Free-form data full of what elsewhere would be restored."""

SAMPLES: dict[str, Any] = {
    "SignalDto": DTO,
    "SignalRow": SIGNAL,
    "ScheduledSignalRow": SIGNAL,
    "PublicSignalRow": PUBLIC,
    "StorageSignalRow": PUBLIC | {
        "createdAt": MS, "updatedAt": MS, "priority": MS, "status": "closed", "currentPrice": 42_630.5,
        "closeReason": "take_profit",
        "closeTimestamp": MS,
    },
    "StrategyData": STRATEGY,
    "RiskData": [["alpha_binance_BTC", POSITION]],
    "PartialData": {"s1": {"profitLevels": [10, 20], "lossLevels": []}},
    "BreakevenData": {"s1": {"reached": True}},
    "CandleData": CANDLE,
    "MeasureData": {"id": "k", "data": FREE, "removed": False},
    "IntervalData": {"id": "k", "data": FREE, "removed": False, "when": WHEN},
    "MemoryData": {"priority": MS, "data": FREE, "removed": False, "index": "words", "when": MS},
    "StateData": {"id": "s1_b", "data": FREE, "when": MS},
    "SessionData": {"id": "BTC:alpha:binance:live", "data": None, "when": MS},
    "DictionaryData": {"id": "s1_d", "data": {"k": {"value": FREE, "when": MS}}, "when": MS},
    "LogEntry": LOG,
    "NotificationModel": NOTIFICATION,
}  # fmt: skip
"""Every payload with every field of its type, as a Python engine gives it."""

MODELS = sorted(
    (tp for name in payloads.__all__ if isinstance(tp := getattr(payloads, name), type) and issubclass(tp, Payload)),
    key=lambda model: model.__name__,
)


def model_of(name: str) -> Any:
    return getattr(payloads, name)


def refusals(tp: Any, payload: object) -> dict[tuple[int | str, ...], str]:
    """Place -> kind of error; fails unless the payload is refused."""
    with pytest.raises(ValidationError) as caught:
        check(tp, payload)
    return {error["loc"]: error["type"] for error in caught.value.errors()}


class TestNames:
    @pytest.mark.parametrize(
        "name", sorted(SAMPLES.keys() & {model.__name__ for model in MODELS} - {"NotificationModel"})
    )
    def test_every_stored_name_of_the_original_is_a_known_field(self, name: str) -> None:
        model: type[Payload] = model_of(name)
        assert SAMPLES[name].keys() == {field.alias for field in model.model_fields.values()}

    def test_a_notification_knows_the_shared_block_and_its_variant_adds_the_rest(self) -> None:
        shared = {field.alias for field in NotificationModel.model_fields.values()}
        assert NOTIFICATION.keys() - shared == NOTIFICATION_VARIANTS["signal.closed"].keys()
        assert shared <= NOTIFICATION.keys()

    def test_there_are_31_variants_and_none_repeats_a_shared_field(self) -> None:
        shared = {field.alias for field in NotificationModel.model_fields.values()}
        assert len(NOTIFICATION_VARIANTS) == 31
        assert not [variant for variant, fields in NOTIFICATION_VARIANTS.items() if shared & fields.keys()]

    def test_python_names_are_snake_case_without_leading_underscore(self) -> None:
        row = SignalRow.model_validate(SIGNAL)
        assert row.is_scheduled is False
        assert row.price_take_profit == 43_000
        assert row.trailing_price_stop_loss == 41_500.5
        assert row.partial is not None
        assert row.partial[0].entry_count_at_close == 1
        assert row.peak is not None
        assert (row.peak.pnl_percentage, row.peak.timestamp) == (1.5, MS)

    @pytest.mark.parametrize("model", MODELS)
    def test_every_model_says_what_it_is(self, model: type[Payload]) -> None:
        assert model.__doc__ != Payload.__doc__ or model is Payload
        assert inspect.getdoc(model)


class TestAbsence:
    @pytest.mark.parametrize("model", MODELS)
    def test_only_list_ids_candle_columns_and_commit_actions_are_required(self, model: type[Payload]) -> None:
        required = {field.alias for field in model.model_fields.values() if field.is_required()}
        if model is CandleData:
            assert required == {"timestamp", "open", "high", "low", "close", "volume"}
        elif model in (StorageSignalRow, NotificationModel, LogEntry):
            assert required == {"id"}
        else:
            assert required == ({"action"} if model.__name__.endswith("Commit") else set())

    @pytest.mark.parametrize("name", ["RiskData", "PartialData", "BreakevenData"])
    def test_an_empty_collection_fits(self, name: str) -> None:
        check(model_of(name), [] if name == "RiskData" else {})

    def test_null_fits_where_absence_does(self) -> None:
        check(SignalRow, dict.fromkeys(SIGNAL))
        check(SignalRow | None, None)

    def test_null_is_not_a_list_id(self) -> None:
        assert refusals(LogEntry, LOG | {"id": None}) == {("id",): "string_type"}
        assert refusals(NotificationModel, {"type": None}) == {("id",): "missing", ("type",): "string_type"}


class TestWrongType:
    @pytest.mark.parametrize("name", SAMPLES)
    def test_a_complete_payload_fits_and_is_not_touched(self, name: str) -> None:
        payload = deepcopy(SAMPLES[name])
        check(model_of(name), payload)
        assert payload == SAMPLES[name]

    @pytest.mark.parametrize("value", [inf, -inf, nan, "42000", True, [1.0]])
    def test_a_price_is_a_finite_number(self, value: object) -> None:
        assert refusals(SignalRow, SIGNAL | {"priceOpen": value}).keys() == {("priceOpen",)}

    @pytest.mark.parametrize("value", [float(MS), str(MS), True, WHEN])
    def test_a_time_is_an_integer(self, value: object) -> None:
        assert refusals(SignalRow, SIGNAL | {"pendingAt": value}) == {("pendingAt",): "int_type"}

    @pytest.mark.parametrize("value", [nan, -inf, "60", False])
    def test_a_lifetime_is_a_number_of_minutes_or_infinity(self, value: object) -> None:
        assert refusals(SignalDto, DTO | {"minuteEstimatedTime": value}).keys() == {("minuteEstimatedTime",)}

    @pytest.mark.parametrize("value", [nan, inf, -inf, 0, -1.5])
    def test_a_result_is_any_number(self, value: float) -> None:
        check(PublicSignalRow, {"pnl": {"pnlPercentage": value}})

    @pytest.mark.parametrize("value", [0, 1, "true"])
    def test_a_flag_is_a_bool(self, value: object) -> None:
        assert refusals(SignalRow, {"_isScheduled": value}) == {("_isScheduled",): "bool_type"}

    def test_an_unknown_position_log_type_or_commit_action_is_refused(self) -> None:
        assert refusals(SignalRow, {"position": "up"}) == {("position",): "literal_error"}
        assert refusals(LogEntry, LOG | {"type": "fatal"}) == {("type",): "literal_error"}
        assert refusals(StrategyData, {"commitQueue": [{"action": "explode"}]}) == {
            ("commitQueue", 0): "union_tag_invalid"
        }
        assert refusals(StrategyData, {"commitQueue": [{"symbol": "BTC"}]}) == {
            ("commitQueue", 0): "union_tag_not_found"
        }

    def test_a_commit_is_checked_by_its_action(self) -> None:
        queue = [{"action": "breakeven", "currentPrice": nan}, {"action": "trailing-stop", "percentShift": "1"}]
        assert refusals(StrategyData, {"commitQueue": queue}) == {
            ("commitQueue", 0, "breakeven", "currentPrice"): "finite_number",
            ("commitQueue", 1, "trailing-stop", "percentShift"): "float_type",
        }

    def test_a_nested_row_is_as_strict_as_its_own(self) -> None:
        found = refusals(StrategyData, {"retryOpenSignal": {"_peak": {"timestamp": 1.0}}})
        assert found == {("retryOpenSignal", "_peak", "timestamp"): "int_type"}

    @pytest.mark.parametrize("column", CANDLE)
    @pytest.mark.parametrize("value", [nan, "1", None, True])
    def test_a_candle_column_is_a_finite_number(self, column: str, value: object) -> None:
        assert refusals(CandleData, CANDLE | {column: value}).keys() == {(column,)}

    def test_a_candle_spans_upwards_from_its_low_and_opens_after_the_epoch_began(self) -> None:
        assert refusals(CandleData, CANDLE | {"high": 0.25}) == {(): "candle_range"}
        assert refusals(CandleData, CANDLE | {"timestamp": -1}) == {("timestamp",): "greater_than_equal"}
        assert refusals(CandleData, CANDLE | {"close": 1_000_000.5}) == {(): "candle_range"}
        assert refusals(CandleData, CANDLE | {"volume": -0.5}) == {("volume",): "greater_than_equal"}
        check(CandleData, CANDLE | dict.fromkeys(("open", "high", "low", "close"), 1) | {"timestamp": 0})

    def test_a_risk_position_is_a_pair(self) -> None:
        check(payloads.RiskData, [("key", POSITION)])
        assert refusals(payloads.RiskData, [["key"]]) == {(0, 1): "missing"}
        assert refusals(payloads.RiskData, [[1, POSITION]]) == {(0, 0): "string_type"}
        assert refusals(payloads.RiskData, {"key": POSITION}) == {(): "list_type"}

    def test_levels_are_integers(self) -> None:
        assert refusals(payloads.PartialData, {"s1": {"profitLevels": [10.0]}}) == {
            ("s1", "profitLevels", 0): "int_type"
        }


class TestNotificationVariants:
    def test_what_a_variant_adds_has_its_type(self) -> None:
        wrong = {"id": "n1", "type": "order_reject.open", "attempt": "1", "message": 2, "orderType": "active"}
        assert refusals(NotificationModel, wrong) == {("attempt",): "int_type", ("message",): "string_type"}

    def test_what_another_variant_adds_is_an_unknown_field_and_kept(self) -> None:
        check(NotificationModel, {"id": "n1", "type": "signal.opened", "attempt": "first"})

    def test_an_unknown_variant_is_kept_but_its_shared_block_is_checked(self) -> None:
        unknown = {"id": "n1", "type": "moon.landing", "attempt": "first"}
        check(NotificationModel, unknown)
        assert dump(NotificationModel.model_validate(unknown)) == unknown
        assert refusals(NotificationModel, unknown | {"timestamp": "now"}) == {("timestamp",): "int_type"}

    @pytest.mark.parametrize("variant", NOTIFICATION_VARIANTS)
    def test_every_addition_may_be_absent_or_null(self, variant: str) -> None:
        check(NotificationModel, {"id": "n1", "type": variant})
        check(NotificationModel, {"id": "n1", "type": variant} | dict.fromkeys(NOTIFICATION_VARIANTS[variant]))


class TestDump:
    @pytest.mark.parametrize("name", [name for name in SAMPLES if isinstance(model_of(name), type)])
    def test_a_dump_is_exactly_what_was_given(self, name: str) -> None:
        given = SAMPLES[name] | {"newField": {"deep": [1, None]}}
        model: type[BaseModel] = model_of(name)
        assert dump(model.model_validate(given)) == given

    def test_an_unset_field_is_absent_and_a_given_null_is_kept(self) -> None:
        assert dump(SignalDto(position="long", price_open=None)) == {"position": "long", "priceOpen": None}

    def test_a_derived_row_in_the_place_of_its_base_loses_nothing(self) -> None:
        row = StrategyData(retry_open_signal=PublicSignalRow(id="s1", total_entries=2))
        assert dump(row) == {"retryOpenSignal": {"id": "s1", "totalEntries": 2}}


def seen_through_node(value: Any) -> Any:
    """What MongoDB returns of an npm package's document: integers above 2**31 are doubles."""
    if isinstance(value, dict):
        return {key: seen_through_node(held) for key, held in value.items()}
    if isinstance(value, list):
        return [seen_through_node(held) for held in value]
    return float(value) if type(value) is int and value > 2**31 else value


def seen_through_json(value: Any) -> Any:
    """What a JSON file of the original holds: no Infinity, no dates."""
    if isinstance(value, dict):
        return {key: seen_through_json(held) for key, held in value.items()}
    if isinstance(value, list):
        return [seen_through_json(held) for held in value]
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return None if value == inf else value


class TestRestoring:
    @pytest.mark.parametrize("name", SAMPLES)
    def test_times_of_the_npm_package_are_integers_again(self, name: str) -> None:
        decoded = seen_through_node(SAMPLES[name])
        restored = restore(decoded, restoration(model_of(name), "integer"))
        assert restored is decoded
        assert repr(restored) == repr(SAMPLES[name])
        check(model_of(name), restored)

    @pytest.mark.parametrize("name", SAMPLES)
    def test_json_files_of_the_original_give_infinity_and_dates_back(self, name: str) -> None:
        decoded = json.loads(json.dumps(seen_through_json(SAMPLES[name]), allow_nan=False))
        assert repr(restore(decoded, restoration(model_of(name), "infinity", "date"))) == repr(SAMPLES[name])

    def test_infinity_returns_at_every_depth_of_a_strategy(self) -> None:
        decoded = seen_through_json({key: value for key, value in STRATEGY.items() if value is not None})
        restored = restore(decoded, restoration(StrategyData | None, "infinity"))
        rows = [restored[name] for name in restored if name.endswith("Signal")]
        assert [row["minuteEstimatedTime"] for row in rows] == [inf] * 6

    def test_an_absent_key_stays_absent(self) -> None:
        everything = restoration(SignalRow, "integer", "infinity", "date")
        assert restore({"id": "s1"}, everything) == {"id": "s1"}

    def test_a_kind_that_was_not_asked_for_is_left_alone(self) -> None:
        assert restore({"minuteEstimatedTime": None}, restoration(SignalRow, "integer")) == {
            "minuteEstimatedTime": None
        }

    def test_a_value_that_shows_no_loss_is_left_for_the_check_to_judge(self) -> None:
        spec = restoration(LogEntry, "integer", "date")
        odd = {"timestamp": 1.5, "priority": nan, "executionContext": {"when": "yesterday"}, "methodContext": None}
        assert repr(restore(deepcopy(odd), spec)) == repr(odd)
        assert restore(None, spec) is None

    def test_a_price_that_happens_to_be_whole_stays_a_float(self) -> None:
        restored = restore({"priceOpen": 42_000.0, "timestamp": float(MS)}, restoration(SignalRow, "integer"))
        assert repr(restored) == f"{{'priceOpen': 42000.0, 'timestamp': {MS}}}"

    def test_scalars_in_lists_dicts_and_unions_are_found(self) -> None:
        nested = {"a": [1.0, None, 2.5], "b": []}
        assert (
            repr(restore(nested, restoration(dict[str, list[int | None]], "integer")))
            == "{'a': [1, None, 2.5], 'b': []}"
        )
        either = restoration(StrategyData | SignalRow, "integer")
        assert (
            repr(restore({"retryOpenCount": 1.0, "timestamp": 2.0}, either)) == "{'retryOpenCount': 1, 'timestamp': 2}"
        )

    def test_arms_of_a_union_that_share_members_are_restored_as_one_would_be(self) -> None:
        restored = restore(seen_through_node(PUBLIC), restoration(SignalRow | PublicSignalRow, "integer"))
        assert repr(restored) == repr(PUBLIC)

    def test_a_type_without_lossy_places_has_an_empty_restoration(self) -> None:
        assert not restoration(payloads.BreakevenData, "integer", "infinity", "date")
        assert not restoration(payloads.MeasureData, "integer", "infinity", "date")
        assert restoration(SignalRow, "integer")

    def test_an_unknown_kind_is_refused(self) -> None:
        with pytest.raises(KeyError, match="decimal"):
            restoration(SignalRow, "decimal")
