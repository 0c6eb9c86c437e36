"""The steps of every operation, as generators of effects. No I/O, no clock, no randomness: the simulator runs exactly
this code.

A plan never knows which backend performs it. Without a cache, `Lease` answers None and `CacheRead` gives no right: the
same plans then are plain reads and writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

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
    Fill,
    Find,
    KeepConflicts,
    Lease,
    Leased,
    NearBegin,
    NearEnd,
    Plan,
    Publish,
    Published,
    Right,
    SoftRemove,
    Upsert,
    ask,
)
from backtest_kit_mongo.coherence.keys import escaped
from backtest_kit_mongo.coherence.record import Change, Key, Record
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
        yield from give_up(change.key, leased, error)
        raise
    published = (Published(record, "remove" if change.removed else "upsert", change.body, step),)
    yield from announce(change.key, leased, record, change.body, published)
    return record


def remove(key: Key) -> Plan[Record | None]:
    """Remove one document softly. None, and no trace, if there is nothing to remove."""
    leased = yield from ask(Lease(key))
    try:
        record = yield from ask(SoftRemove(key, leased.deadline_s if leased else None))
    except BaseException as error:
        yield from give_up(key, leased, error)
        raise
    if record is None:
        yield from _release(key, leased)
        return None
    body = pack(record.payload)
    yield from announce(key, leased, record, body, (Published(record, "remove", body),))
    return record


def give_up(key: Key, leased: Leased | None, error: BaseException) -> Plan[None]:
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


def announce(
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
        for page in (published,) if len(published) == 1 else pages(published, events_max):
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
