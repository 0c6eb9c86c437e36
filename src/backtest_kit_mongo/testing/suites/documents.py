"""What holds for one document of any domain: empty reads, round trips, revisions, and that nothing is shared with the
caller.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from pydantic import BaseModel, TypeAdapter

from backtest_kit_mongo.coherence.record import Domain, OnConflict, Shape
from backtest_kit_mongo.domains.payloads import SignalRow, StrategyData
from backtest_kit_mongo.domains.table import BY_NAME, DOMAINS, context_names
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.testing.calls import calls, domains_with
from backtest_kit_mongo.testing.examples import BASE_MS, example, extended, free_object
from backtest_kit_mongo.testing.handles import (
    CACHED,
    DOCUMENTS,
    GUARDED,
    LISTS,
    NULLABLE,
    REMOVABLE,
    difference,
    handle,
    parts,
)

EMPTY: Final[dict[str, Any]] = {"risk": [], "partial": {}, "breakeven": {}}
"""What reads of the original's domains give where nothing is stored, unless None."""


def modelled(domain: Domain, payload: Any) -> Any:
    """The payload as its model, where the domain's payload is one object."""
    return TypeAdapter(domain.model).validate_python(payload)


MODELLED = tuple(d for d in DOCUMENTS if isinstance(modelled(d, example(d, "x")), BaseModel))
REPLACED = tuple(d for d in DOCUMENTS if d.on_conflict is OnConflict.REPLACE)


def by_name(domain: Any) -> str:
    return str(domain.name)


class TestAnEmptyStore:
    """Nothing is written here, so all tests can share the one empty store."""

    @pytest.mark.parametrize("domain", DOMAINS, ids=by_name)
    def test_reading_what_was_never_written_gives_the_originals_empty_value(
        self, empty_store: Store, domain: Domain
    ) -> None:
        through = calls(domain)
        assert through.read(through.over(empty_store), parts(domain, "none"), None) == EMPTY.get(domain.name)

    @pytest.mark.parametrize("domain", LISTS, ids=by_name)
    def test_an_empty_list_reads_as_an_empty_list(self, empty_store: Store, domain: Domain) -> None:
        registry = calls(domain).over(empty_store)
        assert getattr(registry, f"read_{domain.name}_data")(*parts(domain, "none")[:-1]) == []

    @pytest.mark.parametrize("name", sorted(EMPTY))
    def test_each_empty_value_is_the_callers_own(self, empty_store: Store, name: str) -> None:
        through = calls(BY_NAME[name])
        registry = through.over(empty_store)
        given = through.read(registry, parts(BY_NAME[name], "none"), None)
        given.append("mine") if isinstance(given, list) else given.update(mine=1)
        assert through.read(registry, parts(BY_NAME[name], "none"), None) == EMPTY[name]

    @pytest.mark.parametrize("domain", DOCUMENTS, ids=by_name)
    def test_a_record_of_nothing_does_not_exist_and_has_revision_zero(self, empty_store: Store, domain: Domain) -> None:
        for _ in range(2):
            found = handle(empty_store, domain, "none").read()
            assert (found.exists, found.rev, found.payload, found.removed) == (False, 0, None, False)

    @pytest.mark.parametrize("domain", REMOVABLE, ids=by_name)
    def test_removing_what_was_never_written_does_nothing(self, empty_store: Store, domain: Domain) -> None:
        missing = handle(empty_store, domain, "none")
        assert empty_store.remove(missing.key) is None
        assert not missing.read().exists
        assert list(empty_store.scan(missing.key.scope)) == []

    def test_memory_has_nothing(self, empty_store: Store) -> None:
        registry = calls(BY_NAME["memory"]).over(empty_store)
        assert registry.has_memory_data("none", "none", "none") is False
        assert list(registry.list_memory_data("none", "none")) == []

    def test_an_empty_candle_window_is_an_empty_list_and_not_a_miss(self, empty_store: Store) -> None:
        registry = calls(BY_NAME["candle"]).over(empty_store)
        assert registry.read_candles_data("none", "1m", "none", 0, BASE_MS, BASE_MS) == []

    def test_opening_again_does_nothing(self, empty_store: Store) -> None:
        empty_store.open()
        empty_store.open()


