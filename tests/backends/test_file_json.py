"""What is in a file: JSON that `JSON.parse` reads as the entity, every value comes back, and an invisible stamp."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from math import inf, isnan, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backtest_kit_mongo.backends.files.json import OWNER_BYTES, Stamp, decode, encode, seal, unseal
from backtest_kit_mongo.coherence.codec import pack, unpack
from backtest_kit_mongo.domains import table
from backtest_kit_mongo.errors import InvalidPayload
from backtest_kit_mongo.testing.handles import difference

TAGS = st.sampled_from(["$date", "$$date", "$numberDouble", "$$$binary", "$binary", "$other", "data", "when"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary(max_size=20)
    | st.datetimes(timezones=st.just(UTC))
    | st.sampled_from(["NaN", "2024-01-01T00:00:00.000Z", "AA==", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TAGS | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
NOW = datetime(2024, 2, 29, 12, 30, 15, 123_000, tzinfo=UTC)


def strict(body: bytes) -> Any:
    """Parse as JavaScript does: no NaN, no Infinity."""

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(body.decode(), parse_constant=refuse)


def back(payload: Any, model: Any = Any) -> Any:
    return decode(encode(payload, model), model, foreign=False)


@given(VALUES)
def test_every_storable_value_comes_back_as_it_was(value: Any) -> None:
    plain = unpack(pack(value))
    assert difference(back(plain), plain) is None
    strict(encode(plain, Any))


def test_the_text_is_compact_and_keeps_the_order_of_fields() -> None:
    payload = {"b": [1, 2.5, None, True], "a": {"й": "🚀\n"}, "e": {}, "l": []}
    assert encode(payload, Any).decode() == '{"b":[1,2.5,null,true],"a":{"й":"🚀\\n"},"e":{},"l":[]}'


def test_infinities_are_numbers_beyond_the_range() -> None:
    assert encode([inf, -inf], Any) == b"[1e999,-1e999]"
    assert strict(b"[1e999,-1e999]") == [inf, -inf]


def test_what_json_cannot_say_is_tagged_and_look_alikes_are_escaped() -> None:
    assert encode([nan, NOW, b"\0"], Any) == (
        b'[{"$numberDouble":"NaN"},{"$date":"2024-02-29T12:30:15.123Z"},{"$binary":"AA=="}]'
    )
    assert encode({"$date": "2024-02-29T12:30:15.123Z"}, Any) == b'{"$$date":"2024-02-29T12:30:15.123Z"}'


def test_a_date_that_the_model_declares_is_a_plain_string_as_in_the_original() -> None:
    interval = {"id": "k", "data": {"when": NOW}, "when": NOW, "removed": False}
    assert strict(encode(interval, table.INTERVAL.model))["when"] == "2024-02-29T12:30:15.123Z"
    assert difference(back(interval, table.INTERVAL.model), interval) is None
    entry = {"id": "l", "executionContext": {"symbol": "BTC", "when": NOW, "backtest": False}, "args": [NOW]}
    assert strict(encode(entry, table.LOG.model))["executionContext"]["when"] == "2024-02-29T12:30:15.123Z"
    assert difference(back(entry, table.LOG.model), entry) is None


def test_a_null_of_our_own_stays_null_and_a_foreign_one_may_be_an_infinity() -> None:
    signal = {"id": "s", "minuteEstimatedTime": None, "note": None}
    body = encode(signal, table.SIGNAL.model)
    assert decode(body, table.SIGNAL.model, foreign=False) == signal
    assert decode(body, table.SIGNAL.model, foreign=True) == {**signal, "minuteEstimatedTime": inf}
    assert decode(b'{"id":"s"}', table.SIGNAL.model, foreign=True) == {"id": "s"}


def test_a_payload_500_levels_deep_is_stored() -> None:
    value: Any = 1
    for level in range(500):
        value = {"in": value} if level % 2 else [value]
    assert back(value) == value


@pytest.mark.parametrize(
    "payload", [{1: 2}, {"a": object()}, {b"a": 1}, ["\ud800"]], ids=["number", "object", "bytes", "half"]
)
def test_what_is_not_plain_data_is_refused(payload: Any) -> None:
    with pytest.raises(InvalidPayload, match="Nothing was written"):
        encode(payload, Any)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"100000000000000000000", 1e20),
        (b"-100000000000000000000", -1e20),
        (b"18446744073709551615", 2**64 - 1),
        (b'["\\ud83d", {"\\udc00": 1}]', ["\ufffd", {"\ufffd": 1}]),
        (b'"\\ud83d\\ude80"', "🚀"),
        (b'{"$date": "yesterday"}', {"$date": "yesterday"}),
        (b'{"$binary": "not base64!"}', {"$binary": "not base64!"}),
        (b'{"$numberDouble": 1}', {"$numberDouble": 1}),
    ],
    ids=repr,
)
def test_whatever_a_foreign_file_says_can_be_stored_again(text: bytes, value: Any) -> None:
    found = decode(text, Any, foreign=True)
    assert difference(found, value) is None
    assert difference(unpack(pack(found)), value) is None


OWNERS = st.just(b"") | st.binary(min_size=OWNER_BYTES, max_size=OWNER_BYTES)
STAMPS = st.builds(Stamp, st.integers(0, 2**64 - 1), st.none() | st.integers(-(2**63), 2**63 - 1), OWNERS)


@given(STAMPS)
def test_a_stamp_comes_back_and_is_white_space_to_other_readers(stamp: Stamp) -> None:
    content = seal(b'{"a":1}', stamp)
    assert unseal(content) == (b'{"a":1}', stamp)
    assert strict(content) == {"a": 1}
    assert content.count(b"\n") == 1


@given(st.text(" \t\n", max_size=200))
def test_white_space_that_happens_to_stand_there_is_no_stamp(space: str) -> None:
    content = b"[]" + space.encode()
    assert unseal(content) == (content, None)


@given(STAMPS, st.data())
def test_a_damaged_stamp_is_no_stamp(stamp: Stamp, data: st.DataObject) -> None:
    content = bytearray(seal(b"[]", stamp))
    index = data.draw(st.integers(3, len(content) - 1))
    content[index] = ord(" ") if content[index] == ord("\t") else ord("\t")
    assert unseal(bytes(content))[1] is None
    assert unseal(bytes(content[:-1]))[1] is None
    assert unseal(b"")[1] is None


def test_not_a_number_survives() -> None:
    assert isnan(back({"x": [nan]})["x"][0])
