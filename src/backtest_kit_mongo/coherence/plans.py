"""The steps of every operation, as generators of effects. No I/O, no clock, no randomness: the simulator runs exactly
this code.

A plan never knows which backend performs it. Without a cache, `Lease` answers None and `CacheRead` gives no right: the
same plans then are plain reads and writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.effects import (
    Abort,
    Append,
    Appended,
    CacheDown,
    CacheRead,
    Commit,
    Conflict,
    Defer,
    Expected,
    Fill,
    Find,
    KeepConflicts,
    Lease,
    Leased,
    Merge,
    NearBegin,
    NearEnd,
    Plan,
    Publish,
    Published,
    Right,
    Rows,
    SoftRemove,
    Upsert,
    ask,
)
from backtest_kit_mongo.coherence.keys import escaped
from backtest_kit_mongo.coherence.record import Change, Key, OnConflict, Part, Record
from backtest_kit_mongo.errors import (
    CallerError,
    EnvironmentFault,
    ServerUnreachable,
    WriteOutcomeUnknown,
    WriteRefused,
)
from backtest_kit_mongo.errors import Conflict as Conflicted

CERTAINLY_NOT_WRITTEN = (CallerError, Conflicted, WriteRefused, ServerUnreachable)
"""After these the lease may be released.

After anything else, cancellation included, it is left to its deadline (I3).
"""

EVENTS_MAX: Final = 500
EVENTS_BYTES: Final = 1024 * 1024
"""What COMMIT appends to the feed at most; the events of a larger write go before it, in pages of that size."""


def read(key: Key) -> Plan[Record]:
    """One hop on a hit; otherwise MongoDB, and the entry is installed if nobody wrote meanwhile (I5)."""
    answer = yield from ask(CacheRead(key))
    return answer if isinstance(answer, Record) else (yield from _fetch(key, answer))


def _fetch(key: Key, right: Right) -> Plan[Record]:
    record = yield from ask(Find(key))
    if right.token:
        try:
            yield from ask(Fill(right.token, record))
        except CacheDown:
            # The value is right; only the next reader pays.
            return record
    return record


def read_near(key: Key) -> Plan[Record]:
    """`read` of a key that this process keeps copies of and has none that may be served (N1 to N4)."""
    fetch = yield from ask(NearBegin(key))
    try:
        answer = yield from ask(CacheRead(key))
        record = answer if isinstance(answer, Record) else (yield from _fetch(key, answer))
    except BaseException as error:
        if not isinstance(error, GeneratorExit):
            yield from ask(NearEnd(fetch, None, False))
        raise
    yield from ask(NearEnd(fetch, record, isinstance(answer, Record)))
    return record


def write(change: Change, expected_rev: int | None = None, step: str = "") -> Plan[Record]:
    """Store one document; durable and visible to every later read when the plan returns."""
    leased = yield from ask(Lease(change.key))
    try:
        record = yield from ask(Upsert(change, leased.deadline_s if leased else None, expected_rev))
    except BaseException as error:
        yield from _give_up(change.key, leased, error)
        raise
    published = (Published(record, "remove" if change.removed else "upsert", change.body, step),)
    yield from _announce(change.key, leased, record, change.body, published)
    return record


def remove(key: Key) -> Plan[Record | None]:
    """Remove one document softly. None, and no trace, if there is nothing to remove."""
    leased = yield from ask(Lease(key))
    try:
        record = yield from ask(SoftRemove(key, leased.deadline_s if leased else None))
    except BaseException as error:
        yield from _give_up(key, leased, error)
        raise
    if record is None:
        yield from _release(key, leased)
        return None
    body = pack(record.payload)
    yield from _announce(key, leased, record, body, (Published(record, "remove", body),))
    return record


def _give_up(key: Key, leased: Leased | None, error: BaseException) -> Plan[None]:
    """Clean up after a write that raised."""
    if isinstance(error, GeneratorExit):
        return  # The client is gone; a plan that is being closed may not ask for anything.
    if isinstance(error, CERTAINLY_NOT_WRITTEN):
        yield from _release(key, leased)
    elif leased is None:
        # A write without a lease that may have happened: an old entry may have survived it.
        yield from ask(Defer((key,)))


def _release(key: Key, leased: Leased | None) -> Plan[None]:
    if leased is None:
        return
    try:
        yield from ask(Abort(key, leased.token))
    except CacheDown:
        # The lease ends by itself at its deadline; until then reads of this key go to MongoDB.
        return


def _announce(
    key: Key,
    leased: Leased | None,
    entry: Record,
    body: bytes,
    published: tuple[Published, ...],
    events_max: int = EVENTS_MAX,
) -> Plan[None]:
    """Tell cache and feed of a write that MongoDB has acknowledged. Cannot fail: the write has happened.

    A script blocks Redis for all, so COMMIT takes one page of events, and the pages before it are appended without one.
    That is safe whatever comes in between: the events are of revisions that MongoDB has, consumers go by revision and
    not by order, and the lease is still held, so nobody caches meanwhile (I2). If it runs out, COMMIT installs nothing.
    Who dies between pages leaves what a writer leaves that dies before COMMIT: the rest comes by recovery.
    """
    if leased is None:
        yield from ask(Defer((key,), published))
        return
    reported = 0
    try:
        for page in pages(published, events_max):
            if reported + len(page) == len(published):
                yield from ask(Commit(key, leased.token, entry, body, page))
            else:
                yield from ask(Publish(key, page))
            reported += len(page)
    except CacheDown:
        yield from ask(Defer((key,), published[reported:]))


def pages(published: tuple[Published, ...], events_max: int) -> Iterator[tuple[Published, ...]]:
    """At least one, if only an empty one; none but a single large event is larger than `EVENTS_BYTES`."""
    start = size = 0
    for place, event in enumerate(published):
        if place > start and (place - start == events_max or size + len(event.body) > EVENTS_BYTES):
            yield published[start:place]
            start, size = place, 0
        size += len(event.body)
    yield published[start:]


class Seen(NamedTuple):
    """A list row as this process last saw it."""

    rev: int
    id: str
    payload: Any


@dataclass(frozen=True, slots=True)
class KnownRows:
    """What this process knows of a list, true as long as the scope's entry in the cache still carries `stamp`."""

    stamp: str
    rows: Mapping[Part, Seen]