class TestADocument:
    @pytest.mark.parametrize("domain", DOCUMENTS, ids=by_name)
    def test_a_written_payload_is_read_back_exactly(self, store: Store, twin: Store, domain: Domain, tag: str) -> None:
        here, there = handle(store, domain, tag), handle(twin, domain, tag)
        written = here.write_example()
        expected = example(domain, here.key.item)
        # Twice: a shared cache answers the second read.
        for found in (written, here.read(), here.read(), there.read(), there.read()):
            assert difference(found.payload, expected) is None
            assert (found.key, found.exists, found.removed) == (here.key, True, False)
            assert found.when == (BASE_MS if domain in GUARDED else None)
            assert found.id == written.id

    @pytest.mark.parametrize("domain", DOMAINS, ids=by_name)
    def test_registries_read_back_what_they_wrote(self, store: Store, twin: Store, domain: Domain, tag: str) -> None:
        through, key = calls(domain), parts(domain, tag)
        expected = example(domain, key[-1])
        through.write(through.over(store), expected, key, BASE_MS)
        for reader in (through.over(store), through.over(twin)):
            found = through.read(reader, key, None)
            assert difference(found[0] if domain.shape is Shape.SERIES else found, expected) is None

    @pytest.mark.parametrize("domain", MODELLED, ids=by_name)
    def test_a_model_is_stored_as_the_data_it_was_made_from(self, store: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        expected = extended(domain, here.key.item, unknown=[1, {"x": None}])
        here.write(modelled(domain, expected))
        # A model gives its fields in its own order.
        assert here.read().payload == expected

    def test_a_model_of_a_derived_row_keeps_the_fields_that_its_base_lacks(self, store: Store, tag: str) -> None:
        here, row = handle(store, BY_NAME["strategy"], tag), example(BY_NAME["signal"])
        here.write(StrategyData(created_signal=SignalRow.model_validate(row)))
        assert here.read().payload == {"createdSignal": row}

    @pytest.mark.parametrize("domain", REPLACED, ids=by_name)
    def test_a_later_write_replaces_the_whole_payload(
        self, store: Store, twin: Store, domain: Domain, tag: str
    ) -> None:
        here = handle(store, domain, tag)
        here.write(extended(domain, here.key.item, old={"deep": 1}, both=1))
        here.read()
        expected = extended(domain, here.key.item, both=2)
        here.write(expected)
        for found in (here.read(), here.read(), handle(twin, domain, tag).read()):
            assert difference(found.payload, expected) is None

    @pytest.mark.parametrize("domain", REPLACED, ids=by_name)
    def test_revisions_start_at_one_and_rise_by_one_with_each_write(
        self, store: Store, twin: Store, domain: Domain, tag: str
    ) -> None:
        here, there = handle(store, domain, tag), handle(twin, domain, tag)
        for rev in range(1, 6):
            writer = (here, there)[rev % 2]
            written = writer.write(extended(domain, here.key.item, count=rev))
            assert [written.rev, here.read().rev, there.read().rev, here.read().rev] == [rev] * 4

    @pytest.mark.parametrize("domain", CACHED, ids=by_name)
    def test_writing_the_same_payload_again_is_a_write(self, store: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        assert [here.write_example().rev, here.write_example().rev] == [1, 2]

    @pytest.mark.parametrize("domain", CACHED, ids=by_name)
    def test_a_write_after_a_read_of_nothing_is_seen(self, store: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        assert not here.read().exists
        here.write_example()
        assert here.read().exists

    @pytest.mark.parametrize("name", NULLABLE)
    def test_none_is_stored_and_is_not_the_absence_of_a_record(
        self, store: Store, twin: Store, name: str, tag: str
    ) -> None:
        here, through = handle(store, BY_NAME[name], tag), calls(BY_NAME[name])
        registry = through.over(store)
        through.write(registry, example(here.key.domain), here.key.parts, None)
        through.write(registry, None, here.key.parts, None)
        for reader in (store, twin, twin):
            found = handle(reader, BY_NAME[name], tag).read()
            assert (found.exists, found.rev, found.payload) == (True, 2, None)
            assert through.read(through.over(reader), here.key.parts, None) is None
        assert here.write_example().rev == 3
        assert difference(here.read().payload, example(here.key.domain)) is None

    @pytest.mark.parametrize("domain", domains_with("drop"), ids=by_name)
    def test_a_disposed_context_is_made_anew_and_finds_its_data(self, store: Store, domain: Domain, tag: str) -> None:
        through, key = calls(domain), parts(domain, tag)
        registry = through.over(store)
        through.write(registry, example(domain), key, BASE_MS)
        registry.dispose(*key[: len(context_names(domain))])
        assert registry.context_count == 0
        assert difference(through.read(registry, key, None), example(domain)) is None

    @pytest.mark.parametrize("name", ["signal", "memory", "storage"])
    def test_concurrent_writers_get_a_revision_each_and_the_last_ones_payload_stays(
        self, store: Store, name: str, tag: str
    ) -> None:
        here = handle(store, BY_NAME[name], tag)

        def write(number: int) -> None:
            here.write(extended(here.key.domain, here.key.item, number=number))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(24)))
        found = here.read()
        assert found.rev == 24
        assert free_object(here.key.domain, found.payload)["number"] in range(24)
        if here.key.domain.shape is not Shape.SLOT:
            assert [r.key.item for r in store.scan(here.key.scope)].count(here.key.item) == 1


class TestNothingIsShared:
    """Changing an object that was written or read never changes what is stored."""

    @pytest.mark.parametrize("domain", DOCUMENTS, ids=by_name)
    def test_changing_the_callers_object_after_the_write_changes_nothing(
        self, store: Store, domain: Domain, tag: str
    ) -> None:
        here = handle(store, domain, tag)
        inner: dict[str, Any] = {"list": [1]}
        payload = extended(domain, here.key.item, inner=inner)
        here.write(payload)
        inner["list"].append(2)
        free_object(domain, payload)["more"] = 1
        assert difference(here.read().payload, extended(domain, here.key.item, inner={"list": [1]})) is None

    @pytest.mark.parametrize("domain", DOCUMENTS, ids=by_name)
    def test_changing_what_a_read_or_a_write_returned_changes_nothing(
        self, store: Store, domain: Domain, tag: str
    ) -> None:
        here = handle(store, domain, tag)
        expected = extended(domain, here.key.item, inner={"list": [1]})
        returned = here.write(expected)
        for found in (returned, here.read(), here.read()):
            free_object(domain, found.payload)["inner"]["list"].append(2)
        assert difference(here.read().payload, expected) is None

    @pytest.mark.parametrize("domain", [d for d in DOCUMENTS if d.shape is not Shape.SLOT], ids=by_name)
    def test_changing_what_a_list_returned_changes_nothing(self, store: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        expected = extended(domain, here.key.item, inner={"list": [1]})
        here.write(expected)
        for _ in range(2):
            (found,) = [record for record in store.scan(here.key.scope) if record.key == here.key]
            assert difference(found.payload, expected) is None
            free_object(domain, found.payload)["inner"]["list"].append(2)
