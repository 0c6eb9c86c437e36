"""Lists are complete, limits are explicit, and a list writes only the rows that differ."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

from backtest_kit_mongo.coherence.effects import Upsert
from backtest_kit_mongo.coherence.lists import Expected, Merge, Rows
from backtest_kit_mongo.coherence.record import Change, Domain, Key, OnConflict, Shape
from backtest_kit_mongo.domains.checks import make_change, make_key
from backtest_kit_mongo.domains.table import BY_NAME, DOMAINS
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import InvalidKey, InvalidPayload
from backtest_kit_mongo.testing.calls import call_of, calls, domains_with
from backtest_kit_mongo.testing.examples import BASE_MS, example, extended
from backtest_kit_mongo.testing.handles import LISTS, Handle, difference, handle, items, parts
from backtest_kit_mongo.testing.suites.documents import by_name

MANY: Final = 1_050
"""Above every limit of the original (1000 and 200)."""

LISTED = domains_with("list", "read_rows")
SCANNED = tuple(domain for domain in DOMAINS if domain.shape in (Shape.KEYED, Shape.LIST))


def change(key: Key, **extra: Any) -> Change:
    """An example for this key, with more fields."""
    payload = extended(key.domain, key.item, **extra)
    return make_change(key, payload, BASE_MS if key.domain.has_when else None)


def list_method(store: Store, key: Key) -> Callable[..., list[str]]:
    """The domain's own list of the key's scope, as `call(limit=...)`; it gives keys."""
    domain, context = key.domain, key.parts[:-1]
    registry = calls(domain).over(store)
    verb = "read" if domain.shape is Shape.LIST else "list"

    def call(**options: Any) -> list[str]:
        rows = getattr(registry, f"{verb}_{domain.name}_data")(*context, **options)
        names = (row if isinstance(row, str) else row.get(domain.columns[-1]) or row["id"] for row in rows)
        return sorted(names)

    return call


@pytest.mark.parametrize("domain", SCANNED, ids=by_name)
class TestLists:
    def test_a_list_has_every_document_of_its_scope_and_of_no_other(
        self, store: Store, twin: Store, domain: Domain, tag: str
    ) -> None:
        first, other = handle(store, domain, f"{tag}1"), handle(store, domain, f"{tag}2")
        names = [f"{first.key.item}{number}" for number in range(3)]
        for name in names:
            Handle(store, first.key.scope.child(name)).write_example()
        other.write_example()
        same_scope = [other.key.item] if other.key.scope == first.key.scope else []
        for reader in (store, twin):
            assert items(reader, first.key.scope, tag) == sorted([*names, *same_scope])

    def test_a_listed_record_is_the_one_that_a_read_gives(self, store: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        written = here.write_example()
        (found,) = [record for record in store.scan(here.key.scope) if record.key == here.key]
        assert difference(found.payload, written.payload) is None
        assert (found.rev, found.when, found.id, found.removed) == (1, written.when, written.id, False)

    def test_a_limit_gives_that_many_of_the_most_recently_changed(self, store: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        for number in range(4):
            Handle(store, here.key.scope.child(f"{here.key.item}{number}")).write_example()
        assert items(store, here.key.scope, limit=0) == []
        assert len(items(store, here.key.scope, limit=3)) == 3
        assert len(items(store, here.key.scope, tag, limit=10**6)) == 4
        # Change times may be coarse, so several writes can share one; a later one is newer than them all.
        deadline_s = time.monotonic() + 5
        for number in range(100_000):
            fresh = f"{here.key.item}-fresh{number if domain.on_conflict is OnConflict.KEEP else ''}"
            Handle(store, here.key.scope.child(fresh)).write(extended(domain, fresh, count=number))
            if items(store, here.key.scope, limit=1) == [fresh] or time.monotonic() > deadline_s:
                break
        assert items(store, here.key.scope, limit=1) == [fresh]


@pytest.mark.parametrize("domain", LISTED, ids=by_name)
class TestListMethods:
    def test_more_documents_than_any_limit_of_the_original_are_all_listed(
        self, store: Store, twin: Store, domain: Domain, tag: str
    ) -> None:
        # Among backtests, because the other tests share the live lists and would have to read so many rows each time.
        known = make_key(domain, parts(domain, tag, backtest=True))
        keys = [known.scope.child(f"{tag}{number:04}") for number in range(MANY)]
        changes = tuple(change(key) for key in keys)
        if domain.shape is Shape.LIST:
            assert store.merge(known.scope, changes) == MANY
        else:
            store.open()
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda each: store.truth.upsert(Upsert(each, None)), changes))
        expected = [str(key.item) for key in keys]
        for reader in (store, twin):
            assert [name for name in list_method(reader, known)() if name.startswith(tag)] == expected
        assert len(list_method(store, known)(limit=1_020)) == 1_020

    def test_a_limit_is_checked(self, store: Store, domain: Domain, tag: str) -> None:
        listing = list_method(store, handle(store, domain, tag).key)
        for wrong in (-1, 1.0, "1", True):
            with pytest.raises(InvalidKey):
                listing(limit=wrong)

    def test_a_limit_is_optional_and_may_be_larger_than_the_list(self, store: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        here.write_example()
        listing = list_method(store, here.key)
        assert here.key.item in listing()
        assert here.key.item in listing(limit=None)
        assert here.key.item in listing(limit=10**6)
        assert listing(limit=0) == []


def putting(store: Store, domain: Domain) -> Callable[..., None]:
    """The domain's own method that writes one row."""
    registry = calls(domain).over(store)
    call = call_of(registry, "put_row")
    assert call is not None
    method: Callable[..., None] = getattr(registry, call.name)
    return method


