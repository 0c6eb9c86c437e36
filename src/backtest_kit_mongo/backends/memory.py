"""Documents in this process: a product for tests and throw-away runs, and the model that other backends are compared
with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from backtest_kit_mongo.backends.row_series import RowsOnly
from backtest_kit_mongo.coherence.codec import pack, unpack
from backtest_kit_mongo.coherence.deletion import Delete, DeleteAll, deletion, one_by_one
from backtest_kit_mongo.coherence.effects import Find, Published, SoftRemove, Upsert
from backtest_kit_mongo.coherence.inventory import Entry, Kept, Selection, entries_of, series_of
from backtest_kit_mongo.coherence.keys import escaped
from backtest_kit_mongo.coherence.lists import ALL, Merge, Only, Rows
from backtest_kit_mongo.coherence.record import Change, Domain, Key, OnConflict, Part, Record
from backtest_kit_mongo.coherence.series import Append, Appended
from backtest_kit_mongo.coherence.steps import Atomic, Drop, ExpectedRows, Put, Ready, require_rev
from backtest_kit_mongo.locks import Lock


class _Kept(NamedTuple):
    record: Record
    body: bytes
    changed_ms: int

    def whole(self) -> Record:
        return self.record._replace(payload=unpack(self.body))


class MemoryTruth(RowsOnly):
    """Thread-safe; payloads are kept as bytes, so nothing that a caller holds is ever shared."""

    def __init__(self) -> None:
        self._lock = Lock(over_forks=True)
        self._scopes: dict[Key, dict[Key, _Kept]] = {}
        """Documents by scope, each in order of the last change."""
        self._series: dict[Key, dict[int, dict[str, Any]]] = {}

    def open(self) -> None:
        return

    def close(self) -> None:
        return

    def find(self, effect: Find) -> Record:
        with self._lock:
            return self._load(effect.key)

    def _load(self, key: Key) -> Record:
        kept = self._scopes.get(key.scope, {}).get(key)
        return Record(key) if kept is None else kept.whole()

    def upsert(self, effect: Upsert) -> Record:
        with self._lock:
            self._expect(effect.change.key, effect.expected_rev)
            return self._store(effect.change)

    def _expect(self, key: Key, expected_rev: int | None) -> None:
        if expected_rev is not None:
            require_rev(self._load(key), expected_rev)

    def _store(self, change: Change) -> Record:
        key = change.key
        documents = self._scopes.setdefault(key.scope, {})
        kept = documents.pop(key, None)
        rev = 1 if kept is None else kept.record.rev + 1
        name = kept.record.id if kept else escaped((key.domain.name, *key.parts))
        record = Record(key, rev, None, change.when, change.removed, name)
        documents[key] = _Kept(record, change.body, self.now_ms())
        return record._replace(payload=change.payload)

    def remove(self, effect: SoftRemove) -> Record | None:
        with self._lock:
            record = self._load(effect.key)
            if not record.exists or record.removed:
                return None
            payload = {**record.payload, "removed": True}
            return self._store(Change(effect.key, payload, pack(payload), record.when, removed=True))

    def delete(self, effect: Delete) -> Record | None:
        with self._lock:
            kept = self._scopes.get(effect.key.scope, {}).pop(effect.key, None)
            return None if kept is None else deletion(kept.record, effect.note)

    def delete_all(self, effect: DeleteAll) -> tuple[Record | None, ...]:
        return one_by_one(self.delete, effect)

    def rows(self, effect: Rows) -> Mapping[Part, Record]:
        with self._lock:
            found = (self._load(effect.scope.child(item)) for item in effect.items)
            return {record.key.item: record for record in found if record.exists}

    def merge(self, effect: Merge) -> tuple[Published, ...]:
        keep = effect.scope.domain.on_conflict is OnConflict.KEEP
        with self._lock:
            return tuple(
                Published(self._store(row.change), "upsert", row.change.body)
                for row in effect.rows
                if not (keep and row.change.key in self._scopes.get(effect.scope, {}))
            )

    def atomic(self, effect: Atomic) -> tuple[tuple[Published, ...], ...]:
        with self._lock:
            for write in effect.writes:
                if not isinstance(write, ExpectedRows):
                    self._expect(write.key, write.expected_rev)
            return tuple(self._written(write) for write in effect.writes)

    def _written(self, write: Ready) -> tuple[Published, ...]:
        match write:
            case Put():
                return (
                    Published(
                        self._store(write.change), "remove" if write.change.removed else "upsert", write.change.body
                    ),
                )
            case Drop():
                record = self.remove(SoftRemove(write.key, None))
                return () if record is None else (Published(record, "remove", pack(record.payload)),)
            case ExpectedRows():
                return self.merge(Merge(write.key, write.rows, None))
        return ()

    def require_steps(self) -> None:
        return

    def step_lifetime_ms(self) -> int:
        return 0

    def append(self, effect: Append) -> Appended:
        from backtest_kit_mongo.candles.columns import of_rows, to_rows
        from backtest_kit_mongo.candles.conflicts import conflicts_of

        with self._lock:
            series = self._series.setdefault(effect.scope, {})
            offered = {int(row["timestamp"]): row for row in to_rows(effect.rows)}
            stored = of_rows([series[moment] for moment in offered if moment in series])
            new = tuple(moment for moment in offered if moment not in series)
            series.update((moment, offered[moment]) for moment in new)
        return Appended(new, conflicts_of(stored, effect.rows))

    def scan(
        self, scope: Key, *, when: int | None, limit: int | None, keys_only: bool, only: Only = ALL
    ) -> Iterator[Record]:
        with self._lock:
            documents = self._scopes.get(scope, {}).values()
            ordered = documents if limit is None and only == ALL else reversed(documents)
            found = (
                record
                for kept in ordered
                if kept.record.visible(when) and only.fits(record := kept.whole(), kept.changed_ms)
            )
            return iter(list(islice(found, limit)))

    def browse(self, domain: Domain, chosen: Selection) -> Iterator[Entry]:
        with self._lock:
            kept = [
                Kept(one.whole(), one.changed_ms, len(one.body))
                for scope, documents in self._scopes.items()
                if scope.domain is domain
                for one in documents.values()
            ]
            series = [
                series_of(scope, rows)
                for scope, rows in self._series.items()
                if scope.domain is domain and rows and chosen.fits(scope, None, None)
            ]
        return iter([*series, *entries_of(kept, chosen)])

    def window(self, scope: Key, since: int, until: int) -> list[dict[str, Any]]:
        with self._lock:
            series = self._series.get(scope, {})
            return [dict(series[moment]) for moment in sorted(series) if since <= moment < until]
