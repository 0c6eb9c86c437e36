"""A backend of one's own, as small as it can be: a dict behind the ports. It knows no domain, and nothing knows it.

pytest --pyargs backtest_kit_mongo.testing.conformance --bkm-store=tests.conformance.dict_backend:make_store
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count, islice
from threading import RLock
from typing import Any

from backtest_kit_mongo.backends.row_series import RowsOnly
from backtest_kit_mongo.candles.columns import of_rows, to_rows
from backtest_kit_mongo.candles.conflicts import conflicts_of
from backtest_kit_mongo.coherence.codec import pack, unpack
from backtest_kit_mongo.coherence.deletion import Delete, DeleteAll, deletion, one_by_one
from backtest_kit_mongo.coherence.effects import Find, Published, SoftRemove, Upsert
from backtest_kit_mongo.coherence.events import Operation
from backtest_kit_mongo.coherence.inventory import Entry, Kept, Selection, entries_of, series_of
from backtest_kit_mongo.coherence.lists import ALL, Merge, Only, Rows
from backtest_kit_mongo.coherence.record import Change, Domain, Key, OnConflict, Part, Record
from backtest_kit_mongo.coherence.series import Append, Appended
from backtest_kit_mongo.coherence.steps import Atomic, Drop, ExpectedRows, Put, Ready, require_rev
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.ports import NoCache


class DictTruth(RowsOnly):
    """Records by key, their payloads as bytes, the latest change last."""

    def __init__(self) -> None:
        self._records: dict[Key, Record] = {}
        self._changed_ms: dict[Key, int] = {}
        self._candles: dict[Key, dict[int, dict[str, Any]]] = {}
        self._ids = count(1)
        self._lock = RLock()

    def open(self) -> None:
        """There is nothing to connect to."""

    def close(self) -> None:
        """There is nothing to close."""

    def find(self, effect: Find) -> Record:
        record = self._records.get(effect.key)
        return Record(effect.key) if record is None else record._replace(payload=unpack(record.payload))

    def upsert(self, effect: Upsert) -> Record:
        with self._lock:
            self._expect(effect.change.key, effect.expected_rev)
            return self._put(effect.change)

    def _expect(self, key: Key, expected_rev: int | None) -> None:
        if expected_rev is not None:
            require_rev(self.find(Find(key)), expected_rev)

    def _put(self, change: Change) -> Record:
        with self._lock:
            before = self._records.pop(change.key, None) or Record(change.key, id=str(next(self._ids)))
            after = Record(change.key, before.rev + 1, change.body, change.when, change.removed, before.id)
            self._records[change.key] = after
            self._changed_ms[change.key] = self.now_ms()
            return after._replace(payload=change.payload)

    def remove(self, effect: SoftRemove) -> Record | None:
        with self._lock:
            record = self.find(Find(effect.key))
            if not record.exists or record.removed:
                return None
            payload = {**record.payload, "removed": True}
            return self._put(Change(effect.key, payload, pack(payload), record.when, removed=True))

    def delete(self, effect: Delete) -> Record | None:
        with self._lock:
            kept = self._records.pop(effect.key, None)
            return None if kept is None else deletion(kept, effect.note)

    def delete_all(self, effect: DeleteAll) -> tuple[Record | None, ...]:
        return one_by_one(self.delete, effect)

    def rows(self, effect: Rows) -> Mapping[Part, Record]:
        found = (self.find(Find(effect.scope.child(item))) for item in effect.items)
        return {record.key.item: record for record in found if record.exists}

    def merge(self, effect: Merge) -> tuple[Published, ...]:
        keeps = effect.scope.domain.on_conflict is OnConflict.KEEP
        with self._lock:
            wanted = [row.change for row in effect.rows if not (keeps and row.change.key in self._records)]
            return tuple(Published(self._put(change), "upsert", change.body) for change in wanted)

    def atomic(self, effect: Atomic) -> tuple[tuple[Published, ...], ...]:
        with self._lock:
            for write in effect.writes:
                if not isinstance(write, ExpectedRows):
                    self._expect(write.key, write.expected_rev)
            return tuple(self._written(write) for write in effect.writes)

    def _written(self, write: Ready) -> tuple[Published, ...]:
        if isinstance(write, Put):
            operation: Operation = "remove" if write.change.removed else "upsert"
            return (Published(self._put(write.change), operation, write.change.body),)
        if isinstance(write, Drop):
            record = self.remove(SoftRemove(write.key, None))
            return () if record is None else (Published(record, "remove", pack(record.payload)),)
        return self.merge(Merge(write.key, write.rows, None)) if isinstance(write, ExpectedRows) else ()

    def require_steps(self) -> None:
        """Steps can be done here."""

    def step_lifetime_ms(self) -> int:
        return 0

    def scan(
        self, scope: Key, *, when: int | None, limit: int | None, keys_only: bool, only: Only = ALL
    ) -> Iterator[Record]:
        with self._lock:
            kept = [self.find(Find(key)) for key in self._records if key.scope == scope]
            found = [one for one in kept if one.visible(when) and only.fits(one, self._changed_ms[one.key])]
        return islice(iter(found) if limit is None and only == ALL else reversed(found), limit)

    def browse(self, domain: Domain, chosen: Selection) -> Iterator[Entry]:
        for scope, rows in self._candles.items():
            if scope.domain is domain and chosen.fits(scope, None, None):
                yield series_of(scope, rows)
        stored = [self.find(Find(key)) for key in self._records if key.domain is domain]
        yield from entries_of([Kept(one, self._changed_ms[one.key], 0) for one in stored], chosen)

    def append(self, effect: Append) -> Appended:
        with self._lock:
            stored = self._candles.setdefault(effect.scope, {})
            offered = {int(row["timestamp"]): row for row in to_rows(effect.rows)}
            conflicts = conflicts_of(of_rows([stored[at] for at in offered if at in stored]), effect.rows)
            new = tuple(at for at in offered if at not in stored)
            stored.update((at, offered[at]) for at in new)
        return Appended(new, conflicts)

    def window(self, scope: Key, since: int, until: int) -> list[dict[str, Any]]:
        stored = self._candles.get(scope, {})
        return [dict(stored[at]) for at in sorted(stored) if since <= at < until]


def make_store() -> Store:
    return Store("a dict", DictTruth(), NoCache())
