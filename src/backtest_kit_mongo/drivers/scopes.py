"""Blocks that stand between adapters and their stores: what is read or written inside goes through them.

A block is found by a context variable, so it holds for its thread or task, and for what carries its context: tasks that
are started inside, and `asyncio.to_thread`. Threads that are started inside know nothing of it (`threading.Thread` and
executors start with an empty context), and write for themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Final, TypeVar

from backtest_kit_mongo.coherence.record import Change, Key, Record
from backtest_kit_mongo.errors import CallerError

if TYPE_CHECKING:
    from backtest_kit_mongo.candles.intervals import Grid
    from backtest_kit_mongo.drivers.series import SeriesVerbs
    from backtest_kit_mongo.drivers.store import Store

R = TypeVar("R")
UNSTORED_ID: Final = "(written by this step)"
"""Instead of the `_id` of a document that a step has written and not yet stored."""


class Scope:
    """Passes everything on to the block around it, or to the store itself.

    Attributes:
        outer: the block around this one.
    """

    outer: Scope | None = None

    def read(self, store: Store, key: Key) -> Record:
        return self._beyond(store.read, key)

    def write(self, store: Store, change: Change) -> Record:
        return self._beyond(store.write, change)

    def remove(self, store: Store, key: Key) -> Record | None:
        return self._beyond(store.remove, key)

    def merge(self, store: Store, scope: Key, changes: Sequence[Change]) -> int:
        return self._beyond(store.merge, scope, changes)

    def append(self, store: SeriesVerbs, scope: Key, rows: Any, grid: Grid) -> Any:
        return self._beyond(store.append, scope, rows, grid)

    def scan(self, store: Store, scope: Key, **how: Any) -> Iterator[Record]:
        return self._beyond(store.scan, scope, **how)

    def _beyond(self, ask: Callable[..., R], *args: Any, **named: Any) -> R:
        token = current.set(self.outer)
        try:
            return ask(*args, **named)
        finally:
            current.reset(token)

    def _enter(self) -> Token[Scope | None]:
        self.outer = current.get()
        return current.set(self)


class ReadOnly(Scope):
    """A block in which nothing can be written, whatever block is inside it."""

    def refusal(self, key: Key) -> CallerError:
        """What is raised instead of a write."""
        return CallerError(f"{key}: this block only reads. Nothing was written.")

    def write(self, store: Store, change: Change) -> Record:
        raise self.refusal(change.key)

    def remove(self, store: Store, key: Key) -> Record | None:
        raise self.refusal(key)

    def merge(self, store: Store, scope: Key, changes: Sequence[Change]) -> int:
        raise self.refusal(scope)

    def append(self, store: SeriesVerbs, scope: Key, rows: Any, grid: Grid) -> Any:
        raise self.refusal(scope)


def require_writable(scope: Scope | None, key: Key) -> None:
    """Raises:
    CallerError: a block around only reads.
    """
    while scope is not None:
        if isinstance(scope, ReadOnly):
            raise scope.refusal(key)
        scope = scope.outer


current: ContextVar[Scope | None] = ContextVar("backtest_kit_scope", default=None)
"""The innermost block; None, as nearly always, outside of any."""


class Revisions(Scope, dict[Key, int]):
    """What was read inside the block, by key: its revision then; 0 for what did not exist."""

    def __init__(self) -> None:
        super().__init__()
        self._tokens: list[Token[Scope | None]] = []

    def read(self, store: Store, key: Key) -> Record:
        record = super().read(store, key)
        if record.id != UNSTORED_ID:
            self[key] = record.rev
        return record

    def __enter__(self) -> Revisions:
        self._tokens.append(self._enter())
        return self

    def __exit__(self, *_: object) -> None:
        current.reset(self._tokens.pop())


def revisions() -> Revisions:
    """A block that remembers the revision of every document that is read in it, for `step(expect=...)`.

    It is a dictionary from key to revision, and may be used after the block. Lists and candles are not noted.
    """
    return Revisions()
