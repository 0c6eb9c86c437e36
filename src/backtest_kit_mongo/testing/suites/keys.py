"""Key parts may hold anything, and two keys never meet: not in file names, not in cache keys, not in a registry's
memory.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import pytest

from backtest_kit_mongo.candles.columns import of_rows
from backtest_kit_mongo.candles.intervals import INTERVALS, grid_of
from backtest_kit_mongo.coherence.record import Domain, Key, Part, Shape
from backtest_kit_mongo.domains.checks import make_key
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.testing.calls import calls
from backtest_kit_mongo.testing.examples import BASE_MS, candles, example, extended, free_object
from backtest_kit_mongo.testing.handles import DOCUMENTS, Handle, handle, parts
from backtest_kit_mongo.testing.suites.documents import by_name

HOSTILE: Final = (
    "a:b", "a_b", "a/b", "/a", "a/", "a\\b", ".", "..", "../x", "../../../x", "a/../b", "~", "~/x", "%", "%2F", "%25",
    "a%3Ab", "a%253Ab",
    ".json", "x.json", ".tmp-x", "-", "*", "?", "{bk:0}", "$ne", "a.b", "'", '"', "a\nb", "a\0b", " ", " a", "a ",
    "a b", "a+b", "A", "a",
    "null", "0", "live", "é", "e\u0301", "Привет", "🚀", "👩\u200d💻", "\u202e", "İ",
    "x" * 200, "x" * 199 + "y", "я" * 200, "🚀" * 200, "_" * 200,
)  # fmt: skip
"""Every one of them is another name than all others, and stands beside them in the same column."""

SEPARATORS: Final = (":", "_", "/", "%", "~", " ", "%3A", "%2F", "__")


def with_part(domain: Domain, tag: str, index: int, value: str) -> Key:
    known = parts(domain, tag)
    return make_key(domain, (*known[:index], value, *known[index + 1 :]))


def text_columns(domain: Domain) -> list[int]:
    return [i for i, column in enumerate(domain.key) if column.type is str and column.choices is None]


CASES: Final = [
    pytest.param(domain, index, id=f"{domain.name}-{domain.key[index].name}")
    for domain in DOCUMENTS
    for index in text_columns(domain)
]


def stored_mark(found: Any, domain: Domain) -> Any:
    return free_object(domain, found)["mark"] if found else None


def write_marks(store: Store, keys: list[Key]) -> None:
    """Store under each key a payload that names its place in the list."""
    for mark, key in enumerate(keys):
        Handle(store, key).write(extended(key.domain, key.item, mark=mark))


def read_marks(store: Store, keys: list[Key]) -> list[Any]:
    return [stored_mark(Handle(store, key).read().payload, key.domain) for key in keys]


class TestHostileKeys:
    @pytest.mark.parametrize(("domain", "index"), CASES)
    def test_any_text_is_a_key_part_and_names_one_document(
        self, store: Store, twin: Store, domain: Domain, index: int, tag: str
    ) -> None:
        store.open()
        # A list's rows have no context of their own, so its ids are distinguished by the tag.
        prefix = tag if domain.shape is Shape.LIST else ""
        keys = [with_part(domain, tag, index, prefix + value) for value in HOSTILE]
        write_marks(store, keys)
        for reader in (store, twin):
            reader.open()
            found = [Handle(reader, key).read() for key in keys]
            assert [stored_mark(record.payload, domain) for record in found] == list(range(len(keys)))
            assert {record.rev for record in found} == {1}

    @pytest.mark.parametrize("domain", [d for d in DOCUMENTS if d.shape is not Shape.SLOT], ids=by_name)
    def test_hostile_names_are_listed_as_they_were_given(
        self, store: Store, twin: Store, domain: Domain, tag: str
    ) -> None:
        scope = handle(store, domain, tag).key.scope
        prefix = tag if domain.shape is Shape.LIST else ""
        names = [prefix + value for value in HOSTILE]
        write_marks(store, [scope.child(name) for name in names])
        for reader in (store, twin):
            found = [str(record.key.item) for record in reader.scan(scope)]
            assert sorted(name for name in found if name.startswith(prefix)) == sorted(names)

    @pytest.mark.parametrize("domain", [d for d in DOCUMENTS if d.shape is Shape.KEYED], ids=by_name)
    def test_lists_of_hostile_contexts_do_not_mix(self, store: Store, domain: Domain, tag: str) -> None:
        store.open()
        for index in text_columns(domain)[:-1]:
            keys = [with_part(domain, f"{tag}{index}", index, value) for value in HOSTILE[:24]]
            write_marks(store, keys)
            own = [[r for r in store.scan(key.scope) if str(r.key.item).startswith(tag)] for key in keys]
            found = [[stored_mark(record.payload, domain) for record in records] for records in own]
            assert found == [[mark] for mark in range(len(keys))]

    @pytest.mark.parametrize("domain", DOCUMENTS, ids=by_name)
    def test_hostile_contexts_do_not_meet_in_a_registry(self, store: Store, domain: Domain, tag: str) -> None:
        through = calls(domain)
        registry = through.over(store)
        prefix = tag if domain.shape is Shape.LIST else ""
        index = text_columns(domain)[0]
        keys = [
            with_part(domain, tag, index, prefix + value).parts for value in ("a:b", "a/b", "a_b", "..", "🚀", "a b")
        ]
        for mark, key in enumerate(keys):
            through.write(registry, extended(domain, key[-1], mark=mark), key, BASE_MS)
        found = [stored_mark(through.read(registry, key, None), domain) for key in keys]
        assert found == list(range(len(keys)))

    @pytest.mark.parametrize("domain", [d for d in DOCUMENTS if d.shape is not Shape.LIST], ids=by_name)
    def test_a_part_may_be_empty(self, store: Store, twin: Store, domain: Domain, tag: str) -> None:
        # Live runs have an empty frame name.
        store.open()
        twin.open()
        for index in text_columns(domain):
            key = with_part(domain, f"{tag}{index}", index, "")
            Handle(store, key).write_example()
            assert [Handle(reader, key).read().rev for reader in (store, store, twin)] == [1, 1, 1]

    @pytest.mark.parametrize("domain", [d for d in DOCUMENTS if "backtest" in d.columns], ids=by_name)
    def test_live_and_backtest_stay_apart(self, store: Store, domain: Domain, tag: str) -> None:
        store.open()
        known, index = parts(domain, tag), domain.columns.index("backtest")
        keys = [make_key(domain, (*known[:index], mode, *known[index + 1 :])) for mode in (False, True)]
        write_marks(store, keys)
        assert read_marks(store, keys) == [0, 1]


def colliding(domain: Domain, tag: str) -> list[Key]:
    """Pairs of keys that become one text if their parts are joined, for each two neighbouring text columns and each
    separator.
    """
    columns, known = text_columns(domain), parts(domain, tag)
    keys = []
    for left, right in pairwise(columns):
        for separator in SEPARATORS:
            for one, other in ((f"{tag}r{separator}a", "b"), (f"{tag}r", f"a{separator}b")):
                values: list[Part] = list(known)
                values[left], values[right] = one, other
                keys.append(make_key(domain, tuple(values)))
    return keys


PAIRED = tuple(domain for domain in DOCUMENTS if len(text_columns(domain)) > 1)


class TestCollisions:
    """("r_a", "b") and ("r", "a_b"): one record in the original's files, ("a:b", "c") and ("a", "b:c") one in its cache
    (contracts 7.1, 7.4).
    """

    @pytest.mark.parametrize("domain", PAIRED, ids=by_name)
    def test_contexts_that_look_alike_when_joined_stay_apart(
        self, store: Store, twin: Store, domain: Domain, tag: str
    ) -> None:
        store.open()
        twin.open()
        keys = colliding(domain, tag)
        write_marks(store, keys)
        for reader in (store, twin):
            assert read_marks(reader, keys) == list(range(len(keys)))

    @pytest.mark.parametrize("domain", PAIRED, ids=by_name)
    def test_contexts_that_look_alike_when_joined_stay_apart_in_a_registry(
        self, store: Store, domain: Domain, tag: str
    ) -> None:
        through, keys = calls(domain), colliding(domain, tag)
        registry = through.over(store)
        for mark, key in enumerate(keys):
            through.write(registry, extended(domain, key.item, mark=mark), key.parts, BASE_MS)
        found = [stored_mark(through.read(registry, key.parts, None), domain) for key in keys]
        assert found == list(range(len(keys)))

    @pytest.mark.parametrize("domain", [d for d in PAIRED if d.shape is Shape.KEYED], ids=by_name)
    def test_lists_of_contexts_that_look_alike_when_joined_stay_apart(
        self, store: Store, domain: Domain, tag: str
    ) -> None:
        store.open()
        keys = colliding(domain, tag)
        write_marks(store, keys)
        for scope in {key.scope for key in keys}:
            expected = [mark for mark, key in enumerate(keys) if key.scope == scope]
            assert sorted(stored_mark(record.payload, domain) for record in store.scan(scope)) == expected

    @pytest.mark.parametrize("name", ["recent", "session"])
    def test_an_empty_frame_does_not_let_its_neighbours_touch(self, store: Store, name: str, tag: str) -> None:
        store.open()
        domain = BY_NAME[name]
        keys = [
            make_key(domain, tuple({**dict(zip(domain.columns, parts(domain, tag), strict=True)), **fields}.values()))
            for exchange, frame, symbol in (
                ("e", "f", "s"), ("e_f", "", "s"), ("e/f", "", "s"), ("e", "f_", "s"), ("e_", "f", "s"), ("e", "",
                    "f_s"), ("e", "", "s"),
                ("e", "", "live"), ("e", "live", "s"), ("e", "backtest", "s"), ("e", "s_live", "s"), ("e", "",
                    "s_live"), ("e", "f", "s_live"),
            )
            for mode in (False, True)
            for fields in ({"exchangeName": exchange, "frameName": frame, "symbol": symbol, "backtest": mode},)
        ]  # fmt: skip
        write_marks(store, keys)
        assert read_marks(store, keys) == list(range(len(keys)))

    @pytest.mark.parametrize("domain", DOCUMENTS, ids=by_name)
    def test_domains_with_the_same_key_stay_apart(self, store: Store, domain: Domain, tag: str) -> None:
        here = handle(store, domain, tag)
        here.write_example()
        for other in DOCUMENTS:
            if other is not domain and other.columns == domain.columns:
                assert not handle(store, other, tag).read().exists


class TestSeriesKeys:
    def write(self, store: Store, scopes: list[Key]) -> None:
        for mark, scope in enumerate(scopes):
            grid = grid_of(scope.item)
            row = {**example(BY_NAME["candle"]), "timestamp": grid.ceil(BASE_MS), "volume": float(mark)}
            assert store.append(scope, of_rows([row]), grid).new == (row["timestamp"],)

    def marks(self, store: Store, scopes: list[Key]) -> list[list[float]]:
        return [[row["volume"] for row in store.window(scope, 0, 2**53)] for scope in scopes]

    def scopes(self, *contexts: tuple[str, str, str]) -> list[Key]:
        return [make_key(BY_NAME["candle"], context) for context in contexts]

    def test_any_text_is_an_exchange_or_a_symbol(self, store: Store, twin: Store, tag: str) -> None:
        values = (*HOSTILE, "")
        scopes = self.scopes(*((v, f"{tag}s", "1m") for v in values), *((f"{tag}e", v, "1m") for v in values))
        self.write(store, scopes)
        for reader in (store, twin):
            assert self.marks(reader, scopes) == [[float(mark)] for mark in range(len(scopes))]

    def test_series_that_look_alike_when_joined_stay_apart(self, store: Store, twin: Store, tag: str) -> None:
        scopes = self.scopes(
            *((f"{tag}r{s}a", "b", "1m") for s in SEPARATORS), *((f"{tag}r", f"a{s}b", "1m") for s in SEPARATORS)
        )
        self.write(store, scopes)
        for reader in (store, twin):
            assert self.marks(reader, scopes) == [[float(mark)] for mark in range(len(scopes))]

    def test_intervals_stay_apart(self, store: Store, tag: str) -> None:
        scopes = self.scopes(*((f"{tag}e", "s", interval) for interval in INTERVALS))
        self.write(store, scopes)
        assert self.marks(store, scopes) == [[float(mark)] for mark in range(len(scopes))]

    def test_two_exchanges_hold_the_same_window(self, store: Store, tag: str) -> None:
        # The oldest schema had no exchange in the key, and its unique index refused the second one.
        one, other = self.scopes((f"{tag}a", "s", "1m"), (f"{tag}b", "s", "1m"))
        rows = candles(5)
        assert len(store.append(one, of_rows(rows), grid_of("1m")).new) == 5
        assert len(store.append(other, of_rows(rows), grid_of("1m")).new) == 5
