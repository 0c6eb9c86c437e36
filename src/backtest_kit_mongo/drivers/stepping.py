"""`bk.step()`: all writes of a block together or not at all. The rules are in `coherence/steps.py`."""

from __future__ import annotations

import inspect
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Token
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from backtest_kit_mongo.coherence import lists
from backtest_kit_mongo.coherence.codec import pack, unpack
from backtest_kit_mongo.coherence.lists import ALL, Only, Rows
from backtest_kit_mongo.coherence.record import Change, Key, OnConflict, Part, Record
from backtest_kit_mongo.coherence.steps import Again, Drop, Guard, Put, PutRows, Write
from backtest_kit_mongo.coherence.steps import step as step_plan
from backtest_kit_mongo.drivers.offloading import offload
from backtest_kit_mongo.drivers.scopes import UNSTORED_ID, Scope, current, require_writable
from backtest_kit_mongo.errors import BacktestKitError, CallerError, WriteOutcomeUnknown
from backtest_kit_mongo.locks import Lock

if TYPE_CHECKING:
    from backtest_kit_mongo.candles.intervals import Grid
    from backtest_kit_mongo.drivers.series import SeriesVerbs
    from backtest_kit_mongo.drivers.store import Store

F = TypeVar("F", bound=Callable[..., Any])
PATIENCE_S: Final = 10.0
"""How long a step is tried again while others use its documents."""
NEWEST_MS: Final = 2**53
"""When what is not written yet was changed."""
PAUSE_S: Final = 0.004
PAUSE_MAX_S: Final = 0.25
"""Between attempts of a step that met another writer."""
DOCUMENTS_MAX: Final = 1_000
"""Documents and rows of one step. All of it is one transaction, and one script for each partition."""