@dataclass(frozen=True, slots=True)
class Merged:
    """Answer of `merge`.

    Attributes:
        snapshot: for next time; None: nothing may be assumed then.
        written: how many rows were written.
        dropped: rows that were not, because another row is stored under their id and the domain keeps the first.
    """

    snapshot: KnownRows | None
    written: int
    dropped: tuple[Change, ...] = ()


def merge(
    scope: Key, changes: Sequence[Change], snapshot: KnownRows | None, *, events_max: int = EVENTS_MAX
) -> Plan[Merged]:
    """Write the rows that differ from what is stored, in bulk.

    The scope has one lease and one entry for all its rows; the entry holds no rows, only the stamp of the last writer.
    If the entry that LEASE deleted carries our stamp, nobody has written the list since (I1, I2), and our snapshot
    says what is stored without asking MongoDB. Rows that do not differ are thereby confirmed as of LEASE, which lies
    inside this call.
    """
    leased = yield from ask(Lease(scope, want_prior=True))
    try:
        if (
            snapshot is not None
            and leased is not None
            and leased.prior is not None
            and leased.prior.id == snapshot.stamp
        ):
            seen = snapshot.rows
        else:
            stored = yield from ask(Rows(scope, tuple(change.key.item for change in changes)))
            seen = _seen(changes, stored)
        rows = tuple(_differing(changes, seen))
        written: tuple[Published, ...] = ()
        if rows:
            written = yield from ask(Merge(scope, rows, leased.deadline_s if leased else None))
    except BaseException as error:
        yield from _give_up(scope, leased, error)
        raise
    dropped = yield from _dropped(scope, changes, seen, rows, written)
    if leased is None:
        yield from ask(Defer((scope,), written))
        return Merged(None, len(written), dropped)
    stamp = Record(scope, id=leased.token)
    yield from _announce(scope, leased, stamp, pack(None), written, events_max)
    now = dict(seen)
    now.update((p.record.key.item, Seen(p.record.rev, p.record.id, p.record.payload)) for p in written)
    if len(now) > len(changes):
        # Rows that the caller no longer writes need no place in memory.
        now = {change.key.item: now[change.key.item] for change in changes if change.key.item in now}
    return Merged(KnownRows(leased.token, now), len(written), dropped)


