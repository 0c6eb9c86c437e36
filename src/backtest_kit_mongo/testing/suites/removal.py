"""Soft deletion of Measure, Interval and Memory."""

from __future__ import annotations

from typing import Any

import pytest

from backtest_kit_mongo.coherence.record import Domain
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.testing.calls import calls
from backtest_kit_mongo.testing.examples import BASE_MS, MINUTE_MS, example
from backtest_kit_mongo.testing.handles import REMOVABLE, Handle, difference, handle, items, parts
from backtest_kit_mongo.testing.suites.documents import by_name


def listed(registry: Any, domain: Domain, *context: Any) -> list[str]:
    """What the domain's own list method shows, as keys."""
    found = getattr(registry, f"list_{domain.name}_data")(*context)
    return sorted(entry[domain.columns[-1]] if isinstance(entry, dict) else entry for entry in found)


@pytest.mark.parametrize("domain", REMOVABLE, ids=by_name)
class TestSoftRemoval:
    def test_a_removed_document_reads_as_nothing_and_is_not_listed(
        self, store: Store, twin: Store, domain: Domain, tag: str
    ) -> None:
        through, key = calls(domain), parts(domain, tag)
        registry = through.over(store)
        through.write(registry, example(domain), key, BASE_MS)
        assert listed(registry, domain, *key[:-1]) == [key[-1]]
        getattr(registry, f"remove_{domain.name}_data")(*key)
        for reader in (registry, through.over(twin), registry):
            assert through.read(reader, key, None) is None
            assert listed(reader, domain, *key[:-1]) == []

    def test_removal_is_a_write_that_marks_record_and_payload(
        self, store: Store, twin: Store, domain: Domain, tag: str
    ) -> None:
        here = handle(store, domain, tag)
        written = here.write_example()
        removed = store.remove(here.key)
        assert removed is not None
        expected = {**example(domain), "removed": True}
        for found in (removed, here.read(), here.read(), handle(twin, domain, tag).read()):
            assert (found.exists, found.removed, found.rev) == (True, True, 2)
            assert (found.id, found.when) == (written.id, written.when)
            assert difference(dict(sorted(found.payload.items())), dict(sorted(expected.items()))) is None

    def test_removing_again_does_nothing(self, store: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        here.write_example()
        store.remove(here.key)
        assert store.remove(here.key) is None
        assert here.read().rev == 2

    def test_removing_a_missing_key_does_nothing_and_leaves_its_neighbours(
        self, store: Store, domain: Domain, tag: str
    ) -> None:
        here = handle(store, domain, tag)
        here.write_example()
        missing = here.key.scope.child("missing")
        assert store.remove(missing) is None
        assert not store.read(missing).exists
        assert here.read().rev == 1

    @pytest.mark.parametrize("removed", [{}, {"removed": False}, {"removed": None}], ids=["absent", "false", "null"])
    def test_a_later_write_brings_the_document_back(
        self, store: Store, twin: Store, domain: Domain, removed: dict[str, Any], tag: str
    ) -> None:
        here = handle(store, domain, tag)
        here.write_example()
        store.remove(here.key)
        expected = {"data": "again", **removed}
        here.write(expected)
        for found in (here.read(), here.read(), handle(twin, domain, tag).read()):
            assert (found.removed, found.rev) == (False, 3)
            assert difference(found.payload, expected) is None
        assert items(store, here.key.scope) == [here.key.item]

    def test_a_payload_that_says_removed_is_removed(self, store: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        here.write({**example(domain), "removed": True})
        assert here.read().removed
        assert items(store, here.key.scope) == []

    def test_a_bucket_can_be_cleared_while_it_is_listed(self, store: Store, domain: Domain, tag: str) -> None:
        # More than the 101 documents of a cursor's first batch.
        scope = handle(store, domain, tag).key.scope
        for number in range(110):
            Handle(store, scope.child(f"{number}")).write_example()
        for record in store.scan(scope):
            store.remove(record.key)
        assert items(store, scope) == []


class TestRemovedMemory:
    def test_has_memory_data_ignores_the_flag(self, store: Store, twin: Store, tag: str) -> None:
        through, key = calls(BY_NAME["memory"]), parts(BY_NAME["memory"], tag)
        registry = through.over(store)
        assert registry.has_memory_data(*key) is False
        through.write(registry, example(BY_NAME["memory"]), key, BASE_MS)
        assert registry.has_memory_data(*key) is True
        registry.remove_memory_data(*key)
        assert [registry.has_memory_data(*key), through.over(twin).has_memory_data(*key)] == [True, True]

    def test_has_memory_data_stays_false_after_removing_a_missing_key(self, store: Store, tag: str) -> None:
        registry, key = calls(BY_NAME["memory"]).over(store), parts(BY_NAME["memory"], tag)
        registry.remove_memory_data(*key)
        assert registry.has_memory_data(*key) is False

    def test_removal_keeps_the_time_of_the_last_write(self, store: Store, tag: str) -> None:
        here = handle(store, BY_NAME["memory"], tag)
        here.write_example(BASE_MS + MINUTE_MS)
        store.remove(here.key)
        assert here.read().when == BASE_MS + MINUTE_MS
