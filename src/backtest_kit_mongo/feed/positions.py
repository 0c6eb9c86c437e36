"""Where each consumer group of a stream stands: what it has not acknowledged, and for how long.

Only what Redis 6.2 offers is needed; Redis 7 counts what is unread by itself, which is exact and cheaper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis

from backtest_kit_mongo.coherence.events import UnknownEvent, decode
from backtest_kit_mongo.feed.scripts import HEADS, ask_info

ABANDONED_MS = 10 * 60_000
"""A group that has owed something for so long, while no consumer asked, is reported as abandoned."""
COUNTED_MAX = 1_000
"""Unread entries are counted exactly up to here, and estimated from the times in their ids beyond."""

HALF_MAX = 2**64 - 1
"""Of either half of an entry's id."""
AHEAD_MS = 3_600_000
"""No clock that is corrected jumps so far: who gave an entry a later id chose it. All after it have such ids too."""

_COUNT = "return #redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])"


class EntryId(NamedTuple):
    """The id of a stream entry: Redis' clock in ms when it was added, and a number within that millisecond."""

    ms: int
    number: int

    @classmethod
    def parse(cls, value: bytes | str) -> EntryId:
        ms, _, number = text(value).partition("-")
        return cls(int(ms), int(number or 0))

    @property
    def next(self) -> EntryId:
        """The lowest id after this one. After the last that there can be comes one that is none, and greater than
        all.
        """
        return EntryId(self.ms, self.number + 1) if self.number < HALF_MAX else EntryId(self.ms + 1, 0)

    @property
    def is_possible(self) -> bool:
        """Whether Redis knows it."""
        return self.ms <= HALF_MAX

    def __str__(self) -> str:
        return f"{self.ms}-{self.number}"


@dataclass(frozen=True, slots=True)
class GroupPosition:
    """One consumer group of one stream.

    Attributes:
        consumer_count: consumers that the group knows, dead or alive.
        pending_count: entries delivered but not acknowledged.
        unread_count: entries not delivered yet.
        needed: the oldest entry that the group has not acknowledged (it need not exist yet). All before it are done.
        delivered: the last entry that was delivered to anybody.
        lag_ms: age of the oldest entry that is not acknowledged; 0 if there is none.
        pending_age_ms: age of the oldest entry that was delivered but not acknowledged.
        idle_ms: since a consumer last took part; None if the group knows none.
    """

    stream: str
    name: str
    consumer_count: int
    pending_count: int
    unread_count: int
    needed: EntryId
    delivered: EntryId
    lag_ms: int
    pending_age_ms: int
    idle_ms: int | None

    @property
    def owed_count(self) -> int:
        return self.pending_count + self.unread_count

    @property
    def is_abandoned(self) -> bool:
        """Nobody works for the group although it has owed something for long. It holds back trimming until somebody
        decides. (A consumer of a quiet stream looks idle too, and is not even known before its first entry.)
        """
        return self.lag_ms > ABANDONED_MS and (self.idle_ms is None or self.idle_ms > ABANDONED_MS)


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """One stream.

    Attributes:
        first: id of the oldest entry that is kept, None if the stream is empty.
        last: id of the last entry that was ever added.
        now_ms: Redis' clock.
    """

    stream: str
    length: int
    first: EntryId | None
    last: EntryId
    now_ms: int
    groups: tuple[GroupPosition, ...]

    @property
    def is_ahead(self) -> bool:
        """Whether the ids have left Redis' clock, so that they tell no ages."""
        return self.last.ms > self.now_ms + AHEAD_MS


def look(client: redis.Redis, stream: str) -> StreamPosition | None:
    """Where the groups of a stream stand; None if there is no such stream.

    Raises:
        RedisError: Redis cannot be asked.
    """
    asked: Any = client
    info = ask_info(client, stream)
    if info is None:
        return None
    try:
        groups = asked.xinfo_groups(stream)
    except redis.ResponseError as cause:
        if "no such key" in str(cause):
            return None
        raise
    # Of the server that made the ids; each node of a cluster has a clock of its own.
    seconds, microseconds = map(int, asked.eval("return redis.call('TIME')", 1, stream))
    now_ms = seconds * 1000 + microseconds // 1000
    first = EntryId.parse(info.first_entry) if info.first_entry else None
    bare = StreamPosition(stream, info.length, first, EntryId.parse(info.last), now_ms, ())
    positions = (_group(asked, bare, group) for group in groups)
    return StreamPosition(stream, bare.length, first, bare.last, now_ms, tuple(sorted(positions, key=lambda g: g.name)))


def _group(client: Any, stream: StreamPosition, info: Mapping[str, Any]) -> GroupPosition:
    name = text(info["name"])
    delivered = EntryId.parse(info["last-delivered-id"])
    pending = client.xpending(stream.stream, name)
    oldest = EntryId.parse(pending["min"]) if pending["pending"] else None
    unread_count = _unread_count(client, stream, delivered, info.get("lag"))
    waiting = oldest
    if waiting is None and unread_count:
        found = client.eval(HEADS, 1, stream.stream, f"({delivered}", "+", 1)
        waiting = EntryId.parse(found[0][0]) if found else None
    consumers = client.xinfo_consumers(stream.stream, name)
    return GroupPosition(
        stream=stream.stream,
        name=name,
        consumer_count=len(consumers),
        pending_count=pending["pending"],
        unread_count=unread_count,
        needed=delivered.next if oldest is None else min(oldest, delivered.next),
        delivered=delivered,
        lag_ms=_age_ms(client, stream, waiting),
        pending_age_ms=_age_ms(client, stream, oldest),
        idle_ms=min((consumer["idle"] for consumer in consumers), default=None),
    )


def _age_ms(client: Any, stream: StreamPosition, entry: EntryId | None) -> int:
    """Never negative: after a step of Redis' clock, ids are ahead of it for a while. Of an entry whose id is no time of
    its own the event tells when it was written.
    """
    if entry is None:
        return 0
    since_ms = entry.ms
    if since_ms > stream.now_ms + AHEAD_MS:
        found = client.eval(HEADS, 1, stream.stream, str(entry), str(entry), 1)
        try:
            since_ms = decode({b"e": found[0][1], b"p": b""}).written_ms
        except (IndexError, UnknownEvent):
            return 0
    return max(0, stream.now_ms - since_ms)


def _unread_count(client: Any, stream: StreamPosition, delivered: EntryId, lag: int | None) -> int:
    if stream.first is None or delivered >= stream.last:
        return 0
    if delivered < stream.first:
        return stream.length
    if lag is not None:
        return int(lag)
    counted = int(client.eval(_COUNT, 1, stream.stream, str(delivered), COUNTED_MAX))
    if counted < COUNTED_MAX:
        return counted
    share = (stream.last.ms - delivered.ms) / max(1, stream.last.ms - stream.first.ms)
    return max(counted, round(stream.length * min(1.0, share)))


def text(value: bytes | str) -> str:
    """A name as Redis gives it, as text."""
    return value.decode() if isinstance(value, bytes) else value
