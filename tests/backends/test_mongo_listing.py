"""Lists on a real MongoDB: which index answers, and how it comes to be where a deployment lacks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final

import bson
import pytest

from backtest_kit_mongo.backends.mongo import indexes, layout, listing
from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.coherence.lists import Only
from backtest_kit_mongo.coherence.record import Domain, Key
from backtest_kit_mongo.domains.checks import make_change, make_key
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.operate.doctor.indexes import of_collection
from backtest_kit_mongo.testing.examples import BASE_MS, example
from backtest_kit_mongo.testing.handles import handle, parts
from tests.integration.support import eventually, store_for

pytestmark = pytest.mark.live
LISTED: Final = [domain for domain in DOMAINS if domain.is_listed]


@pytest.fixture(scope="module")
def opened(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Callable[[], Store]]:
    database = new_database()
    with ExitStack() as stores:

        def make() -> Store:
            store = stores.enter_context(store_for(servers, database, near_cache="", lease_ms=15_000))
            store.open()
            return store

        yield make


def truth_of(store: Store) -> MongoTruth:
    assert isinstance(store.truth, MongoTruth)
    return store.truth


def stages(plan: Any) -> set[str]:
    """The names of all stages of a plan, whatever nests them."""
    if isinstance(plan, dict):
        own = {plan["stage"]} if "stage" in plan else set()
        return own.union(*map(stages, plan.values()))
    return set().union(*map(stages, plan)) if isinstance(plan, list) else set()


@pytest.mark.parametrize("domain", LISTED, ids=lambda domain: domain.name)
def test_an_index_answers_what_is_asked_for_and_nothing_is_sorted_in_memory(
    opened: Callable[[], Store], domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    for number in range(3):
        handle(store, domain, f"t{number}").write_example()
    scope = make_key(domain, parts(domain, "t0")).scope
    plans: list[Any] = []

    def explained(found: Any, _: float) -> Iterator[Any]:
        plans.append(bson.decode(found.explain().raw))
        return iter(())

    monkeypatch.setattr(listing, "bounded", explained)
    asked: list[dict[str, Any]] = [{"limit": 10}, {"only": Only(since_ms=BASE_MS)}, {"only": Only(items=("t0", "t1"))}]
    asked += [{"limit": 10, "only": Only(where=((name, "x"),))} for name in domain.filters]
    for options in asked:
        plans.clear()
        assert list(store.scan(scope, **options)) == []
        (plan,) = plans
        found = stages(plan["queryPlanner"]["winningPlan"])
        assert "IXSCAN" in found, options
        assert not found & {"SORT", "COLLSCAN"}, options


def test_a_large_collection_gets_its_missing_indexes_beside_the_work_and_the_doctor_names_them(
    opened: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = next(domain for domain in LISTED if domain.filters)
    store = opened()
    store.put(make_change(key := make_key(domain, (False, "a")), example(domain, "a")))
    collection = truth_of(store)._collections[domain]
    wanted = {index.fields for index in layout.wanted(domain)}
    for name, index in collection.index_information().items():
        if indexes.index_fields(index) in wanted and not index.get("unique"):
            collection.drop_index(name)
    assert any("updatedDate" in finding.seen for finding in of_collection(collection, domain))
    monkeypatch.setattr(indexes, "AT_ONCE_MAX", 0)
    again = opened()
    assert [record.key for record in again.scan(Key(domain, key.parts[:1]), limit=1)] == [key]
    eventually(lambda: not list(of_collection(collection, domain)), within_s=60)