def ledger(store: Store, domain: Domain, tag: str, count: int) -> tuple[Key, list[Key]]:
    """A list's scope and the keys of `count` rows."""
    scope = handle(store, domain, tag).key.scope
    return scope, [scope.child(f"{tag}{number}") for number in range(count)]


def revisions(store: Store, keys: list[Key]) -> list[int]:
    return [Handle(store, key).read().rev for key in keys]


@pytest.mark.parametrize("domain", [d for d in LISTS if d.on_conflict is OnConflict.REPLACE], ids=by_name)
class TestListWrites:
    def test_only_rows_that_differ_are_written(self, store: Store, domain: Domain, tag: str) -> None:
        scope, keys = ledger(store, domain, tag, 5)
        assert store.merge(scope, tuple(change(key) for key in keys)) == 5
        again = [change(key, new=1) if index == 2 else change(key) for index, key in enumerate(keys)]
        assert store.merge(scope, again) == 1
        assert store.merge(scope, again) == 0
        assert revisions(store, keys) == [1, 1, 2, 1, 1]

    def test_another_store_of_the_same_data_writes_only_rows_that_differ(
        self, store: Store, twin: Store, domain: Domain, tag: str
    ) -> None:
        # Whatever was stored must encode to the same bytes again, or a restart would rewrite every row.
        scope, keys = ledger(store, domain, tag, 3)
        odd = {"nan": float("nan"), "one": 1.0, "int": 2**40, "empty": {}, "zero": -0.0}
        store.merge(scope, tuple(change(key, odd=odd) for key in keys))
        twin.open()
        assert twin.merge(scope, tuple(change(key, odd=odd) for key in keys)) == 0
        assert revisions(twin, keys) == [1, 1, 1]

    def test_a_row_that_another_store_changed_is_written_again(
        self, store: Store, twin: Store, domain: Domain, tag: str
    ) -> None:
        scope, keys = ledger(store, domain, tag, 2)
        store.merge(scope, tuple(change(key) for key in keys))
        twin.open()
        assert twin.merge(scope, (change(keys[0], by="twin"),)) == 1
        assert store.merge(scope, tuple(change(key) for key in keys)) == 1
        assert difference(Handle(twin, keys[0]).read().payload, example(domain, keys[0].item)) is None
        assert revisions(store, keys) == [3, 1]

    def test_a_value_of_another_type_is_a_difference(self, store: Store, domain: Domain, tag: str) -> None:
        scope, (key,) = ledger(store, domain, tag, 1)
        for rev, value in enumerate((1, 1.0, True, None, "1"), start=1):
            assert store.merge(scope, (change(key, value=value),)) == 1
            assert (Handle(store, key).read().rev, Handle(store, key).read().payload["value"]) == (rev, value)

    def test_rows_that_are_not_in_the_list_stay(self, store: Store, domain: Domain, tag: str) -> None:
        scope, keys = ledger(store, domain, tag, 3)
        store.merge(scope, tuple(change(key) for key in keys))
        store.merge(scope, (change(keys[1], new=1),))
        store.merge(scope, (change(keys[0]),))
        assert items(store, scope, tag) == [str(key.item) for key in keys]
        assert revisions(store, keys) == [1, 2, 1]

    def test_the_last_of_two_rows_with_one_id_wins(self, store: Store, domain: Domain, tag: str) -> None:
        registry, key = calls(domain).over(store), parts(domain, tag)
        write = getattr(registry, f"write_{domain.name}_data")
        write([extended(domain, key[-1], n=1), extended(domain, key[-1], n=2)], *key[:-1])
        assert handle(store, domain, tag).read().payload["n"] == 2

    def test_a_rewritten_list_of_a_registry_writes_what_changed(self, store: Store, domain: Domain, tag: str) -> None:
        registry, (scope, keys) = calls(domain).over(store), ledger(store, domain, tag, 4)
        write = getattr(registry, f"write_{domain.name}_data")
        rows = [example(domain, key.item) for key in keys]
        write(rows, *scope.parts)
        rows[3]["new"] = {"in": "place"}
        write(rows, *scope.parts)
        rows[3]["new"]["in"] = "again"
        write(rows, *scope.parts)
        assert revisions(store, keys) == [1, 1, 1, 3]

    def test_live_and_backtest_or_any_two_contexts_are_two_lists(self, store: Store, domain: Domain, tag: str) -> None:
        registry = calls(domain).over(store)
        contexts = [parts(domain, f"{tag}{mode}", backtest=mode)[:-1] for mode in (False, True)]
        for context in contexts:
            getattr(registry, f"write_{domain.name}_data")([extended(domain, f"{tag}x", of=[*context])], *context)
        read = getattr(registry, f"read_{domain.name}_data")
        found = [[row["of"] for row in read(*context) if row["id"] == f"{tag}x"] for context in contexts]
        assert found == [[[*context]] for context in contexts]


