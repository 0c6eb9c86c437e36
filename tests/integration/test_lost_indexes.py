"""What is made once, the unique indexes, may be gone at any later time: running processes build them again before they
write, and a database that has several documents of one key is repaired without losing one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from bson import ObjectId
from bson.int64 import Int64
from pymongo.collection import Collection
from tests.integration.support import store_for
from typer.testing import CliRunner

from backtest_kit_mongo.adapters.instances import CandleInstance
from backtest_kit_mongo.backends.mongo import indexes
from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.cli.main import app
from backtest_kit_mongo.coherence.record import Domain, Key
from backtest_kit_mongo.domains.checks import make_change, make_key
from backtest_kit_mongo.domains.table import CANDLE, STATE, STORAGE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.errors import LegacyIndex, ServerUnreachable, WriteRefused

pytestmark = pytest.mark.live
WRITERS: Final = 3
LOSSES: Final[dict[str, Callable[[Collection[Any]], object]]] = {
    "dropped": lambda collection: collection.drop(),
    "renamed": lambda collection: collection.rename(f"{collection.name}-old", dropTarget=True),
    "indexes_dropped": lambda collection: collection.drop_indexes(),
}


@pytest.fixture(scope="module")
def stores(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[list[Store]]:
    """Several processes' of one database; all have seen its indexes."""
    database = new_database()
    with (
        store_for(servers, database, lease_ms=15_000) as one,
        store_for(servers, database, lease_ms=15_000) as two,
        store_for(servers, database, lease_ms=15_000) as three,
    ):
        for store in (one, two, three):
            store.open()
        yield [one, two, three]


def collection_of(store: Store, domain: Domain) -> Collection[Any]:
    assert isinstance(store.truth, MongoTruth)
    return store.truth._collections[domain]


def write_states(store: Store, of: str) -> None:
    for number in range(5):
        store.write(make_change(make_key(STATE, (of, str(number))), {"data": id(store)}, 1))


def write_rows(store: Store, of: str) -> None:
    scope = make_key(STORAGE, (False,))
    names = [f"{of}{number}" for number in range(5)]
    store.merge(scope, [make_change(scope.child(name), {"id": name, "priority": id(store)}) for name in names])


def write_candles(store: Store, of: str) -> None:
    price = float(1 + id(store) % 7)
    rows = [{"timestamp": 60_000 * n, **dict.fromkeys(CANDLE.fields, price)} for n in range(5)]
    CandleInstance(store, of, "1m", "e").write_candles_data(rows)


WRITES: Final = [(STATE, write_states), (STORAGE, write_rows), (CANDLE, write_candles)]
WRITE_NAMES: Final = ["documents", "lists", "candles"]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("domain", "write"), WRITES, ids=WRITE_NAMES)
def test_first_writers_after_a_loss_of_the_index_make_one_document_a_key(
    stores: list[Store], domain: Domain, write: Callable[[Store, str], None], loss: str
) -> None:
    collection = collection_of(stores[0], domain)
    write(stores[0], "before")
    LOSSES[loss](collection)
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda store: write(store, loss), stores))
    counts = Counter(tuple(found[name] for name in domain.columns) for found in collection.find())
    assert set(counts.values()) == {1}
    assert [index for index in collection.index_information().values() if index.get("unique")]


@pytest.mark.parametrize("losses", [2, 99])
@pytest.mark.parametrize(("domain", "write"), WRITES, ids=WRITE_NAMES)
def test_an_index_that_is_lost_again_while_it_is_built_lets_no_second_document_in(
    stores: list[Store],
    domain: Domain,
    write: Callable[[Store, str], None],
    losses: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collection, rebuild, count = collection_of(stores[0], domain), indexes.rebuild, iter(range(losses))
    write(stores[0], "before")
    before = collection.count_documents({})

    def rebuild_and_lose(of: Collection[Any], domain: Domain) -> None:
        rebuild(of, domain)
        if next(count, None) is not None:
            collection.drop_indexes()

    monkeypatch.setattr(indexes, "rebuild", rebuild_and_lose)
    collection.drop_indexes()
    many = losses > indexes.REBUILDS_MAX
    with pytest.raises(WriteRefused, match=r"the unique index is gone, nothing was written") if many else nullcontext():
        write(stores[0], f"race{losses}")
    assert collection.count_documents({}) == before + (0 if many else 5)
    monkeypatch.undo()
    for store in stores[:2]:
        write(store, f"race{losses}")
    assert collection.count_documents({}) == before + 5


def test_an_index_that_is_not_built_in_time_is_no_write_of_unknown_outcome(
    stores: list[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "SETUP_S", 1e-9)
    with pytest.raises(ServerUnreachable, match=r"could not be built\. No document was written.* set up again"):
        indexes.ensure_all({STATE: collection_of(stores[0], STATE)})


def double(collection: Collection[Any], key: Key, versions: int) -> list[dict[str, Any]]:
    """Documents of one key, oldest first, as the npm package's writers make them that start at once."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    payload = {"open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1.0}
    documents = [
        {
            "_id": ObjectId(), **key.query(), **(payload if key.domain is CANDLE else {"payload": {"data": number}}),
            "createDate": start + timedelta(seconds=number), "updatedDate": start + timedelta(seconds=number), "__v": 0,
        }
        for number in range(versions)
    ]  # fmt: skip
    collection.insert_many(documents)
    return documents


def test_a_key_with_several_documents_is_repaired_and_every_version_is_kept(
    servers: Endpoints, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = new_database()
    monkeypatch.setenv("CC_MONGO_CONNECTION_STRING", servers.mongo_connection_string(name))
    monkeypatch.setenv("CC_REDIS_PORT", str(servers.redis_port))
    run = CliRunner()
    state, row = make_key(STATE, ("s", "b")), make_key(CANDLE, ("e", "BTC", "1m", 60_000))
    with store_for(servers, name, lease_ms=15_000) as store:
        store.open()
        states, candles = collection_of(store, STATE), collection_of(store, CANDLE)
        states.drop_indexes()
        candles.drop_indexes()
        of_state, of_row = double(states, state, 3), double(candles, row, 2)
        with pytest.raises(LegacyIndex, match=r"Nothing was written\. `bkm repair` shows"):
            store.write(make_change(make_key(STATE, ("s", "new")), {"data": 1}, 1))
        dry = run.invoke(app, ["repair"])
        assert (dry.exit_code, states.count_documents({}), candles.count_documents({})) == (1, 3, 2), dry.output
        assert f"state 's', 'b': {of_state[2]['_id']} (rev 0) stays" in dry.output
        done = run.invoke(app, ["repair", "--apply"])
        assert (done.exit_code, run.invoke(app, ["repair"]).exit_code) == (0, 0), done.output
        assert store.read(state).payload == {"data": 2}
        assert [found["_id"] for found in candles.find()] == [of_row[0]["_id"]]
        aside = list(states.database["repaired-items"].find(sort=[("document.createDate", 1), ("collection", 1)]))
        assert {kept["document"]["_id"] for kept in aside} == {made["_id"] for made in of_state + of_row}
        assert store.write(make_change(state, {"data": 3}, 1)).rev == Int64(1)
