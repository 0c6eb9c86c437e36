"""Steps: many writes that happen together or not at all.

Theory of operation
===================
A step is a write of many keys. Its leases are taken in one script for each partition (`LeaseAll`), all of them before
MongoDB is asked; its documents are written by one transaction (`Atomic`); its entries and events follow in one script
for each partition (`CommitAll`), only after the transaction was acknowledged. At each key it is what a single write is
(`plans.py`), so every invariant holds at every key; what is proved beyond that is in `tests/coherence/proof/keys.py`:

* what a step wrote is in MongoDB at all of its keys or at none (A1), and no event reports what is not stored (A2)
* a step's leases outlive its transaction. A commit has no deadline of its own, unlike a write's command: one that is
  held up on its way finds its documents still locked, so it overwrites nothing newer, but entries of before could have
  been installed meanwhile. So a step's leases last as long as MongoDB lets a transaction live (`lease_ms_of`), and a
  new incarnation of the cache stays closed as long.

Two steps, or a step and a write, that want the same document meet in MongoDB: one waits, or its transaction ends with
nothing written (`Contended`), its leases are released, and it is tried again with new ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from backtest_kit_mongo.coherence import lists, plans
from backtest_kit_mongo.coherence.effects import CacheDown, Defer, Effect, Leased, Plan, Publish, Published, ask
from backtest_kit_mongo.coherence.lists import Expected, Rows
from backtest_kit_mongo.coherence.record import Change, Key, Record
from backtest_kit_mongo.errors import Conflict, Contended

LIFETIME_SHARE: Final = 1.5
"""MongoDB looks for transactions that are too old as often as twice in a lifetime."""
LIFETIME_SPARE_MS: Final = 1_000


class Put(NamedTuple):
    """Store a document. `expected_rev`: only over this revision; 0: only if there is none, or none that was ever
    counted.
    """

    change: Change
    expected_rev: int | None = None

    @property
    def key(self) -> Key:
        return self.change.key


class Drop(NamedTuple):
    """Remove a document softly, if there is one. `record` is how its writer saw it, and takes no part in this."""

    key: Key
    expected_rev: int | None
    record: Record


class Guard(NamedTuple):
    """Write nothing, but only if the document still has this revision when the step is committed."""

    key: Key
    expected_rev: int


class PutRows(NamedTuple):
    """Write rows of a list."""

    key: Key
    changes: tuple[Change, ...]


Write: TypeAlias = Put | Drop | Guard | PutRows


class ExpectedRows(NamedTuple):
    """The rows that differ from what is stored."""

    key: Key
    rows: tuple[Expected, ...]


Ready: TypeAlias = Put | Drop | Guard | ExpectedRows


class Done(NamedTuple):
    """What is to be informed of one key: its entry, if there is one to install, and its events."""

    key: Key
    entry: Record | None
    body: bytes
    published: tuple[Published, ...]


@dataclass(frozen=True, slots=True)
class LeaseAll(Effect["Leased | None"]):
    """LEASE of keys of one partition, in one script, under one token. None: there is no cache that others read.

    Attributes:
        lifetime_ms: how long MongoDB lets a transaction live.
    """

    keys: tuple[Key, ...]
    lifetime_ms: int


@dataclass(frozen=True, slots=True)
class AbortAll(Effect[None]):
    """Release the leases of a transaction that certainly was not and will not be committed."""

    keys: tuple[Key, ...]
    token: str


@dataclass(frozen=True, slots=True)
class Atomic(Effect["tuple[tuple[Published, ...], ...]"]):
    """Write all or nothing. The answer has, for each of `writes`, the changes that it made."""

    writes: tuple[Ready, ...]
    deadline_s: float | None


@dataclass(frozen=True, slots=True)
class CommitAll(Effect[None]):
    """Release the leases, install the entries whose rights are held, append the events: one script. `deadline_s` as in
    `Commit`.
    """

    token: str
    done: tuple[Done, ...]
    deadline_s: float = 0.0

    @property
    def keys(self) -> tuple[Key, ...]:
        return tuple(one.key for one in self.done)


@dataclass(frozen=True, slots=True)
class Again(Effect[bool]):
    """Wait a moment, because others use the same documents; false: `until_s`, of the driver's monotonic clock, has
    passed.
    """

    attempt: int
    until_s: float


def lease_ms_of(lease_ms: int, write_ms: int, lifetime_ms: int) -> int:
    """How long a step's leases last. Its transaction begins within half of `write_ms` and may be committed while it
    lives.
    """
    return max(lease_ms, write_ms // 2 + int(lifetime_ms * LIFETIME_SHARE) + LIFETIME_SPARE_MS)


def require_rev(record: Record, expected_rev: int) -> None:
    """See that a document has the revision that its writer expects.

    Raises:
        Conflict: it has not.
    """
    if record.rev != expected_rev:
        raise Conflict(
            f"{record.key}: revision {expected_rev} was expected, and it has {record.rev}: another writer was first. "
            "Nothing was written."
        )


Leases: TypeAlias = "dict[tuple[Key, ...], Leased | None]"


def step(
    groups: Sequence[tuple[Key, ...]], writes: Sequence[Write], name: str, lifetime_ms: int, until_s: float = 0
) -> Plan[dict[Key, Record]]:
    """Perform the writes together. The answer has the new record of each document that was written.

    Args:
        groups: the keys of the writes by partition.
        name: of the step, which its events carry.
        until_s: not tried again after that, on the driver's monotonic clock.
    """
    attempt = 0
    while True:
        leases: Leases = {}
        try:
            for group in groups:
                leases[group] = yield from ask(LeaseAll(group, lifetime_ms))
            ready = yield from _ready(writes)
            answers = yield from ask(Atomic(ready, _deadline_s(leases)))
            break
        except BaseException as error:
            yield from give_up(leases, error)
            if not isinstance(error, Contended) or not (yield from ask(Again(attempt, until_s))):
                raise
        attempt += 1
    done = {
        write.key: _done(write.key, tuple(one._replace(step=name) for one in made))
        for write, made in zip(ready, answers, strict=True)
    }
    for group, leased in leases.items():
        yield from announce(leased, tuple(done[key] for key in group))
    return {one.record.key: one.record for each in done.values() for one in each.published}


def _deadline_s(leases: Mapping[Any, Leased | None]) -> float | None:
    return min((leased.deadline_s for leased in leases.values() if leased is not None), default=None)


def _ready(writes: Sequence[Write]) -> Plan[tuple[Ready, ...]]:
    """As the writes are, with rows of lists compared with what is stored. Under the leases, so nobody else changes
    them; those who do all the same are met in MongoDB.
    """
    ready: list[Ready] = []
    for write in writes:
        if isinstance(write, PutRows):
            stored = yield from ask(Rows(write.key, tuple(change.key.item for change in write.changes)))
            ready.append(ExpectedRows(write.key, lists.differing(write.changes, stored)))
        else:
            ready.append(write)
    return tuple(ready)


def _done(key: Key, published: tuple[Published, ...]) -> Done:
    if not published or not key.domain.cached:
        return Done(key, None, b"", published)  # The entry of a list is a stamp, which nobody would know.
    record = published[0].record
    return Done(key, record, published[0].body, published)


def give_up(leases: Leases, error: BaseException) -> Plan[None]:
    """Clean up after an attempt that raised, as `plans.write` does."""
    if isinstance(error, GeneratorExit):
        return
    for group, leased in leases.items():
        if isinstance(error, plans.CERTAINLY_NOT_WRITTEN):
            if leased is not None and leased.token:
                try:
                    yield from ask(AbortAll(group, leased.token))
                except CacheDown:
                    continue  # They end by themselves.
        elif leased is None or not leased.token:
            yield from ask(Defer(group))


def announce(leased: Leased | None, done: tuple[Done, ...]) -> Plan[None]:
    """Tell one partition. Cannot fail: the step has happened."""
    published = tuple(event for one in done for event in one.published)
    keys = tuple(one.key for one in done)
    if leased is None or not leased.token:
        yield from ask(Defer(keys, published, 0))
        return
    reported = 0
    try:
        *before, last = plans.pages(published, plans.EVENTS_MAX)
        for page in before:
            yield from ask(Publish(keys[0], page))
            reported += len(page)
        kept = set(map(id, last))
        rest = tuple(one._replace(published=tuple(e for e in one.published if id(e) in kept)) for one in done)
        yield from ask(CommitAll(leased.token, rest, leased.deadline_s))
    except CacheDown:
        yield from ask(Defer(keys, published[reported:], leased.deadline_s))
