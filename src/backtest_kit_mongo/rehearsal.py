"""A block in which all adapters of this process keep what they write in memory, beginning with given rows, and somebody
hears of each write before it is kept: he may stop what goes on by raising.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from backtest_kit_mongo import stores
from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.effects import Find
from backtest_kit_mongo.coherence.lists import Rows, differing
from backtest_kit_mongo.coherence.record import Change, Key, Part, Record
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.ports import NoCache

__all__ = ["Rehearsal", "RehearsedRow", "rehearsing"]


class RehearsedRow(NamedTuple):
    """A document.

    Attributes:
        when: simulation time, ms.
    """

    domain: str
    parts: tuple[Part, ...]
    payload: Any
    when: int | None = None

    @property
    def name(self) -> tuple[str, tuple[Part, ...]]:
        return self.domain, self.parts


class Rehearsal(Store):
    """The store of the block."""

    def __init__(self) -> None:
        super().__init__("rehearsal", MemoryTruth(), NoCache())
        self._on_write: Callable[[RehearsedRow], None] = lambda row: None
        self._on_read: Callable[[str, tuple[Part, ...]], None] = lambda domain, parts: None

    def listen(
        self, on_write: Callable[[RehearsedRow], None], on_read: Callable[[str, tuple[Part, ...]], None]
    ) -> None:
        """Args:
        on_write: told of each document that is about to be written; it may raise.
        on_read: told of each that is about to be read.
        """
        self._on_write, self._on_read = on_write, on_read

    def install(self, row: RehearsedRow) -> None:
        """Keep a document without telling anybody."""
        key = Key(BY_NAME[row.domain], row.parts)
        removed = isinstance(row.payload, dict) and row.payload.get("removed") is True and key.domain.has_removed
        change = Change(key, row.payload, pack(row.payload), row.when, removed=removed)
        if key.domain.is_listed and key.domain.row_id:
            super().put(change)
        else:
            super().write(change)

    def read(self, key: Key) -> Record:
        self._on_read(key.domain.name, key.parts)
        return super().read(key)

    def write(self, change: Change) -> Record:
        self._hear(change)
        return super().write(change)

    def write_alone(self, change: Change, expected_rev: int | None = None, step: str = "") -> Record:
        self._hear(change)
        return super().write_alone(change, expected_rev, step)

    def remove(self, key: Key) -> Record | None:
        record = self.truth.find(Find(key))
        if record.exists and not record.removed:
            payload = {**record.payload, "removed": True} if isinstance(record.payload, dict) else {"removed": True}
            self._on_write(RehearsedRow(key.domain.name, key.parts, payload, record.when))
        return super().remove(key)

    def merge(self, scope: Key, changes: Sequence[Change]) -> int:
        stored = self.truth.rows(Rows(scope, tuple(change.key.item for change in changes)))
        for row in differing(tuple(changes), stored):
            self._hear(row.change)
        return super().merge(scope, changes)

    def put(self, change: Change) -> int:
        self._hear(change)
        return super().put(change)

    def _hear(self, change: Change) -> None:
        whole = change.whole()
        self._on_write(RehearsedRow(whole.key.domain.name, whole.key.parts, whole.payload, whole.when))


@contextmanager
def rehearsing() -> Iterator[Rehearsal]:
    """The block. Whatever adapters were set to use, and whatever `setup()` said, holds again after it.

    The log is written nowhere. What a `bk.step()` of several documents writes is kept, and nobody hears of it.
    """
    store = Rehearsal()
    with ExitStack() as stack:
        stack.callback(store.close)
        for registry in REGISTRIES:
            is_log = registry.domain.name == "log"
            stack.enter_context(registry.serving(stores.dummy_store() if is_log else store))
        yield store