def _dropped(
    scope: Key,
    changes: Sequence[Change],
    seen: Mapping[Part, Seen],
    rows: Sequence[Expected],
    written: Sequence[Published],
) -> Plan[tuple[Change, ...]]:
    """Rows of a domain that keeps the first, of which another content is stored."""
    if scope.domain.on_conflict is not OnConflict.KEEP:
        return ()
    known = {item: row.payload for item, row in seen.items()}
    done = {published.record.key.item for published in written}
    if met := tuple(row.change.key.item for row in rows if row.change.key.item not in done):
        try:
            # Another writer inserted them meanwhile.
            stored = yield from ask(Rows(scope, met))
            known |= {item: record.payload for item, record in stored.items()}
        except EnvironmentFault:
            known |= dict.fromkeys(met)  # The write has happened, so this is no failure: said, though perhaps equal.
    others = (change for change in changes if change.key.item in known and change.key.item not in done)
    return tuple(
        change
        for change in others
        if known[change.key.item] is not change.payload and pack(known[change.key.item]) != change.body
    )


def _seen(changes: Iterable[Change], stored: Mapping[Part, Record]) -> dict[Part, Seen]:
    """Stored rows. One that equals the change's, to the bit (1, 1.0 and True are three values), is remembered as the
    change's own payload, so that next time comparing is an identity check.
    """
    seen = {}
    for change in changes:
        row = stored.get(change.key.item)
        if row is not None:
            payload = change.payload if pack(row.payload) == change.body else row.payload
            seen[change.key.item] = Seen(row.rev, row.id, payload)
    return seen


def differing(changes: Sequence[Change], stored: Mapping[Part, Record]) -> tuple[Expected, ...]:
    """The rows that differ from what is stored, each with the revision that it replaces."""
    return tuple(_differing(changes, _seen(changes, stored)))


def _differing(changes: Iterable[Change], seen: Mapping[Part, Seen]) -> Iterator[Expected]:
    for change in changes:
        row = seen.get(change.key.parts[-1])
        if row is None:
            yield Expected(change, None)
        elif row.payload is change.payload or change.key.domain.on_conflict is OnConflict.KEEP:
            continue
        elif pack(row.payload) != change.body:
            yield Expected(change, row.rev, row.id)


def append(scope: Key, rows: Any, step_ms: int) -> Plan[Appended]:
    """Insert rows into a series and tell the feed once, as ranges; keep and tell what conflicts with stored rows.

    Rows are never replaced, so no lease is needed: nothing can become stale. A crash after a conflict was kept may lose
    its event, not the conflict.
    """
    appended = yield from ask(Append(scope, rows, step_ms))
    reported = [_batch(scope, appended.new, step_ms)] if appended.new else []
    if appended.conflicts:
        try:
            kept = yield from ask(KeepConflicts(scope, appended.conflicts))
        except EnvironmentFault as cause:
            yield from _report(scope, reported)
            raise WriteOutcomeUnknown(
                f"{scope}: the rows are stored, but {len(appended.conflicts)} that conflict with stored ones could "
                "not be kept for "
                f"inspection; repeat the write: {cause}"
            ) from cause
        reported += [_conflict(scope, conflict) for conflict in kept]
    yield from _report(scope, reported)
    return appended


def _report(scope: Key, reported: Sequence[Published]) -> Plan[None]:
    if not reported:
        return
    try:
        yield from ask(Publish(scope, tuple(reported)))
    except CacheDown:
        yield from ask(Defer((), tuple(reported)))


def _batch(scope: Key, new: Sequence[int], step_ms: int) -> Published:
    payload = {"ranges": list(_ranges(new, step_ms)), "count": len(new)}
    # Rows are inserted once and for all, so the first new time belongs to this batch alone and names it.
    document = escaped((*scope.parts, new[0]))
    return Published(Record(scope, rev=1, payload=payload, id=document), "batch", pack(payload))


def _conflict(scope: Key, conflict: Conflict) -> Published:
    payload = {"timestamp": conflict.timestamp, "stored": conflict.stored, "offered": conflict.offered}
    # The same offer again is the same event. A batch's name ends in its time, so it is never that of a conflict.
    document = f"{escaped((*scope.parts, conflict.timestamp))}~{conflict.digest}"
    return Published(Record(scope, rev=1, payload=payload, id=document), "conflict", pack(payload))


def _ranges(times: Sequence[int], step_ms: int) -> Iterator[list[int]]:
    """Runs of neighbours as [first, last, count]."""
    first = previous = times[0]
    count = 1
    for moment in times[1:]:
        if moment == previous + step_ms:
            previous, count = moment, count + 1
            continue
        yield [first, previous, count]
        first = previous = moment
        count = 1
    yield [first, previous, count]
