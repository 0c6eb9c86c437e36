"""The backend that forgets everything: for runs that must leave no trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from backtest_kit_mongo.backends.row_series import RowsOnly
from backtest_kit_mongo.coherence.deletion import Delete, DeleteAll, one_by_one
from backtest_kit_mongo.coherence.effects import Find, Published, SoftRemove, Upsert
from backtest_kit_mongo.coherence.inventory import Entry, Selection
from backtest_kit_mongo.coherence.lists import ALL, Merge, Only, Rows
from backtest_kit_mongo.coherence.record import Domain, Key, Part, Record
from backtest_kit_mongo.coherence.series import Append, Appended
from backtest_kit_mongo.coherence.steps import Atomic


class DummyTruth(RowsOnly):
    """Reads find nothing, writes do nothing."""

    def open(self) -> None:
        return

    def close(self) -> None:
        return

    def find(self, effect: Find) -> Record:
        return Record(effect.key)

    def upsert(self, effect: Upsert) -> Record:
        return Record(effect.change.key)

    def remove(self, effect: SoftRemove) -> Record | None:
        return None

    def delete(self, effect: Delete) -> Record | None:
        return None

    def delete_all(self, effect: DeleteAll) -> tuple[Record | None, ...]:
        return one_by_one(self.delete, effect)

    def rows(self, effect: Rows) -> Mapping[Part, Record]:
        return {}

    def merge(self, effect: Merge) -> tuple[Published, ...]:
        return ()

    def atomic(self, effect: Atomic) -> tuple[tuple[Published, ...], ...]:
        return ((),) * len(effect.writes)

    def require_steps(self) -> None:
        return

    def step_lifetime_ms(self) -> int:
        return 0

    def append(self, effect: Append) -> Appended:
        return Appended(())

    def scan(
        self, scope: Key, *, when: int | None, limit: int | None, keys_only: bool, only: Only = ALL
    ) -> Iterator[Record]:
        return iter(())

    def browse(self, domain: Domain, chosen: Selection) -> Iterator[Entry]:
        return iter(())

    def window(self, scope: Key, since: int, until: int) -> list[dict[str, Any]]:
        return []