class Step(Scope):
    """The writes of a block. See `step`.

    Attributes:
        name: which its events carry, and so the audit log.
        revisions: after the block: the documents that were written, with their new revisions.
    """

    def __init__(self, *, atomic: bool, expect: Mapping[Key, int] | None) -> None:
        self.name = secrets.token_hex(8)
        self.revisions: dict[Key, int] = {}
        self._is_atomic = atomic
        self._expected = dict(expect or {})
        self._store: Store | None = None
        self._writes: dict[Key, Put | Drop] = {}
        self._rows: dict[Key, dict[Part, Change]] = {}
        self._marks: list[tuple[dict[Key, Put | Drop], dict[Key, dict[Part, Change]]]] = []
        self._tokens: list[Token[Scope | None]] = []
        self._joined: list[Step] = []
        self._lock = Lock()
        self._process = os.getpid()
        self._is_over = False

    # -- the block

    def __enter__(self) -> Step:
        around = _step_around()
        if around is not None:
            around._join(self)
            self._joined.append(around)
            return around
        if self._is_over or self._tokens:
            raise CallerError("a step is used once. Nothing was written; make another one with bk.step().")
        self._tokens.append(self._enter())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._leave(kind):
            self._commit()

    async def __aenter__(self) -> Step:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._leave(kind):
            await offload(self._commit)

    def _leave(self, kind: type[BaseException] | None) -> bool:
        """The block ends; whether there is something to commit now."""
        if self._joined:
            self._joined.pop()._part(kind)
            return False
        with self._lock:
            self._is_over = True
        current.reset(self._tokens.pop())
        return kind is None and bool(self._writes or self._rows)

    def _join(self, inner: Step) -> None:
        """A step within this one: it is durable when this one is. An error in it discards what it wrote."""
        with self._lock:
            self._require_open()
            self._marks.append((dict(self._writes), {scope: dict(rows) for scope, rows in self._rows.items()}))
            self._expected = {**inner._expected, **self._expected}

    def _part(self, kind: type[BaseException] | None) -> None:
        with self._lock:
            before = self._marks.pop()
            if kind is not None:
                self._writes, self._rows = before

    # -- what happens inside

    def read(self, store: Store, key: Key) -> Record:
        write = self._writes.get(key) if store is self._store else None
        return super().read(store, key) if write is None else _pending(write)

    def write(self, store: Store, change: Change) -> Record:
        with self._taking(store, change.key):
            self._writes[change.key] = put = Put(change)
        return _pending(put)

    def remove(self, store: Store, key: Key) -> Record | None:
        record = self.read(store, key)
        if not record.exists or record.removed:
            return None
        payload = {**record.payload, "removed": True} if isinstance(record.payload, dict) else {"removed": True}
        change = Change(key, payload, pack(payload), record.when, removed=True)
        with self._taking(store, key):
            self._writes[key] = Put(change) if key in self._writes else Drop(key, None, record._replace(removed=True))
        return record._replace(payload=payload, removed=True)

    def merge(self, store: Store, scope: Key, changes: Sequence[Change]) -> int:
        keep = scope.domain.on_conflict is OnConflict.KEEP
        with self._taking(store, scope, len(changes)):
            rows = self._rows.setdefault(scope, {})
            for change in changes:
                if not (keep and change.key.item in rows):
                    rows[change.key.item] = change
        return len(changes)

    def append(self, store: SeriesVerbs, scope: Key, rows: Any, grid: Grid) -> Any:
        raise CallerError(
            f"{scope}: candles are written once and never change, so they need no step: write them before it or after "
            "it. Nothing was written."
        )

    def scan(self, store: Store, scope: Key, **how: Any) -> Iterator[Record]:
        mine = self._pending_of(store, scope)
        if not mine:
            return super().scan(store, scope, **how)
        limit, only = how.get("limit"), how.get("only", ALL)
        more = how | {"limit": None if limit is None else limit + len(mine)}
        return iter(_overlaid(list(super().scan(store, scope, **more)), mine, how.get("when"), limit, only))

    def _pending_of(self, store: Store, scope: Key) -> dict[Part, Record]:
        if store is not self._store:
            return {}
        mine = {key.item: _pending(write) for key, write in self._writes.items() if key.scope == scope}
        rows = self._rows.get(scope, {})
        if rows:
            stored = store.truth.rows(Rows(scope, tuple(rows)))
            differing = lists.differing(tuple(rows.values()), stored)
            mine |= {row.change.key.item: _pending(Put(row.change)) for row in differing}
        return mine

    @contextmanager
    def _taking(self, store: Store, key: Key, count: int = 1) -> Iterator[None]:
        """Take a write, if that can be done."""
        with self._lock.quietly():
            self._require_open()
            require_writable(self.outer, key)
            self._require_room(store, key, count)
            yield

    def _require_room(self, store: Store, key: Key, count: int) -> None:
        if self._store is None:
            store.open()
            self._store = store
        if store is not self._store:
            raise CallerError(
                f"{key}: this step writes to {self._store}, and {key.domain.name} is kept in {store}: they cannot be "
                "written together. Nothing was written."
            )
        held = len(self._writes) + sum(map(len, self._rows.values()))
        if held + count > DOCUMENTS_MAX:
            raise CallerError(
                f"{key}: a step writes at most {DOCUMENTS_MAX:,} documents and rows. Nothing was written."
            )
        if self._is_atomic and (self._rows or count > 1 or len(self._writes) > (key in self._writes)):
            store.truth.require_steps()

    def _require_open(self) -> None:
        if self._is_over:
            raise CallerError(
                f"step {self.name} has ended; what was started inside it may not write for it afterwards. Wait for it "
                "before the block ends. Nothing was written."
            )
        if os.getpid() != self._process:
            raise CallerError(
                f"step {self.name} belongs to the process that this one was forked from. Nothing was written."
            )

    # -- the end

    def _commit(self) -> None:
        assert self._store is not None
        if os.getpid() != self._process:
            return
        until_s = time.monotonic() + PATIENCE_S
        writes = self._expecting()
        records = (
            perform(self._store, writes, self.name, until_s)
            if self._is_atomic
            else one_by_one(self._store, writes, self.name)
        )
        self.revisions = {key: record.rev for key, record in records.items()}

    def _expecting(self) -> tuple[Write, ...]:
        writes: list[Write] = []
        for key, write in self._writes.items():
            writes.append(write._replace(expected_rev=self._expected.get(key)))
        writes += [PutRows(scope, tuple(rows.values())) for scope, rows in self._rows.items()]
        for key, rev in self._expected.items():
            if key not in self._writes:
                if rev == 0:
                    raise CallerError(
                        f"{key}: that it is absent can only be expected of a document that the step writes. Nothing "
                        "was written."
                    )
                writes.append(Guard(key, rev))
        return tuple(writes)


def _step_around() -> Step | None:
    scope = current.get()
    while scope is not None and not isinstance(scope, Step):
        scope = scope.outer
    return scope


