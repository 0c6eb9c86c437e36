"""All domains over one class that keeps values by id.

Each scope is an entity, each document a value: `{"payload": .., "rev": .., "when": .., "removed": .., "changed": ..}`,
plain JSON with the tags of the file backend (`backends/files/json.py`). A step is a value of its own before it is
carried out, and is completed by whoever opens the store next.

Writers of one process exclude each other. Of several processes that write one document at once the last one stays, and
both may have made the same revision: for that there are MongoDB and Redis.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, Final, Protocol

from backtest_kit_mongo.backends.files import names
from backtest_kit_mongo.backends.files.json import decode, encode
from backtest_kit_mongo.backends.row_series import RowsOnly
from backtest_kit_mongo.candles.columns import of_rows, to_rows
from backtest_kit_mongo.candles.conflicts import conflicts_of
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.deletion import Delete, DeleteAll, deletion, one_by_one
from backtest_kit_mongo.coherence.effects import Find, Published, SoftRemove, Upsert
from backtest_kit_mongo.coherence.events import Operation
from backtest_kit_mongo.coherence.inventory import Entry, Kept, Selection, entries_of, series_of
from backtest_kit_mongo.coherence.keys import text
from backtest_kit_mongo.coherence.lists import ALL, Merge, Only, Rows
from backtest_kit_mongo.coherence.record import Change, Domain, Key, OnConflict, Part, Record, Shape
from backtest_kit_mongo.coherence.series import Append, Appended
from backtest_kit_mongo.coherence.steps import Atomic, Drop, ExpectedRows, Put, require_rev
from backtest_kit_mongo.errors import BacktestKitError, NotFound, ReadFailed, WriteOutcomeUnknown
from backtest_kit_mongo.locks import Lock

INDEX: Final = "keys"
"""The id of the list of ids, in an entity of its own, for classes that cannot list them."""
STEPS: Final = "steps"
CONTEXTS: Final = "contexts"
"""The entity that lists the others: a class of values need not know them."""


class Values(Protocol):
    """What is needed of a class like `PersistBase`; `keys` may be missing."""

    def wait_for_init(self, initial: bool) -> None: ...
    def read_value(self, id: str) -> Any: ...  # noqa: A002 - the original's name
    def has_value(self, id: str) -> bool: ...  # noqa: A002 - the original's name
    def write_value(self, id: str, value: Any) -> None: ...  # noqa: A002 - the original's name


class Maker(Protocol):
    """The class."""

    def __call__(self, entity_name: str, base_dir: str) -> Values: ...


class Entity:
    """The values of one entity; errors are this package's."""

    def __init__(self, maker: Maker, name: str, base_dir: str, *, lists: bool) -> None:
        self.name = name
        self._values = maker(name, base_dir)
        self._index = None if lists else Entity(maker, f"{name}/{INDEX}", base_dir, lists=True)
        self._values.wait_for_init(True)

    def get(self, id: str) -> Any:  # noqa: A002 - the original's name
        """The value; None if there is none.

        Raises:
            ReadFailed: there is one, and it cannot be read.
        """
        try:
            return self._values.read_value(id)
        except NotFound:
            return None
        except BacktestKitError:
            raise  # A server that is away has not said that there is none.
        except Exception as cause:
            if self._is_absent(id):
                return None
            raise ReadFailed(f"{self._values!r}: {id!r:.60} cannot be read: {cause!r:.200}") from cause

    def _is_absent(self, id: str) -> bool:  # noqa: A002 - the original's name
        try:
            return not self._values.has_value(id)
        except Exception:
            return False

    def put(self, id: str, value: Any) -> None:  # noqa: A002 - the original's name
        try:
            self._values.write_value(id, value)
        except BacktestKitError:
            raise
        except Exception as cause:
            raise WriteOutcomeUnknown(
                f"{self._values!r}: {id!r:.60} could not be written: {cause!r:.200}. Whether it was is unknown: "
                "read it, or write it again."
            ) from cause
        if self._index is not None and id not in (known := self._index.get(INDEX) or []):
            self._index.put(INDEX, [*known, id])

    def delete(self, id: str) -> None:  # noqa: A002 - the original's name
        """Of a class that cannot remove, null stays in its place, which reads as if there were none."""
        remove = getattr(self._values, "remove_value", None)
        if remove is None:
            self.put(id, None)
            return
        try:
            remove(id)
        except NotFound:
            return
        except BacktestKitError:
            raise
        except Exception as cause:
            raise WriteOutcomeUnknown(
                f"{self._values!r}: {id!r:.60} could not be removed: {cause!r:.200}. It may be gone: repeat it."
            ) from cause

    def ids(self) -> list[str]:
        if self._index is not None:
            return list(self._index.get(INDEX) or [])
        try:
            return [str(id) for id in self._values.keys()]  # type: ignore[attr-defined]  # noqa: A001, SIM118
        except Exception as cause:
            raise ReadFailed(f"{self._values!r}: its ids cannot be listed: {cause!r:.200}") from cause


