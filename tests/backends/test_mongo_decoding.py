"""Documents of other programs on a real MongoDB: an odd one costs itself, and what looks odd and is ours comes back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import bson
import pytest
from bson import Binary, Code, Decimal128, Int64, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument

from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.coherence.effects import Find
from backtest_kit_mongo.coherence.record import Change, Key
from backtest_kit_mongo.domains.checks import make_change, make_key
from backtest_kit_mongo.domains.table import MEMORY, NOTIFICATION, STORAGE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.errors import CorruptData
from backtest_kit_mongo.testing.examples import example
from tests.integration.support import store_for

pytestmark = pytest.mark.live
ODD: Final[dict[str, Any]] = {
    "regex": Regex("a"), "object_id": ObjectId(), "decimal": Decimal128("1.5"), "code": Code("f"), "min_key": MinKey(),
    "timestamp": Timestamp(1, 1), "uuid": Binary(b"x" * 16, 4), "far": DatetimeMS(2**53), "text": "XXXX",
}  # fmt: skip
LIVE, BACKTEST = make_key(NOTIFICATION, (False,)), make_key(NOTIFICATION, (True,))
STORED: Final = make_key(STORAGE, (False,))
MEMORIES: Final = make_key(MEMORY, ("signal", "bucket"))


@pytest.fixture(scope="module")
def store(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Store]:
    with store_for(servers, new_database(), near_cache="", lease_ms=15_000) as opened:
        opened.open()
        yield opened


def insert(store: Store, collection: str, document: dict[str, Any]) -> None:
    assert isinstance(store.truth, MongoTruth)
    # Text that is no UTF-8 passes the driver only as bytes.
    raw = bson.encode({"_id": ObjectId(), **document}).replace(b"XXXX", b"a\xff\xfeb")
    store.truth._database[collection].insert_one(RawBSONDocument(raw))


def row(scope: Key, item: str, **more: Any) -> Change:
    return make_change(scope.child(item), {**example(scope.domain, item), **more})


def test_an_odd_document_costs_itself_in_lists_and_is_named(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    made = {"backtest": False, "createDate": datetime.now(UTC)}
    for name, value in ODD.items():
        insert(store, "notification-items", {**made, "notificationId": name, "payload": {"id": name, "x": [value]}})
    insert(store, "notification-items", {**made, "notificationId": "no_object", "payload": None})
    insert(store, "notification-items", {**made, "notificationId": 5, "payload": {}})
    insert(store, "notification-items", {**made, "notificationId": "rev", "rev": float("nan"), "payload": {}})
    store.merge(LIVE, [row(LIVE, "good")])
    with caplog.at_level(logging.WARNING):
        assert [record.key.item for record in store.scan(LIVE)] == ["good"]
    assert f"{len(ODD) + 3} document(s) were left out" in caplog.text
    assert "notification/False/regex" in caplog.text


def test_rows_beside_an_odd_one_are_written_and_so_is_its_own(store: Store) -> None:
    for name, value in ODD.items():
        insert(store, "notification-items", {"backtest": True, "notificationId": name, "payload": {"x": value}})
    changes = [row(BACKTEST, name) for name in ("first", *ODD, "last")]
    assert store.merge(BACKTEST, changes) == len(changes)
    assert {record.key.item for record in store.scan(BACKTEST)} == {"first", *ODD, "last"}


def test_a_revision_that_is_no_number_makes_no_document_unwritable(store: Store) -> None:
    for rev in ("abc", True, float("nan"), None, 5.5, Decimal128("3"), float("inf"), 1e300, [1]):
        key = MEMORIES.child(f"rev {rev}")
        insert(store, "memory-items", {**key.query(), "rev": rev, "payload": {}})
        insert(
            store, "storage-items", {"backtest": True, "signalId": key.item, "rev": rev, "payload": {"id": key.item}}
        )
        assert store.write(make_change(key, {"data": 1}, 1)).rev == (6 if rev == 5.5 else 1)
        assert store.read(key).payload == {"data": 1}
        scope = make_key(STORAGE, (True,))
        assert store.merge(scope, [row(scope, str(key.item)), row(scope, f"beside {rev}")]) == 2
        assert store.remove(key) is not None
        gone = MEMORIES.child(f"gone {rev}")
        insert(store, "memory-items", {**gone.query(), "rev": rev, "payload": {}})
        assert store.delete(gone, {"by": "me", "why": "odd"}) is not None
        assert not store.truth.find(Find(gone)).exists


def test_a_removal_says_that_it_happened_though_the_document_cannot_be_read(store: Store) -> None:
    for name, value in ODD.items():
        insert(
            store, "memory-items", {**MEMORIES.child(name).query(), "when": 1, "rev": Int64(1), "payload": {"x": value}}
        )
        with pytest.raises(CorruptData, match="It was left as it is"):
            store.read(MEMORIES.child(name))
        with pytest.raises(CorruptData, match=rf"memory/signal/bucket/{name} was removed"):
            store.remove(MEMORIES.child(name))
        assert store.remove(MEMORIES.child(name)) is None
    assert list(store.scan(MEMORIES)) == []


def test_rows_of_one_bulk_are_dated_in_their_order_and_after_those_before(store: Store) -> None:
    store.merge(STORED, [row(STORED, f"a{number}") for number in range(30)])
    store.merge(STORED, [row(STORED, f"b{number}") for number in range(30)] + [row(STORED, "a5", new=1)])
    assert isinstance(store.truth, MongoTruth)
    rows = store.truth._database["storage-items"]
    for field, expected in (
        ("createDate", [f"{bulk}{number}" for bulk in "ab" for number in range(30)]),
        ("updatedDate", [*(f"a{n}" for n in range(30) if n != 5), *(f"b{n}" for n in range(30)), "a5"]),
    ):
        # As the npm package asks: newest first, without a second field to tell equal ones apart.
        assert [found["signalId"] for found in rows.find({"backtest": False}).sort(field, -1)] == expected[::-1]
    newest = store.truth.find(Find(STORED.child("a5")))
    assert newest.rev == 2
