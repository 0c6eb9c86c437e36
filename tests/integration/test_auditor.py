"""The auditor finds a stale entry, and only a stale entry, on real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.integration.support import eventually, settings_for, store_for

from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.backends.redis.cache import RedisCache
from backtest_kit_mongo.coherence.keys import entry_pattern, names, parse_entry_name
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import BY_NAME, DOMAINS, RECENT, STATE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.operate.cache_check import Auditor, Report, summary

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def audited(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[tuple[Store, Auditor, list[float]]]:
    database = f"{new_database()}_audited"
    clock = [0.0]
    with store_for(servers, database) as store:
        for number in range(20):
            store.write(make_change(Key(STATE, (f"s:{number}", "b/c")), {"data": number}, number))

        def all_cached() -> bool:
            for number in range(20):
                store.read(Key(STATE, (f"s:{number}", "b/c")))
            return len(auditor.keys(100)) == 20

        assert isinstance(store.truth, MongoTruth)
        assert isinstance(store.cache, RedisCache)
        auditor = Auditor(settings_for(servers, database), store.truth, store.cache._link, lambda: clock[0])
        eventually(all_cached)
        yield store, auditor, clock


def test_a_coherent_cache_has_no_violation(audited: tuple[Store, Auditor, list[float]]) -> None:
    _, auditor, _ = audited
    report = Report()
    auditor.check(auditor.keys(100), report)
    assert summary(report)["checked"] == 20
    assert summary(report)["nines"] is None
    assert not report.violations


def test_a_stale_entry_is_found_with_its_trace_and_its_age(audited: tuple[Store, Auditor, list[float]]) -> None:
    store, auditor, clock = audited
    key = Key(STATE, ("s:7", "b/c"))
    cache: Any = store.cache
    name = cache._names(key).entry
    old = cache._link.execute("GET", name)
    store.write(make_change(key, {"data": "new"}, 99))
    fresh = cache._link.execute("GET", name)
    cache._link.execute("SET", name, old)
    try:
        report = Report()
        auditor.check(auditor.keys(100), report)
        (violation,) = report.violations
        assert (violation.key, violation.cached_rev, violation.stored_rev) == (key, 1, 2)
        assert [rev for rev, *_ in violation.trace] == [2, 1]
        assert report.nines == pytest.approx(1.30, abs=0.01)
        for now_s, still in ((0.5, 0), (1.5, 1), (61, 2)):
            clock[0] = violation.first_seen_s + now_s
            auditor.recheck(report)
            assert len(violation.ages_s) == still
        cache._link.execute("SET", name, fresh)
        clock[0] = violation.first_seen_s + 301
        auditor.recheck(report)
        assert violation.ages_s == [1.0, 60.0]
    finally:
        cache._link.execute("SET", name, fresh)


def test_entries_of_another_incarnation_are_no_violations(audited: tuple[Store, Auditor, list[float]]) -> None:
    store, auditor, _ = audited
    cache: Any = store.cache
    name = cache._names(Key(STATE, ("s:3", "b/c"))).entry
    entry = cache._link.execute("GET", name)
    cache._link.execute("SET", name, b"f" * 40 + entry[40:])
    report = Report()
    auditor.check(auditor.keys(100), report)
    assert (report.foreign, report.violations) == (1, [])


def test_a_sample_is_bounded(audited: tuple[Store, Auditor, list[float]]) -> None:
    assert len(audited[1].keys(5, seed=1)) == 5


@pytest.mark.parametrize("domain", [domain for domain in DOMAINS if domain.cached], ids=lambda domain: domain.name)
def test_the_name_of_an_entry_gives_back_its_key(domain: Any) -> None:
    key = Key(domain, tuple(True if column.type is bool else "a:%/_*é" for column in domain.key))
    name = names("my db", 4, domain.name, key.parts).entry
    assert parse_entry_name(name, "my db", BY_NAME) == key
    assert parse_entry_name(name, "other", BY_NAME) is None


def test_an_empty_part_has_its_place_in_a_name() -> None:
    key = Key(RECENT, ("s", "st", "e", "", False))
    assert parse_entry_name(names("db", 1, "recent", key.parts).entry, "db", BY_NAME) == key
    assert "*" in entry_pattern("db")
