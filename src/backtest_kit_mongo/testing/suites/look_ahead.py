"""The guard against look-ahead: a read at an earlier simulation time does not see a later write."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from backtest_kit_mongo.coherence.record import Domain, OnConflict, Shape
from backtest_kit_mongo.domains.table import BY_NAME, DOMAINS
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.look_ahead import simulation_time
from backtest_kit_mongo.testing.calls import calls, domains_with
from backtest_kit_mongo.testing.examples import BASE_MS, example, extended
from backtest_kit_mongo.testing.handles import DOCUMENTS, GUARDED, Handle, difference, handle, items, parts
from backtest_kit_mongo.testing.suites.documents import EMPTY, by_name

LISTED = tuple(domain for domain in GUARDED if domain.shape is Shape.KEYED)


def test_the_originals_nine_domains_carry_a_simulation_time() -> None:
    names = {"risk", "partial", "breakeven", "interval", "memory", "recent", "state", "dictionary", "session"}
    assert {domain.name for domain in DOMAINS if domain.has_when} >= names


@pytest.mark.parametrize("domain", GUARDED, ids=by_name)
class TestLookAhead:
    def test_a_read_before_the_write_sees_nothing_and_one_from_it_on_sees_it(
        self, store: Store, twin: Store, domain: Domain, tag: str
    ) -> None:
        through, key = calls(domain), parts(domain, tag)
        through.write(through.over(store), example(domain), key, BASE_MS)
        for reader in (through.over(store), through.over(twin), through.over(store)):
            assert through.read(reader, key, BASE_MS - 1) == EMPTY.get(domain.name)
            assert difference(through.read(reader, key, BASE_MS), example(domain)) is None
            assert difference(through.read(reader, key, BASE_MS + 1), example(domain)) is None

    def test_a_read_without_a_time_sees_everything(self, store: Store, domain: Domain, tag: str) -> None:
        through, key = calls(domain), parts(domain, tag)
        registry = through.over(store)
        through.write(registry, example(domain), key, BASE_MS)
        assert difference(through.read(registry, key, None), example(domain)) is None

    def test_dates_and_milliseconds_mean_the_same(self, store: Store, domain: Domain, tag: str) -> None:
        through, key = calls(domain), parts(domain, tag)
        registry = through.over(store)
        through.write(registry, example(domain), key, datetime(2024, 1, 1, tzinfo=UTC))
        assert handle(store, domain, tag).read().when == BASE_MS
        assert through.read(registry, key, datetime(2023, 12, 31, tzinfo=UTC)) == EMPTY.get(domain.name)
        assert difference(through.read(registry, key, datetime(2024, 1, 1, tzinfo=UTC)), example(domain)) is None

    def test_a_smaller_time_may_overwrite(self, store: Store, twin: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        here.write(extended(domain, late=True), when=BASE_MS)
        here.read()
        here.write(extended(domain, late=False), when=BASE_MS - 1000)
        for found in (here.read(), here.read(), handle(twin, domain, tag).read()):
            assert (found.rev, found.when, found.visible(BASE_MS - 1000)) == (2, BASE_MS - 1000, True)
            assert difference(found.payload, extended(domain, late=False)) is None

    def test_any_time_in_milliseconds_is_kept_as_an_integer(
        self, store: Store, twin: Store, domain: Domain, tag: str
    ) -> None:
        here, there = handle(store, domain, tag), handle(twin, domain, tag)
        for when in (0, -1, -(2**53), 2**31, 2**53):
            here.write_example(when)
            for found in (here.read(), here.read(), there.read()):
                assert difference(found.when, when) is None


class TestLookAheadInLists:
    @pytest.mark.parametrize("domain", LISTED, ids=by_name)
    def test_a_list_hides_what_was_written_later(self, store: Store, domain: Domain, tag: str) -> None:
        scope = handle(store, domain, tag).key.scope
        for number in range(3):
            Handle(store, scope.child(f"{number}")).write_example(BASE_MS + number)
        assert items(store, scope, when=BASE_MS - 1) == []
        assert items(store, scope, when=BASE_MS) == ["0"]
        assert items(store, scope, when=BASE_MS + 1) == ["0", "1"]
        assert items(store, scope) == ["0", "1", "2"]

    @pytest.mark.parametrize("domain", LISTED, ids=by_name)
    def test_a_limit_counts_only_what_may_be_seen(self, store: Store, domain: Domain, tag: str) -> None:
        scope = handle(store, domain, tag).key.scope
        for number in range(4):
            Handle(store, scope.child(f"{number}")).write_example(BASE_MS + number)
        assert len(items(store, scope, when=BASE_MS + 1, limit=2)) == 2
        assert items(store, scope, when=BASE_MS + 1, limit=9) == ["0", "1"]

    @pytest.mark.parametrize("domain", [d for d in domains_with("list") if d.has_when], ids=by_name)
    def test_the_list_methods_take_a_time(self, store: Store, domain: Domain, tag: str) -> None:
        through, key = calls(domain), parts(domain, tag)
        registry = through.over(store)
        through.write(registry, example(domain), key, BASE_MS)
        method = getattr(registry, f"list_{domain.name}_data")
        assert [len(list(method(*key[:-1], when=when))) for when in (BASE_MS - 1, BASE_MS, None)] == [0, 1, 1]

    def test_has_memory_data_is_not_guarded(self, store: Store, tag: str) -> None:
        through, key = calls(BY_NAME["memory"]), parts(BY_NAME["memory"], tag)
        registry = through.over(store)
        through.write(registry, example(BY_NAME["memory"]), key, BASE_MS)
        assert registry.has_memory_data(*key) is True


class TestDomainsWithoutTime:
    @pytest.mark.parametrize("domain", [d for d in DOCUMENTS if not d.has_when], ids=by_name)
    def test_no_time_is_stored(self, store: Store, twin: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        here.write_example()
        assert [here.read().when, handle(twin, domain, tag).read().when] == [None, None]

    @pytest.mark.parametrize("domain", [d for d in DOCUMENTS if not d.has_when], ids=by_name)
    def test_a_write_at_a_simulation_time_is_stamped_and_one_without_is_not(
        self, store: Store, twin: Store, domain: Domain, tag: str
    ) -> None:
        here, there, through = handle(store, domain, tag), handle(twin, domain, tag), calls(domain)
        registry = through.over(store)
        with simulation_time(BASE_MS):
            through.write(registry, example(domain, here.key.item), here.key.parts, None)
        assert [here.read().when, there.read().when] == [BASE_MS, BASE_MS]
        if domain.on_conflict is OnConflict.REPLACE:
            here.write(extended(domain, here.key.item, again=True))
            assert [here.read().when, there.read().when] == [None, None]

    def test_measure_takes_a_time_and_is_exempt_from_the_guard(self, store: Store, tag: str) -> None:
        through, key = calls(BY_NAME["measure"]), parts(BY_NAME["measure"], tag)
        registry = through.over(store)
        through.write(registry, example(BY_NAME["measure"]), key, BASE_MS)
        assert difference(through.read(registry, key, None), example(BY_NAME["measure"])) is None
