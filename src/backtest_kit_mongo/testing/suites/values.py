"""What a payload may hold, and that each value comes back as it was given: in type, in sign, in depth."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum, IntEnum
from math import inf, nan
from typing import Any, Final

import numpy as np
import pytest

from backtest_kit_mongo.coherence.record import Domain
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.testing.calls import calls
from backtest_kit_mongo.testing.examples import example, extended, free_object
from backtest_kit_mongo.testing.handles import DOCUMENTS, difference, handle
from backtest_kit_mongo.testing.suites.documents import by_name


def nested(depth: int) -> Any:
    """Objects and lists in each other, `depth` levels in all."""
    value: Any = "bottom"
    for level in range(depth):
        value = {"in": value} if level % 2 else [value]
    return value


VALUES: Final[dict[str, Any]] = {
    "infinities": {"up": inf, "down": -inf, "list": [inf, -inf]},
    "not_a_number": {"nan": nan, "list": [nan]},
    "floats": {"one": 1.0, "zero": 0.0, "minus_zero": -0.0, "big": 1e300, "small": 5e-324, "sum": 0.1 + 0.2,
        "edge": 2.0**53},
    "integers": {"one": 1, "zero": 0, "minus": -1, "int32": 2**31, "int53": 2**53 + 1, "max": 2**63 - 1,
        "min": -(2**63)},
    "booleans": {"yes": True, "no": False, "list": [True, 1, 1.0, False, 0, 0.0]},
    "nulls": {"none": None, "list": [None, [None], {"x": None}]},
    "empties": {"dict": {}, "list": [], "text": "", "deep": {"a": {"b": {}, "c": [[], {}]}}},
    "texts": {"unicode": "Привет, 世界", "emoji": "🚀👩\u200d💻", "control": "a\0b\r\n\t\x1f\x7f", "quotes": "\"'\\",
        "bom": "\ufeffx",
              "separators": "\u2028\u2029", "numeric": "1", "long": "я" * 10_000, "special": ["NaN", "Infinity",
                  "null", "1e5"]},
    "field_names": {"a.b": 1, "$set": 2, "$ne": None, "": 3, "ключ 🚀": 4, "1": 5, "_id": 6, "__proto__": 7, "é": 8,
        "e\u0301": 9},
    "field_order": {"z": 1, "a": 2, "10": 3, "9": 4, "m": {"z": 1, "a": 2}},
    "dates": {"now": datetime(2024, 2, 29, 23, 59, 59, 999_000, tzinfo=UTC), "old": datetime(1969, 12, 31, 23, 59, 59,
        1_000, tzinfo=UTC),
              "epoch": datetime(1970, 1, 1, tzinfo=UTC), "far": datetime(9999, 12, 31, tzinfo=UTC)},
    "texts_like_dates": {"iso": "2024-01-01T00:00:00.000Z", "iso_offset": "2024-01-01T00:00:00+00:00",
        "day": "2024-01-01"},
    "bytes": {"some": b"\0\xff", "none": b""},
    "depth": nested(80),
    "look_alikes": {"$date": 0, "$numberDouble": "1", "list": [{"$date": "2024-01-01T00:00:00Z"}, {"$binary": "AA=="},
        {"$float": "inf"}],
                    "reference": {"$ref": "a", "$id": 1}, "with_more": {"z": 1, "$ref": "a", "$id": {"$ref": "b",
                        "$id": 2}, "$db": "c"}},
}  # fmt: skip
"""Free-form values by what they try. None of them is changed by storing it."""


FREE_DATA: Final = ("measure", "interval", "memory", "state", "session")
"""Domains whose payload has a field `data` that belongs to the strategy."""


class TestFreeFormValues:
    @pytest.mark.parametrize("domain", DOCUMENTS, ids=by_name)
    def test_values_in_free_data_or_in_a_field_no_model_knows_come_back_as_they_were(
        self, store: Store, twin: Store, domain: Domain, tag: str
    ) -> None:
        changed = {kind: list(self._changes(store, twin, domain, f"{tag}{kind}", VALUES[kind])) for kind in VALUES}
        assert {kind: changes for kind, changes in changed.items() if changes} == {}

    @staticmethod
    def _changes(store: Store, twin: Store, domain: Domain, tag: str, value: Any) -> Iterator[str]:
        """How what is returned and read differs from what was written."""
        here = handle(store, domain, tag)
        data = {"data": value} if domain.name in FREE_DATA else {}
        expected = extended(domain, here.key.item, unknownField=value, **data)
        returned = here.write(expected)
        for found in (returned, here.read(), here.read(), handle(twin, domain, tag).read()):
            if change := difference(found.payload, expected):
                yield change

    def test_a_tuple_comes_back_as_a_list(self, store: Store, tag: str) -> None:
        here = handle(store, BY_NAME["state"], tag)
        here.write(extended(here.key.domain, data=(1, ("a",))))
        assert difference(here.read().payload["data"], [1, ["a"]]) is None


class Side(str, Enum):  # noqa: UP042 - whose own text is another
    LONG = "long"


class Level(IntEnum):
    FIRST = 1


class TestTypesOfOthers:
    def test_a_plain_value_of_another_type_is_stored_as_what_it_is(self, store: Store, twin: Store, tag: str) -> None:
        here = handle(store, BY_NAME["state"], tag)
        given = [
            Side.LONG, Level.FIRST, np.str_("x"), np.float64(0.1), np.float32(0.5), np.int64(-1), np.bool_(True),
            np.array(3),
            OrderedDict(b=1, a=2), {Side.LONG: 1}, bytearray(b"x"),
        ]  # fmt: skip
        here.write({"data": given})
        expected = ["long", 1, "x", 0.1, 0.5, -1, True, 3, {"b": 1, "a": 2}, {"long": 1}, b"x"]
        for reader in (here, handle(twin, here.key.domain, tag)):
            assert difference(reader.read().payload["data"], expected) is None

    def test_a_key_of_such_parts_is_the_key_of_their_values(self, store: Store, tag: str) -> None:
        registry = calls(BY_NAME["recent"]).over(store)
        registry.write_recent_data({"id": "r"}, Side.LONG, np.str_(tag), "e", "", np.bool_(True), 5)
        assert registry.read_recent_data("long", tag, "e", "", True) == {"id": "r"}


class TestDates:
    @pytest.mark.parametrize(
        "given",
        [
            datetime(2024, 1, 1, 12, 0, 0, 123_999, tzinfo=UTC),
            datetime(2024, 1, 1, 12, 0, 0, 123_999),
            datetime(2024, 1, 1, 15, 0, 0, 123_999, tzinfo=timezone(timedelta(hours=3))),
        ],
        ids=["utc", "naive_is_utc", "another_zone"],
    )
    def test_a_date_is_stored_in_utc_and_cut_to_milliseconds(
        self, store: Store, twin: Store, given: datetime, tag: str
    ) -> None:
        here = handle(store, BY_NAME["interval"], tag)
        returned = here.write({**example(here.key.domain), "when": given, "data": [given]})
        expected = datetime(2024, 1, 1, 12, 0, 0, 123_000, tzinfo=UTC)
        for found in (returned, here.read(), here.read(), handle(twin, here.key.domain, tag).read()):
            assert difference(found.payload["when"], expected) is None
            assert difference(found.payload["data"], [expected]) is None

    def test_the_log_keeps_the_date_of_its_execution_context(self, store: Store, twin: Store, tag: str) -> None:
        here = handle(store, BY_NAME["log"], tag)
        here.write_example()
        for reader in (here, handle(twin, here.key.domain, tag)):
            found = reader.read().payload["executionContext"]["when"]
            assert difference(found, datetime(2024, 1, 1, tzinfo=UTC)) is None


LIFETIME: Final = "minuteEstimatedTime"


def lifetimes(payload: Any) -> Iterator[dict[str, Any]]:
    """Every object in a payload that has a lifetime."""
    if isinstance(payload, dict):
        if LIFETIME in payload:
            yield payload
        payload = list(payload.values())
    if isinstance(payload, list):
        for member in payload:
            yield from lifetimes(member)


LASTING: Final = tuple(domain for domain in DOCUMENTS if any(lifetimes(example(domain, "x"))))


class TestLifetimes:
    """`minuteEstimatedTime` is infinite where there is no timeout; JSON would lose that, and the original did
    (contracts 7.4).
    """

    def test_every_row_of_the_strategy_domain_is_tried(self) -> None:
        assert sum(1 for _ in lifetimes(example(BY_NAME["strategy"]))) == 7

    @pytest.mark.parametrize("domain", LASTING, ids=by_name)
    def test_a_lifetime_comes_back_at_any_depth(self, store: Store, twin: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        for lifetime in (inf, 1440, 1440.0, 0.5, 0):
            expected = example(domain, here.key.item)
            for row in lifetimes(expected):
                row[LIFETIME] = lifetime
            here.write(expected)
            for found in (here.read(), here.read(), handle(twin, domain, tag).read()):
                assert difference(found.payload, expected) is None, lifetime

    @pytest.mark.parametrize("domain", LASTING, ids=by_name)
    def test_an_absent_lifetime_stays_absent(self, store: Store, twin: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        expected = example(domain, here.key.item)
        for row in list(lifetimes(expected)):
            del row[LIFETIME]
        here.write(expected)
        for found in (here.read(), handle(twin, domain, tag).read()):
            assert difference(found.payload, expected) is None

    def test_the_rows_of_an_old_version_may_lack_anything(self, store: Store, twin: Store, tag: str) -> None:
        here = handle(store, BY_NAME["strategy"], tag)
        here.write({"pendingSignalId": None})
        for found in (here.read(), handle(twin, here.key.domain, tag).read()):
            assert difference(found.payload, {"pendingSignalId": None}) is None

    @pytest.mark.parametrize("domain", LASTING, ids=by_name)
    def test_infinity_beside_a_finite_number_stays_apart_from_it(self, store: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        expected = example(domain, here.key.item)
        free_object(domain, expected)["note"] = "Infinity"
        here.write(expected)
        assert difference(here.read().payload, expected) is None