def _pending(write: Put | Drop) -> Record:
    """A document as it will be."""
    if isinstance(write, Drop):
        return write.record
    change = write.change
    return Record(change.key, 0, unpack(change.body), change.when, change.removed, UNSTORED_ID)


def _overlaid(
    found: list[Record], mine: dict[Part, Record], when: int | None, limit: int | None, only: Only
) -> list[Record]:
    """A list with what the step wrote: in the places of what it replaces, or, where the newest come first, before
    them.
    """
    known = {record.key.item for record in found}
    if limit is None and only == ALL:
        changed = [mine.get(record.key.item, record) for record in found]
        changed += [record for item, record in mine.items() if item not in known]
    else:
        changed = [record for record in reversed(mine.values()) if only.fits(record, NEWEST_MS)]
        changed += [record for record in found if record.key.item not in mine]
    return [record for record in changed if record.visible(when)][:limit]


def perform(store: Store, writes: Sequence[Write], name: str, until_s: float) -> dict[Key, Record]:
    """Write together; the new records of documents."""
    first = writes[0]
    if len(writes) == 1 and isinstance(first, Put):
        return {first.key: store.write_alone(first.change, first.expected_rev, name)}
    keys = [write.key for write in writes]
    by_part: dict[str, list[Key]] = {}
    for key in sorted(keys, key=str):
        by_part.setdefault(store.cache.partition_of(key), []).append(key)
    groups = [tuple(by_part[part]) for part in sorted(by_part)]
    plan = step_plan(groups, writes, name, store.truth.step_lifetime_ms(), until_s)
    return store.write_together([key.domain for key in keys], plan)


def wait_for_others(effect: Again) -> bool:
    """Longer each time, and not as long as others wait."""
    pause_s = random.uniform(0.5, 1.0) * min(PAUSE_S * 2**effect.attempt, PAUSE_MAX_S)
    if time.monotonic() + pause_s >= effect.until_s:
        return False
    time.sleep(pause_s)
    return True


def one_by_one(store: Store, writes: Sequence[Write], name: str) -> dict[Key, Record]:
    """What `step(atomic=False)` does: in order, each by itself.

    Raises:
        WriteOutcomeUnknown: some are written; the message says how many.
    """
    done: dict[Key, Record] = {}
    for place, write in enumerate(writes):
        try:
            if isinstance(write, Put):
                done[write.key] = store.write_alone(write.change, write.expected_rev, name)
            elif isinstance(write, PutRows):
                store.merge(write.key, write.changes)
            elif isinstance(write, Drop) and (record := store.remove(write.key)) is not None:
                done[write.key] = record
        except BacktestKitError as cause:
            if not place:
                raise
            raise WriteOutcomeUnknown(
                f"step {name} is not atomic: {place} of its {len(writes)} writes have happened, then one failed: "
                f"{cause}"
            ) from cause
    return done


@overload
def step(function: F, /) -> F: ...
@overload
def step(*, atomic: bool = ..., expect: Mapping[Key, int] | None = ...) -> Step: ...
def step(
    function: Callable[..., Any] | None = None, /, *, atomic: bool = True, expect: Mapping[Key, int] | None = None
) -> Any:
    """A block, or with `@bk.step` a function, of which all adapter writes happen together or not at all when it ends.

    Reads inside see what was written inside. When the block ends without an error, everything is durable; an error
    inside discards it all. A step within a step joins it. Everything must be kept in one store: MongoDB, files, or
    memory.

    Args:
        atomic: False: the writes are made at the end of the block one after the other, for a MongoDB without
            transactions.
        expect: revisions by key, as `bk.revisions()` notes them; the step happens only if they still hold.

    Raises (at the end of the block, but `CallerError` and `UnsafeServer` by a write in it):
        Conflict: a document has another revision than expected; nothing was written.
        Contended: others wrote the same documents for too long; nothing was written.
        ServerUnreachable, WriteRefused, CallerError, UnsafeServer: nothing was written.
        WriteOutcomeUnknown: all of it has happened, or none; the message says for how long it still may.
    """
    if function is None:
        return Step(atomic=atomic, expect=expect)
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def awaited(*args: Any, **named: Any) -> Any:
            async with Step(atomic=True, expect=None):
                return await function(*args, **named)

        return awaited
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise CallerError(
            "a generator runs in the contexts of its callers, so it can be no step; use `with bk.step():` in it"
        )

    @wraps(function)
    def called(*args: Any, **named: Any) -> Any:
        with Step(atomic=True, expect=None):
            return function(*args, **named)

    return called
