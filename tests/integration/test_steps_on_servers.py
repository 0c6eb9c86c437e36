"""Steps on real servers: what is known, and what is left in Redis, when a connection breaks at the wrong moment."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pymongo.client_session import ClientSession
from pymongo.errors import AutoReconnect
from tests.integration.support import store_for

import backtest_kit_mongo as bk
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.errors import UnsafeServer, WriteOutcomeUnknown
from backtest_kit_mongo.testing.suites.steps import Spots

pytestmark = pytest.mark.live


@pytest.fixture
def store(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Store]:
    with store_for(servers, new_database(), lease_ms=15_000) as opened:
        yield opened


def leases(store: Store) -> list[bytes]:
    cache: Any = store.cache
    found: list[bytes] = cache._link.execute("KEYS", f"*{cache._options.database}:l:*")
    return found


class Broken:
    """The commit, of which no answer comes: it was executed, or it was not, so many times."""

    def __init__(self, *, executes: bool, times: int) -> None:
        self.executes, self.left = executes, times
        self.commit = ClientSession.commit_transaction

    def __call__(self, session: ClientSession) -> None:
        if not self.left:
            self.commit(session)
            return
        self.left -= 1
        if self.executes:
            self.commit(session)
        lost = AutoReconnect("connection closed")
        lost._add_error_label("UnknownTransactionCommitResult")
        raise lost


@pytest.mark.parametrize("executes", [True, False])
def test_a_commit_without_an_answer_is_sent_again_until_it_is_known(
    store: Store, monkeypatch: pytest.MonkeyPatch, executes: bool
) -> None:
    here = Spots(store, "again")
    broken = Broken(executes=executes, times=2)
    monkeypatch.setattr(ClientSession, "commit_transaction", lambda session: broken(session))
    with bk.step():
        here.write()
    assert here.revs() == [1, 1, 1, 1]
    assert leases(store) == []


def test_leases_stay_where_the_outcome_is_unknown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Spots(store, "unknown")
    broken = Broken(executes=True, times=10_000)
    monkeypatch.setattr(ClientSession, "commit_transaction", lambda session: broken(session))
    monkeypatch.setattr(store.truth._transactions, "_timeout_s", 0.05)  # type: ignore[attr-defined]
    with pytest.raises(WriteOutcomeUnknown, match="as a whole"), bk.step():
        here.write()
    assert len(leases(store)) == 4
    monkeypatch.undo()
    assert here.revs() == [1, 1, 1, 1]  # Read past the cache, and never in part.


def test_a_step_builds_lost_indexes_again_before_it_writes(store: Store) -> None:
    here, there = Spots(store, "lost"), Spots(store, "lost too")
    with bk.step():
        here.write()
    database = store.truth._database  # type: ignore[attr-defined]
    collections = [database[collection_of(one.key.domain)] for one in here.all]
    for lost in (lambda each: each.drop_indexes(), lambda each: each.drop()):
        deque(map(lost, collections), maxlen=0)
        with bk.step():
            there.write()
        assert all(any(index.get("unique") for index in each.index_information().values()) for each in collections)
    assert there.revs() == [1, 1, 1, 1]


def test_a_mongodb_without_transactions_is_refused_before_anything_is_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Spots(store, "alone")
    monkeypatch.setattr(store.truth._transactions, "hello", {})  # type: ignore[attr-defined]
    with pytest.raises(UnsafeServer, match="atomic=False"), bk.step():
        here.write()
    assert here.revs() == [0, 0, 0, 0]
    with bk.step(atomic=False) as step:
        here.write()
        assert here.revs()[3] == 0
    assert here.revs() == [1, 1, 1, 1]
    assert set(step.revisions.values()) == {1}
