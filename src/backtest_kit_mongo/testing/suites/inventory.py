"""What there is can be listed, whatever it is called."""

from __future__ import annotations

from collections.abc import Iterable

from backtest_kit_mongo.coherence.inventory import Entry, Selection
from backtest_kit_mongo.coherence.record import Domain, Key, Shape
from backtest_kit_mongo.domains.checks import make_change, make_key
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.testing.calls import calls
from backtest_kit_mongo.testing.examples import BASE_MS, example
from backtest_kit_mongo.testing.handles import NULLABLE, REMOVABLE, Handle, difference, items, parts

ODD = "a_b_ c/d%5F~.é:"
"""In every part: what names of files and queries could take for something else."""


def written(store: Store, domain: Domain, tag: str) -> Key:
    """One document of each domain, through its adapter; its key, of a series its scope."""
    key = make_key(domain, parts(domain, tag))
    calls(domain).write(calls(domain).over(store), example(domain, key.item), key.parts, BASE_MS)
    return key.scope if domain.shape is Shape.SERIES else key


def keys(entries: Iterable[Entry]) -> list[Key]:
    return [entry.key for entry in entries]


class TestInventory:
    def test_everything_is_found_by_a_part_of_its_name_and_read_by_what_is_listed(self, store: Store, tag: str) -> None:
        name = f"{tag}{ODD}"
        for domain in DOMAINS:
            key = written(store, domain, name)
            (entry,) = store.browse(domain, Selection(text=name.upper()))
            assert (entry.key, entry.is_empty, entry.removed, entry.rows) == (key, False, False, 1)
            assert store.census(domain, Selection(text=name)).holding == 1
            registry = calls(domain).over(store)
            text = next((n for n, part in zip(domain.columns, key.parts, strict=False) if part == f"{name}-{n}"), "")
            context = registry.list_contexts(**{text: f"{name}-{text}"})
            if domain.shape is not Shape.LIST:
                assert list(context[0].values()) == list(key.parts[: len(context[0])])
                assert keys(store.browse(domain, Selection(((text, f"{name}-{text}"),)))) == [key]

    def test_what_was_cleared_or_removed_holds_nothing(self, store: Store, tag: str) -> None:
        for domain in DOMAINS:
            here = Handle(store, make_key(domain, parts(domain, tag)))
            if domain.name in NULLABLE or domain in REMOVABLE:
                here.write_example()
                if domain in REMOVABLE:
                    store.remove(here.key)
                else:
                    here.write(None)
                (entry,) = store.browse(domain, Selection(text=tag))
                assert (entry.is_empty, entry.removed, entry.rev) == (True, domain in REMOVABLE, 2)
                assert store.census(domain, Selection(text=tag))[:2] == (1, 0)

    def test_what_is_deleted_is_gone_for_good_and_may_be_made_anew(self, store: Store, twin: Store, tag: str) -> None:
        for domain in DOMAINS:
            if domain.shape is Shape.SERIES:
                continue
            key = written(store, domain, tag)
            here, there = Handle(store, key), Handle(twin, key)
            twin.open()
            assert [here.read().rev, there.read().rev] == [1, 1]
            deleted = store.delete(key, {"by": "me", "why": "a test"})
            assert deleted is not None
            assert (deleted.rev, deleted.payload) == (2, {"by": "me", "why": "a test"})
            assert not any(one.read().exists for one in (here, there))
            assert keys(twin.browse(domain, Selection(text=tag))) == []
            assert [twin.delete(key, {}), store.delete(key, {})] == [None, None]
            if domain.shape is not Shape.SLOT:
                assert items(twin, key.scope, tag) == []
            again = example(domain, key.item)
            assert here.write(again).rev == 1
            assert difference(there.read().payload, here.read().payload) is None
            if domain.shape is Shape.LIST:
                # Whoever remembers the list must not believe that the row is still stored.
                twin.merge(key.scope, [make_change(key, again)])
                store.delete(key, {})
                assert twin.merge(key.scope, [make_change(key, again)]) == 1

    def test_rows_of_a_list_are_found_by_what_they_carry(self, store: Store, tag: str) -> None:
        for name in ("storage", "log"):
            domain = next(one for one in DOMAINS if one.name == name)
            here = Handle(store, make_key(domain, parts(domain, tag)))
            row = example(domain, here.key.item)
            context = row[domain.context_field] if domain.context_field else row
            context["strategyName"] = tag
            here.write(row)
            assert keys(store.browse(domain, Selection((("strategyName", tag),)))) == [here.key]