@pytest.mark.parametrize("domain", LISTS, ids=by_name)
class TestRowWrites:
    """One row of a list, beside writes of the whole list, here and on another host."""

    def test_a_row_is_written_and_the_rest_of_the_list_stays(
        self, store: Store, twin: Store, domain: Domain, tag: str
    ) -> None:
        scope, keys = ledger(store, domain, tag, 3)
        store.merge(scope, tuple(change(key) for key in keys))
        put = putting(store, domain)
        again = 2 if domain.on_conflict is OnConflict.REPLACE else 1
        for item in (f"{tag}new", keys[1].item):
            put(extended(domain, item, by="row"), *scope.parts)
        put(extended(domain, keys[1].item, by="row"), *scope.parts)
        assert items(twin, scope, tag) == [*(str(key.item) for key in keys), f"{tag}new"]
        assert revisions(store, [*keys, scope.child(f"{tag}new")]) == [1, again * 2 - 1, 1, 1]
        stored = Handle(twin, keys[1]).read().payload
        assert ("by" in stored) is (again == 2)

    def test_lists_and_rows_of_two_hosts_lose_nothing(
        self, store: Store, twin: Store, domain: Domain, tag: str
    ) -> None:
        scope, keys = ledger(store, domain, tag, 4)
        rows = [change(key) for key in keys]
        keeps = domain.on_conflict is OnConflict.KEEP
        twin.open()
        assert store.merge(scope, rows) == 4
        assert twin.put(change(keys[2], by="twin")) == (not keeps)
        assert store.merge(scope, rows) == (not keeps)
        rows[0] = change(keys[0], by="store")
        assert store.put(rows[0]) == (not keeps)
        assert store.merge(scope, rows) == 0
        assert twin.merge(scope, rows) == 0
        assert revisions(twin, keys) == ([1] * 4 if keeps else [2, 1, 3, 1])

    def test_a_row_that_is_wrong_or_several_are_refused(self, store: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        put = putting(store, domain)
        wrongs: list[Any] = [
            [example(domain, here.key.item)],
            {},
            None,
            extended(domain, here.key.item, timestamp="soon"),
        ]
        for wrong in wrongs:
            with pytest.raises(InvalidPayload):
                put(wrong, *here.key.scope.parts)
        assert not here.read().exists


@pytest.mark.parametrize("domain", LISTS, ids=by_name)
class TestReadsOfSome:
    """What is asked for is said by name, and comes with the most recently changed row first."""

    def test_rows_are_found_by_id_by_value_and_by_the_time_of_their_change(
        self, store: Store, twin: Store, domain: Domain, tag: str
    ) -> None:
        scope, keys = ledger(store, domain, tag, 4)
        put = putting(store, domain)
        read = getattr(calls(domain).over(twin), f"read_{domain.name}_data")
        for name in domain.filters:
            put(extended(domain, keys[0].item, **{name: f"{tag}-{name}"}), *scope.parts)
        since_ms = _after_now(store)
        for key in keys[1:]:
            put(extended(domain, key.item, **dict.fromkeys(domain.filters, f"{tag}-other")), *scope.parts)
            _after_now(store)
        *_, second, third, fourth = (str(key.item) for key in keys)

        def found(**options: Any) -> list[str]:
            return [row["id"] for row in read(*scope.parts, **options) if row["id"].startswith(tag)]

        assert found(since=since_ms) == found(since=since_ms, limit=10) == [fourth, third, second]
        assert found(limit=2) == [fourth, third]
        assert found(ids=[second, fourth, f"{tag}-nowhere"]) == [fourth, second]
        assert found(ids=third) == [third]
        assert found(ids=[]) == found(ids=third, since=since_ms + 10**9) == []
        for name in domain.filters:
            assert found(**{name: f"{tag}-other"}) == [fourth, third, second]
            assert found(**{name: f"{tag}-other"}, limit=1, since=since_ms) == [fourth]
            assert found(**{name: f"{tag}-other"}, ids=[second, keys[0].item]) == [second]
        wrongs: list[dict[str, Any]] = [
            {"since": "yesterday"},
            {"ids": [1]},
            *({name: {"$ne": 1}} for name in domain.filters),
        ]
        for wrong in wrongs:
            with pytest.raises(InvalidKey):
                found(**wrong)


def _after_now(store: Store) -> int:
    """A moment (ms) that lies after all that was written, once it has come: rows of one bulk are milliseconds apart,
    and so are rows that are written one after the other.
    """
    began_ms = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 <= began_ms + 5:
        time.sleep(0.001)
    return began_ms + 5


class TestTheLog:
    """Append-only; the original replaced entries (contracts 7.1)."""

    def test_an_entry_is_never_overwritten(self, store: Store, twin: Store, tag: str) -> None:
        scope, keys = ledger(store, BY_NAME["log"], tag, 2)
        assert store.merge(scope, (change(keys[0], topic="first"),)) == 1
        twin.open()
        later = (change(keys[0], topic="second"), change(keys[1]))
        assert [twin.merge(scope, later), store.merge(scope, later)] == [1, 0]
        assert Handle(store, keys[0]).read().payload["topic"] == "first"
        assert revisions(store, keys) == [1, 1]

    def test_writing_a_longer_log_adds_the_new_entries_only(self, store: Store, tag: str) -> None:
        scope, keys = ledger(store, BY_NAME["log"], tag, 6)
        assert [store.merge(scope, tuple(map(change, keys[:count]))) for count in (2, 2, 5, 3, 6)] == [2, 0, 3, 0, 1]
        assert revisions(store, keys) == [1] * 6

    def test_the_first_of_two_entries_with_one_id_wins_and_the_other_is_named(
        self, store: Store, tag: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        registry = calls(BY_NAME["log"]).over(store)
        rows = [extended(BY_NAME["log"], f"{tag}x", topic=topic) for topic in ("first", "second", "third")]
        registry.write_log_data(rows[:2])
        for _ in range(2):
            registry.write_log_data(rows[2:])
            registry.write_log_data(rows[:1])
        (found,) = [row for row in registry.read_log_data() if row["id"] == f"{tag}x"]
        assert found["topic"] == "first"
        named = [record.getMessage() for record in caplog.records if "NOT stored is" in record.getMessage()]
        assert len(named) == 2
        assert all(f"{tag}x" in message for message in named)


class TestRowsThatOthersWrote:
    """The truth's own `merge`, when what the caller expects to be stored is out of date."""

    @pytest.mark.parametrize("domain", [d for d in LISTS if d.on_conflict is OnConflict.REPLACE], ids=by_name)
    @pytest.mark.parametrize("expected_rev", [None, 1, 2, 7], ids=lambda rev: f"expecting_{rev}")
    def test_a_row_gets_the_revision_after_the_one_that_is_stored(
        self, store: Store, domain: Domain, expected_rev: int | None, tag: str
    ) -> None:
        here = handle(store, domain, tag)
        here.write_example()
        second = here.write(extended(domain, here.key.item, new=2))
        expected = Expected(change(here.key, new=3), expected_rev, second.id if expected_rev else "")
        (published,) = store.truth.merge(Merge(here.key.scope, (expected,), None))
        for record in (published.record, here.read()):
            assert (record.rev, record.id, record.payload["new"]) == (3, second.id, 3)

    def test_a_log_entry_that_appeared_meanwhile_is_kept_and_its_neighbours_are_written(
        self, store: Store, tag: str
    ) -> None:
        scope, keys = ledger(store, BY_NAME["log"], tag, 3)
        store.merge(scope, (change(keys[1], topic="first"),))
        rows = tuple(Expected(change(key, topic="second"), None) for key in keys)
        written = store.truth.merge(Merge(scope, rows, None))
        assert [(new.record.key, new.record.rev) for new in written] == [(keys[0], 1), (keys[2], 1)]
        assert [Handle(store, key).read().payload["topic"] for key in keys] == ["second", "first", "second"]

    @pytest.mark.parametrize("domain", LISTS, ids=by_name)
    def test_rows_that_do_not_exist_are_not_answered(self, store: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        here.write_example()
        found = store.truth.rows(Rows(here.key.scope, (f"{tag}missing", here.key.item)))
        assert list(found) == [here.key.item]
        assert store.truth.rows(Rows(here.key.scope, ())) == {}


@pytest.mark.parametrize("domain", LISTS, ids=by_name)
class TestAnEmptyList:
    def test_writing_no_rows_changes_nothing(self, store: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        here.write_example()
        before = items(store, here.key.scope)
        getattr(calls(domain).over(store), f"write_{domain.name}_data")([], *here.key.parts[:-1])
        assert store.merge(here.key.scope, ()) == 0
        assert items(store, here.key.scope) == before
        assert here.read().rev == 1
