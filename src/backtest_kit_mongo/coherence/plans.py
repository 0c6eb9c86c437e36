"""The steps of every operation on one document, as generators of effects, and what lists share with them. No I/O, no
clock, no randomness: the simulator runs exactly this code.

A plan never knows which backend performs it. Without a cache, `Lease` answers None and `CacheRead` gives no right: the
same plans then are plain reads and writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.effects import Plan, ask
from backtest_kit_mongo.coherence.record import Change, Key, Record
from backtest_kit_mongo.errors import CallerError, Conflict, ServerUnreachable, WriteRefused

CERTAINLY_NOT_WRITTEN = (CallerError, Conflict, WriteRefused, ServerUnreachable)
"""After these the lease may be released.

After anything else, cancellation included, it is left to its deadline (I3).
"""

EVENTS_MAX: Final = 500
EVENTS_BYTES: Final = 1024 * 1024
"""What COMMIT appends to the feed at most; the events of a larger write go before it, in pages of that size."""


def read(key: Key) -> Plan[Record]:
    """One hop on a hit; otherwise MongoDB, and the entry is installed if nobody wrote meanwhile (I5)."""
    answer = yield from ask(fx.CacheRead(key))
    return answer if isinstance(answer, Record) else (yield from miss(key, answer))


def miss(key: Key, right: fx.Right) -> Plan[Record]:
    """What a miss does: find, and install what was found if there is a right."""
    record = yield from ask(fx.Find(key))
    if right.token:
        try:
            yield from ask(fx.Fill(right.token, record))
        except fx.CacheDown:
            # The value is right; only the next reader pays.
            return record
    return record


def write(change: Change, expected_rev: int | None = None, step: str = "") -> Plan[Record]:
    """Store one document; durable and visible to every later read when the plan returns."""
    leased = yield from ask(fx.Lease(change.key))
    try:
        record = yield from ask(fx.Upsert(change, leased.deadline_s if leased else None, expected_rev))
    except BaseException as error:
        yield from give_up(change.key, leased, error)
        raise
    published = (fx.Published(record, "remove" if change.removed else "upsert", change.body, step),)
    yield from announce(change.key, leased, record, change.body, published)
    return record


def remove(key: Key) -> Plan[Record | None]:
    """Remove one document softly. None, and no trace, if there is nothing to remove."""
    leased = yield from ask(fx.Lease(key))
    try:
        record = yield from ask(fx.SoftRemove(key, leased.deadline_s if leased else None))
    except BaseException as error:
        yield from give_up(key, leased, error)
        raise
    if record is None:
        yield from release(key, leased)
        return None
    body = pack(record.payload)
    yield from announce(key, leased, record, body, (fx.Published(record, "remove", body),))
    return record


def give_up(key: Key, leased: fx.Leased | None, error: BaseException) -> Plan[None]:
    """Clean up after a write that raised."""
    if isinstance(error, GeneratorExit):
        return  # The client is gone; a plan that is being closed may not ask for anything.
    if isinstance(error, CERTAINLY_NOT_WRITTEN):
        yield from release(key, leased)
    elif leased is None or not leased.token:
        # A write without a lease that may have happened: an old entry may have survived it.
        yield from ask(fx.Defer((key,)))


def release(key: Key, leased: fx.Leased | None) -> Plan[None]:
    """End a lease of which certainly nothing was written."""
    if leased is None or not leased.token:
        return
    try:
        yield from ask(fx.Abort(key, leased.token))
    except fx.CacheDown:
        # The lease ends by itself at its deadline; until then reads of this key go to MongoDB.
        return


def announce(
    key: Key,
    leased: fx.Leased | None,
    entry: Record,
    body: bytes,
    published: tuple[fx.Published, ...],
    events_max: int = EVENTS_MAX,
) -> Plan[None]:
    """Tell cache and feed of a write that MongoDB has acknowledged. Cannot fail: the write has happened.

    A script blocks Redis for all, so COMMIT takes one page of events, and the pages before it are appended without one.
    That is safe whatever comes in between: the events are of revisions that MongoDB has, consumers go by revision and
    not by order, and the lease is still held, so nobody caches meanwhile (I2). If it runs out, COMMIT installs nothing.
    Who dies between pages leaves what a writer leaves that dies before COMMIT: the rest comes by recovery.
    """
    if leased is None or not leased.token:
        yield from ask(fx.Defer((key,), published, 0))
        return
    reported = 0
    try:
        for page in (published,) if len(published) == 1 else pages(published, events_max):
            if reported + len(page) == len(published):
                yield from ask(fx.Commit(key, leased.token, entry, body, page, leased.deadline_s))
            else:
                yield from ask(fx.Publish(key, page))
            reported += len(page)
    except fx.CacheDown:
        yield from ask(fx.Defer((key,), published[reported:], leased.deadline_s))


def pages(published: tuple[fx.Published, ...], events_max: int) -> Iterator[tuple[fx.Published, ...]]:
    """At least one, if only an empty one; none but a single large event is larger than `EVENTS_BYTES`."""
    start = size = 0
    for place, event in enumerate(published):
        if place > start and (place - start == events_max or size + len(event.body) > EVENTS_BYTES):
            yield published[start:place]
            start, size = place, 0
        size += len(event.body)
    yield published[start:]