class PersistTruth(RowsOnly):
    """A `Truth` over a class of values.

    Args:
        lists: the class says which ids it has (`keys`); otherwise a list of them is kept beside.
    """

    def __init__(self, maker: Maker, base_dir: str, *, lists: bool) -> None:
        self._maker, self._base_dir, self._lists = maker, base_dir, lists
        self._entities = lru_cache(maxsize=10_000)(self._entity)
        self._lock = Lock(over_forks=True)
        self._known: set[str] = set()
        """Entities that are listed."""
        self._is_open = False
        self._name = f"{socket.gethostname()}-{os.getpid()}"

    def open(self) -> None:
        with self._lock:
            if not self._is_open:
                steps = self._entities(STEPS)
                for name in steps.ids():
                    self._complete(name, steps.get(name))
                self._is_open = True

    def close(self) -> None:
        return

    def _entity(self, name: str) -> Entity:
        return Entity(self._maker, name, self._base_dir, lists=self._lists)

    def _of(self, scope: Key) -> Entity:
        return self._entities("/".join((scope.domain.name, *(names.escape(text(part)) for part in scope.parts))))

    def _to(self, scope: Key) -> Entity:
        """The entity of a scope that is about to be written to: from then on it is known that there is one."""
        entity = self._of(scope)
        if entity.name not in self._known:
            contexts = self._entities(CONTEXTS)
            if contexts.get(entity.name) is None:
                contexts.put(entity.name, {"domain": scope.domain.name, "parts": list(scope.parts)})
            self._known.add(entity.name)
        return entity

    def find(self, effect: Find) -> Record:
        return self._load(effect.key)

    def _load(self, key: Key) -> Record:
        value = self._of(key.scope).get(text(key.item))
        return Record(key) if value is None else _record(key, value)

    def upsert(self, effect: Upsert) -> Record:
        with self._lock:
            self._expect(effect.change.key, effect.expected_rev)
            return self._put(effect.change)

    def _expect(self, key: Key, expected_rev: int | None) -> None:
        if expected_rev is not None:
            require_rev(self._load(key), expected_rev)

    def _put(self, change: Change) -> Record:
        record, value = self._made(change, self._load(change.key))
        self._to(change.key.scope).put(text(change.key.item), value)
        return record

    def _made(self, change: Change, before: Record) -> tuple[Record, dict[str, Any]]:
        key, rev = change.key, before.rev + 1
        payload = json.loads(encode(change.whole().payload, key.domain.model))
        value = {
            "payload": payload, "rev": rev, "when": change.when, "removed": change.removed, "changed": self.now_ms(),
        }  # fmt: skip
        return Record(key, rev, change.payload, change.when, change.removed, str(key)), value

    def remove(self, effect: SoftRemove) -> Record | None:
        with self._lock:
            change = _removal(self._load(effect.key))
            return None if change is None else self._put(change)

    def delete(self, effect: Delete) -> Record | None:
        with self._lock:
            record = self._load(effect.key)
            if record.exists:
                self._of(effect.key.scope).delete(text(effect.key.item))
            return deletion(record, effect.note) if record.exists else None

    def delete_all(self, effect: DeleteAll) -> tuple[Record | None, ...]:
        return one_by_one(self.delete, effect)

    def rows(self, effect: Rows) -> Mapping[Part, Record]:
        found = (self._load(effect.scope.child(item)) for item in effect.items)
        return {record.key.item: record for record in found if record.exists}

    def merge(self, effect: Merge) -> tuple[Published, ...]:
        with self._lock:
            wanted = self._wanted(effect.scope.domain, [row.change for row in effect.rows])
            return tuple(Published(self._put(change), "upsert", change.body) for change in wanted)

    def _wanted(self, domain: Domain, changes: Sequence[Change]) -> list[Change]:
        keeps = domain.on_conflict is OnConflict.KEEP
        return [change for change in changes if not (keeps and self._load(change.key).exists)]

    def atomic(self, effect: Atomic) -> tuple[tuple[Published, ...], ...]:
        with self._lock:
            for write in effect.writes:
                if not isinstance(write, ExpectedRows):
                    self._expect(write.key, write.expected_rev)
            published, planned = [], []
            for write in effect.writes:
                made = [(change, *self._made(change, self._load(change.key))) for change in self._changes(write)]
                planned += [
                    [self._to(change.key.scope).name, text(change.key.item), value] for change, _, value in made
                ]
                published.append(
                    tuple(Published(record, _operation(record), pack(record.payload)) for _, record, _ in made)
                )
            self._entities(STEPS).put(self._name, planned)
            self._complete(self._name, planned)
            return tuple(published)

    def _changes(self, write: Any) -> list[Change]:
        if isinstance(write, Put):
            return [write.change]
        if isinstance(write, Drop):
            change = _removal(self._load(write.key))
            return [] if change is None else [change]
        if isinstance(write, ExpectedRows):
            return self._wanted(write.key.domain, [row.change for row in write.rows])
        return []

    def _complete(self, name: str, planned: Any) -> None:
        for entity, item, value in planned or []:
            self._entities(entity).put(item, value)
        self._entities(STEPS).put(name, [])

    def require_steps(self) -> None:
        """A step is written down before it is carried out."""

    def step_lifetime_ms(self) -> int:
        return 0

    def scan(
        self, scope: Key, *, when: int | None, limit: int | None, keys_only: bool, only: Only = ALL
    ) -> Iterator[Record]:
        entity, parse = self._of(scope), _parser(scope.domain)
        kept = [(item, value) for item in entity.ids() if (value := entity.get(item)) is not None]
        kept.sort(key=lambda one: one[1].get("changed", 0))
        found = [(_record(scope.child(parse(item)), value), value.get("changed", 0)) for item, value in kept]
        shown = [record for record, changed in found if record.visible(when) and only.fits(record, changed)]
        return islice(iter(shown) if limit is None and only == ALL else reversed(shown), limit)

    def browse(self, domain: Domain, chosen: Selection) -> Iterator[Entry]:
        contexts = self._entities(CONTEXTS)
        for name in contexts.ids():
            noted = contexts.get(name) or {}
            if noted.get("domain") == domain.name:
                yield from self._browsed(Key(domain, tuple(noted["parts"])), chosen)

    def _browsed(self, scope: Key, chosen: Selection) -> Iterator[Entry]:
        entity = self._of(scope)
        if scope.domain.shape is Shape.SERIES:
            times = [int(item) for item in entity.ids() if item.isdigit()]
            if times and chosen.fits(scope, None, None):
                yield series_of(scope, times)
            return
        parse = _parser(scope.domain)
        for item in entity.ids():
            if (value := entity.get(item)) is not None:
                kept = Kept(_record(scope.child(parse(item)), value), value.get("changed"), len(json.dumps(value)))
                yield from entries_of([kept], chosen)

    def append(self, effect: Append) -> Appended:
        with self._lock:
            entity = self._to(effect.scope)
            offered = {int(row["timestamp"]): row for row in to_rows(effect.rows)}
            stored = {at: row for at in offered if (row := entity.get(str(at))) is not None}
            conflicts = conflicts_of(of_rows([stored[at] for at in offered if at in stored]), effect.rows)
            new = tuple(at for at in offered if at not in stored)
            for at in new:
                entity.put(str(at), offered[at])
        return Appended(new, conflicts)

    def window(self, scope: Key, since: int, until: int) -> list[dict[str, Any]]:
        entity = self._of(scope)
        times = sorted(int(item) for item in entity.ids() if item.isdigit() and since <= int(item) < until)
        return [row for at in times if (row := entity.get(str(at))) is not None]


def _record(key: Key, value: Any) -> Record:
    try:
        body = json.dumps(value["payload"]).encode()
        payload = decode(body, key.domain.model, foreign=False)
        return Record(key, value["rev"], payload, value["when"], value["removed"], str(key))
    except (KeyError, TypeError, ValueError, RecursionError) as cause:
        raise ReadFailed(f"{key}: what is stored is no document of this package: {cause!r:.200}") from cause


def _removal(record: Record) -> Change | None:
    if not record.exists or record.removed:
        return None
    payload = {**record.payload, "removed": True}
    return Change(record.key, payload, pack(payload), record.when, removed=True)


def _operation(record: Record) -> Operation:
    return "remove" if record.removed else "upsert"


def _parser(domain: Domain) -> Any:
    kind = domain.key[-1].type
    return str if kind is str else (lambda item: item == text(True)) if kind is bool else int
