"""What is refused, and that a refusal changes nothing."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from math import inf, nan
from typing import Any, Final
from uuid import UUID

import numpy as np
import pytest
from bson import Binary, Code, DBRef, Decimal128, MinKey, ObjectId, Regex
from msgpack import ExtType

from backtest_kit_mongo.coherence.lists import Rows
from backtest_kit_mongo.coherence.record import Column, Domain, Shape
from backtest_kit_mongo.domains.checks import make_change, make_key, row_item
from backtest_kit_mongo.domains.payloads import SignalRow
from backtest_kit_mongo.domains.table import BY_NAME, DOMAINS, context_names
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import InvalidKey, InvalidPayload
from backtest_kit_mongo.testing.calls import calls
from backtest_kit_mongo.testing.examples import BASE_MS, example, extended, free_object
from backtest_kit_mongo.testing.handles import DOCUMENTS, GUARDED, LISTS, difference, handle, items, parts
from backtest_kit_mongo.testing.suites.documents import by_name

WRONG_PARTS: Final[dict[type, tuple[Any, ...]]] = {
    str: ({"$ne": None}, {"$gt": ""}, ["a"], None, 5, 1.5, True, b"", b"a", "\ud800", object()),
    bool: ({"$ne": None}, None, 1, 0, "live", "", b""),
    int: ({"$gt": 0}, None, 1.0, True, "1", 2**63, -(2**64)),
}


def wrong_parts(column: Column) -> tuple[Any, ...]:
    return WRONG_PARTS[column.type] + (("9x", "") if column.choices else ())


@contextmanager
def unchanged(store: Store, domain: Domain, tag: str) -> Iterator[None]:
    """The document of `tag` and what stands beside it are after the block as they were before it."""
    here = handle(store, domain, tag)
    new = (f"{tag}new", f"{tag}newer")

    def look() -> list[Any]:
        found, beside = here.read(), []
        if domain.shape is Shape.KEYED:
            beside = items(store, here.key.scope)
        elif domain.shape is Shape.LIST:
            beside = sorted(map(str, store.truth.rows(Rows(here.key.scope, new))))
        return [found.rev, found.when, found.payload, beside]

    before = look()
    yield
    assert difference(look(), before) is None


class TestWrongKeys:
    @pytest.mark.parametrize("domain", DOMAINS, ids=by_name)
    def test_a_part_of_another_type_makes_no_key(self, domain: Domain) -> None:
        good = parts(domain, "x")
        for index, column in enumerate(domain.key):
            for wrong in wrong_parts(column):
                with pytest.raises(InvalidKey):
                    make_key(domain, (*good[:index], wrong, *good[index + 1 :]))

    @pytest.mark.parametrize("domain", [d for d in DOCUMENTS if d.shape is not Shape.LIST], ids=by_name)
    def test_registries_refuse_it_before_anything_is_read_or_written(
        self, store: Store, domain: Domain, tag: str
    ) -> None:
        through, good = calls(domain), parts(domain, tag)
        registry = through.over(store)
        handle(store, domain, tag).write_example()
        for index, column in enumerate(domain.key):
            for wrong in wrong_parts(column):
                bad = (*good[:index], wrong, *good[index + 1 :])
                with unchanged(store, domain, tag), pytest.raises(InvalidKey):
                    through.write(registry, extended(domain, mark=1), bad, BASE_MS)
                with pytest.raises(InvalidKey):
                    through.read(registry, bad, None)

    @pytest.mark.parametrize("domain", [d for d in LISTS if context_names(d)] + [BY_NAME["candle"]], ids=by_name)
    def test_registries_refuse_it_in_the_context_of_a_list(self, store: Store, domain: Domain, tag: str) -> None:
        through, good = calls(domain), parts(domain, tag)
        registry = through.over(store)
        for index, column in enumerate(domain.key[:-1]):
            for wrong in wrong_parts(column):
                bad = (*good[:index], wrong, *good[index + 1 :])
                with pytest.raises(InvalidKey):
                    through.write(registry, example(domain, good[-1]), bad, BASE_MS)
                with pytest.raises(InvalidKey):
                    through.read(registry, bad, None)

    @pytest.mark.parametrize("domain", [d for d in DOMAINS if d.has_removed], ids=by_name)
    def test_removal_and_lists_refuse_it_too(self, store: Store, domain: Domain, tag: str) -> None:
        registry, good = calls(domain).over(store), parts(domain, tag)
        handle(store, domain, tag).write_example()
        with unchanged(store, domain, tag):
            for wrong in wrong_parts(domain.key[-1]):
                with pytest.raises(InvalidKey):
                    getattr(registry, f"remove_{domain.name}_data")(*good[:-1], wrong)
                with pytest.raises(InvalidKey):
                    list(getattr(registry, f"list_{domain.name}_data")(wrong, *good[1:-1]))

    def test_the_message_names_domain_and_column(self) -> None:
        with pytest.raises(InvalidKey, match=r"signal: symbol must be str, not dict"):
            make_key(BY_NAME["signal"], ({"$ne": None}, "s", "e"))  # type: ignore[arg-type]


class TestWrongRows:
    @pytest.mark.parametrize("wrong", [{"$ne": None}, None, 5, b"", "", True, "\ud800"], ids=ascii)
    @pytest.mark.parametrize("domain", LISTS, ids=by_name)
    def test_a_row_without_a_text_id_refuses_the_list(self, store: Store, domain: Domain, wrong: Any, tag: str) -> None:
        here = handle(store, domain, tag)
        here.write_example()
        write = getattr(calls(domain).over(store), f"write_{domain.name}_data")
        rows = [example(domain, f"{tag}new"), {**example(domain), domain.row_id: wrong}, example(domain, f"{tag}newer")]
        with unchanged(store, domain, tag), pytest.raises((InvalidKey, InvalidPayload)):
            write(rows, *here.key.parts[:-1])

    @pytest.mark.parametrize("wrong", [None, 5, "row", [], {}], ids=repr)
    @pytest.mark.parametrize("domain", LISTS, ids=by_name)
    def test_what_is_not_a_row_refuses_the_list(self, store: Store, domain: Domain, wrong: Any, tag: str) -> None:
        here = handle(store, domain, tag)
        write = getattr(calls(domain).over(store), f"write_{domain.name}_data")
        with unchanged(store, domain, tag), pytest.raises(InvalidPayload):
            write([example(domain, f"{tag}new"), wrong], *here.key.parts[:-1])

    @pytest.mark.parametrize("domain", LISTS, ids=by_name)
    def test_one_wrong_row_refuses_the_list(self, store: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        here.write_example()
        write = getattr(calls(domain).over(store), f"write_{domain.name}_data")
        for wrong in ({1, 2}, object(), "\ud800"):
            rows = [example(domain, f"{tag}new"), extended(domain, here.key.item, wrong=wrong)]
            with unchanged(store, domain, tag), pytest.raises(InvalidPayload):
                write(rows, *here.key.parts[:-1])

    def test_a_row_id_is_found_by_the_domains_own_field(self) -> None:
        assert row_item(BY_NAME["storage"], {"id": "a"}) == "a"


PRICED = tuple(d for d in DOCUMENTS if "priceOpen" in free_object(d, example(d)))

NEVER_NULL: Final = ("risk", "partial", "breakeven", "measure", "interval", "memory", "storage", "notification", "log")
"""Domains in which None means nothing."""


def looped() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def bottomless(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = {"in": value}
    return value


UNSTORABLE: Final[dict[str, Any]] = {
    "set": {1, 2},
    "object": object(),
    "function": len,
    "complex": 1j,
    "integer_key": {1: "a"},
    "null_key": {None: "a"},
    "tuple_key": {("a",): "a"},
    "bytes_key": {b"a": "a"},
    "zero_byte_in_key": {"a\0b": 1},
    "surrogate": "a\ud800",
    "surrogate_in_key": {"a\ud800": 1},
    "above_64_bits": 2**63,
    "far_above_64_bits": 2**64,
    "below_64_bits": -(2**63) - 1,
    "loop": looped(),
    "too_deep": bottomless(300),
    "far_too_deep": bottomless(100_000),
}
"""MongoDB could not hold these, so no backend takes them: a strategy that ran on files must run on a cluster."""


class Colour(Enum):
    RED = 1


@dataclass
class Fill:
    price: float


Leg = namedtuple("Leg", "price")

OF_OTHERS: Final = (
    Decimal("1.1"), UUID(int=0), Colour.RED, Fill(1.0), Leg(1.0), date(2024, 1, 1), timedelta(1), np.ones(2),
    np.longdouble(1),
    np.ma.masked, np.complex64(1), ObjectId(), Regex("a"), Decimal128("1"), Code("f"), Binary(b"a", 4), DBRef("a", 1),
    MinKey(), ExtType(5, b""),
)  # fmt: skip
"""What would have to become something else to be stored."""


class TestWrongPayloads:
    def test_a_value_that_would_become_another_is_refused_with_its_place(self, store: Store, tag: str) -> None:
        here = handle(store, BY_NAME["state"], tag)
        for wrong in OF_OTHERS:
            with pytest.raises(InvalidPayload, match=r"data\.in\[0\]: .* cannot be stored\. Nothing was written"):
                here.write({"data": {"in": [wrong]}})
        assert not here.read().exists

    def test_a_python_name_is_refused_where_the_stored_name_is_another(self, store: Store, tag: str) -> None:
        here = handle(store, BY_NAME["signal"], tag)
        for wrong in (
            {"price_open": 1.0},
            {"price_open": 1.0, "priceOpen": 1.0},
            {"_entry": [{"price": 1.0}], "is_scheduled": True},
        ):
            with pytest.raises(
                InvalidPayload, match=r"(price_open|is_scheduled): the stored name is (priceOpen|_isScheduled)"
            ):
                here.write(wrong)
        assert not here.read().exists
        here.write(SignalRow(price_open=1.0))
        assert here.read().payload == {"priceOpen": 1.0}

    @pytest.mark.parametrize("fault", UNSTORABLE)
    def test_what_cannot_be_stored_is_refused_before_anything_is_written(
        self, store: Store, fault: str, tag: str
    ) -> None:
        for domain in DOCUMENTS:
            here = handle(store, domain, tag)
            here.write_example()
            for extra in (UNSTORABLE[fault], [0, {"deep": UNSTORABLE[fault]}]):
                with unchanged(store, domain, tag), pytest.raises(InvalidPayload, match="Nothing was written"):
                    here.write(extended(domain, here.key.item, wrong=extra))

    @pytest.mark.parametrize("domain", [d for d in DOCUMENTS if d.shape is not Shape.LIST], ids=by_name)
    def test_registries_refuse_it_too(self, store: Store, domain: Domain, tag: str) -> None:
        through, key = calls(domain), parts(domain, tag)
        registry = through.over(store)
        handle(store, domain, tag).write_example()
        for wrong in ({1, 2}, "\ud800", {1: 1}):
            with unchanged(store, domain, tag), pytest.raises(InvalidPayload, match="Nothing was written"):
                through.write(registry, extended(domain, wrong=wrong), key, BASE_MS)

    @pytest.mark.parametrize("domain", PRICED, ids=by_name)
    def test_a_price_is_a_finite_number(self, store: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        here.write_example()
        for price in (nan, inf, -inf, "100", True):
            payload = extended(domain, here.key.item, priceOpen=price)
            with unchanged(store, domain, tag), pytest.raises(InvalidPayload, match="priceOpen"):
                here.write(payload)

    @pytest.mark.parametrize("lifetime", [nan, -inf, "Infinity"], ids=repr)
    def test_a_lifetime_is_a_number_or_infinity(self, store: Store, lifetime: Any, tag: str) -> None:
        here = handle(store, BY_NAME["signal"], tag)
        here.write_example()
        with unchanged(store, here.key.domain, tag), pytest.raises(InvalidPayload, match="minuteEstimatedTime"):
            here.write({**example(here.key.domain), "minuteEstimatedTime": lifetime})

    @pytest.mark.parametrize("domain", DOCUMENTS, ids=by_name)
    def test_what_is_no_payload_of_the_domain_is_refused(self, store: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        here.write_example()
        for wrong in (5, "text", [1], True, *([None] if domain.name in NEVER_NULL else [])):
            with unchanged(store, domain, tag), pytest.raises(InvalidPayload):
                here.write(wrong)

    def test_a_payload_above_the_limit_of_a_document_is_refused(self, store: Store, tag: str) -> None:
        here = handle(store, BY_NAME["state"], tag)
        here.write_example()
        with unchanged(store, here.key.domain, tag), pytest.raises(InvalidPayload, match="16,777,216"):
            here.write(extended(here.key.domain, data="x" * 16_777_216))

    def test_a_payload_just_below_the_limit_is_stored(self, store: Store, twin: Store, tag: str) -> None:
        here = handle(store, BY_NAME["state"], tag)
        large = extended(here.key.domain, data="x" * (16_777_216 - 65_536 - 1024))
        here.write(large)
        assert handle(twin, here.key.domain, tag).read().payload == large


NO_MOMENTS: Final = (BASE_MS // 1_000, BASE_MS * 1_000, 20_240_101, -1, datetime(2024, 1, 1))
"""Seconds, microseconds, a date in digits, before everything, and a datetime without a zone."""


class TestWrongTimes:
    @pytest.mark.parametrize("domain", [*GUARDED, BY_NAME["measure"]], ids=by_name)
    def test_a_write_needs_a_time_in_milliseconds_or_a_date(self, store: Store, domain: Domain, tag: str) -> None:
        through, key = calls(domain), parts(domain, tag)
        registry = through.over(store)
        handle(store, domain, tag).write_example()
        for when in (None, "2024-01-01", 1.5, float(BASE_MS), True, nan, {"$gt": 0}, 2**63, *NO_MOMENTS):
            with unchanged(store, domain, tag), pytest.raises(InvalidKey):
                through.write(registry, extended(domain, mark=1), key, when)

    @pytest.mark.parametrize("domain", GUARDED, ids=by_name)
    def test_a_guarded_read_needs_one_too(self, store: Store, domain: Domain, tag: str) -> None:
        through = calls(domain)
        for when in ("2024-01-01", 1.5, True, {"$gt": 0}, *NO_MOMENTS):
            with pytest.raises(InvalidKey):
                through.read(through.over(store), parts(domain, tag), when)

    def test_a_change_of_a_checked_key_needs_no_time_of_its_own(self) -> None:
        # Times are checked by `make_when`; `make_change` takes what it returned.
        key = make_key(BY_NAME["signal"], ("a", "b", "c"))
        assert make_change(key, None).when is None
