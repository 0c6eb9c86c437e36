"""A consumer group's commands, alike on Redis 6.2 and 7, on one server and on a cluster. No decisions are made here."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import redis

from backtest_kit_mongo.feed import scripts
from backtest_kit_mongo.feed.positions import EntryId, text
from backtest_kit_worker.pacing import Sight

logger = logging.getLogger(__name__)

Entry: TypeAlias = tuple[str, Mapping[bytes, bytes]]
OWN_PAGE = 64
WOKEN_COUNT = 8
"""Entries that a read which had to wait takes from each stream; what more there is comes with the next."""
START = "0-0"
CLUSTER_BLOCK_MS = 50
"""A cluster's streams are read one by one, so waiting on one of them must not keep the others waiting for long."""


@dataclass(slots=True)
class Batch:
    """Entries of one stream that this consumer holds.

    Attributes:
        deliveries: how often each was delivered, where that is known; once otherwise.
        suspect: its one entry was delivered so often without an outcome that handling it may be what kills workers.
        give_up: so often that it must not be tried again.
        full: there was more to take than one batch may hold.
    """

    stream: str
    entries: list[Entry]
    deliveries: Mapping[str, int] = field(default_factory=dict)
    suspect: bool = False
    give_up: bool = False
    full: bool = False


def is_group_gone(cause: Exception) -> bool:
    """Whether a stream or a group vanished (deleted, or FLUSHALL)."""
    return isinstance(cause, redis.ResponseError) and str(cause).startswith(("NOGROUP", "UNBLOCKED"))


class ConsumerGroup:
    """One consumer of one group over several streams."""

    def __init__(self, client: redis.Redis, name: str, consumer: str) -> None:
        self._redis: Any = client
        self.name = name
        self.consumer = consumer
        self._apart = False
        self._turns: deque[str] = deque()

    def ensure(self, stream: str) -> None:
        """Make the group, at the beginning of the stream: an event that was published before the first worker started
        must be seen too.
        """
        try:
            self._redis.eval(scripts.ENSURE, 1, stream, self.name, "0")
        except redis.ResponseError as cause:
            if not str(cause).startswith("BUSYGROUP"):
                raise
            self._require_within(stream)

    def _require_within(self, stream: str) -> None:
        """A group beyond the stream's end (set by hand, or a stream rebuilt with lower ids) would be blind to all that
        comes; it starts over.
        """
        about = scripts.ask_info(self._redis, stream)
        last = EntryId.parse(about.last if about else START)
        for group in self._redis.xinfo_groups(stream):
            if text(group["name"]) == self.name and EntryId.parse(group["last-delivered-id"]) > last:
                logger.error("%s: its position lies beyond the end of %s; reading from the start", self.name, stream)
                self._redis.xgroup_setid(stream, self.name, START)

    def fresh(self, streams: Sequence[str], count: int, block_ms: int) -> list[Batch]:
        """New entries, `count` and `BYTES_MAX` for each stream; waits up to `block_ms` for some, 0 for not at all."""
        found = [batch for stream in streams for batch in self._take(stream, ">", count)]
        if found or not block_ms:
            return found
        if not self._apart:
            try:
                return self._wait(streams, block_ms)
            except redis.RedisError as cause:
                if "slot" not in str(cause).lower():
                    raise
                self._apart = True
                self._turns.extend(streams)
        self._turns.rotate()
        return self._wait([self._turns[0]], min(block_ms, CLUSTER_BLOCK_MS))

    def _take(self, stream: str, after: str, count: int) -> list[Batch]:
        answer, more = self._redis.eval(
            scripts.READ, 1, stream, self.name, self.consumer, after, count, scripts.BYTES_MAX
        )
        # Redis 6.2 keeps listing entries that were trimmed while they were pending.
        whole = [(entry, fields) for entry, fields in scripts.entries(answer) if fields]
        return [Batch(stream, whole, full=bool(more))] if whole else []

    def sight(self, streams: Sequence[str], handled_count: int) -> Sight:
        """What the streams show of writers, and how much waits. `handled_count`: entries that this consumer has
        handled; it stands for the group where Redis (6) does not count.
        """
        ends, added, read, kept_from = [], 0, 0, []
        for stream in streams:
            about = scripts.ask_info(self._redis, stream)
            if about is None:
                continue
            ends.append(about.last)
            added += about.length if about.added_count is None else about.added_count
            if about.added_count is None:
                kept_from.append(about.first_entry)
            own = [group for group in self._redis.xinfo_groups(stream) if text(group["name"]) == self.name]
            read += next((group["entries-read"] for group in own if group.get("entries-read")), 0)
        return Sight(tuple(ends), added - (read or handled_count), tuple(kept_from))

    def own(self, stream: str) -> Iterator[Batch]:
        """What this consumer took and did not acknowledge; counts as one more delivery."""
        after = START
        while batches := self._take(stream, after, OWN_PAGE):
            yield from batches
            after = batches[-1].entries[-1][0]

    def _wait(self, streams: Sequence[str], block_ms: int) -> list[Batch]:
        wanted = dict.fromkeys(streams, ">")
        answer = self._redis.xreadgroup(self.name, self.consumer, wanted, count=WOKEN_COUNT, block=block_ms)
        return [
            Batch(text(stream), [(text(entry), fields) for entry, fields in entries])
            for stream, entries in _by_stream(answer)
            if entries
        ]

    def claim(self, stream: str, cursor: str, idle_ms: int, count: int) -> tuple[str, list[Entry], int]:
        """Take over entries whose consumer left them untouched. Returns where to go on ("0-0" at the end), the entries,
        and how many were found trimmed: those are given up here, for nobody can ever apply them.
        """
        limits = idle_ms, cursor, count, scripts.BYTES_MAX
        next_, answer, gone, holes = self._redis.eval(scripts.CLAIM, 1, stream, self.name, self.consumer, *limits)
        claimed = [(entry, fields) for entry, fields in scripts.entries(answer) if fields]
        trimmed = len(gone) + (self._forget_trimmed(stream, count) if holes else 0)
        return text(next_), claimed, trimmed

    def _forget_trimmed(self, stream: str, count: int) -> int:
        """Acknowledge what is pending here but no longer in the stream. Redis 7 does so by itself."""
        forgotten, start = 0, "-"
        while ids := [
            text(found["message_id"])
            for found in self._redis.xpending_range(stream, self.name, start, "+", count, consumername=self.consumer)
        ]:
            pipe = self._redis.pipeline(transaction=False)
            for entry in ids:
                pipe.xrange(stream, entry, entry, count=1)
            gone = [entry for entry, found in zip(ids, pipe.execute(), strict=True) if not found]
            if gone:
                forgotten += self._redis.xack(stream, self.name, *gone)
            start = f"({ids[-1]}"
        return forgotten

    def deliveries(self, stream: str, entries: Sequence[Entry]) -> dict[str, int]:
        """How often each entry, in the order of ids, was delivered."""
        if not entries:
            return {}
        # Others that this consumer holds may lie between; an entry that falls out of the answer counts as new once.
        count = 2 * len(entries) + 100
        found = self._redis.xpending_range(
            stream, self.name, entries[0][0], entries[-1][0], count, consumername=self.consumer
        )
        return {text(each["message_id"]): each["times_delivered"] for each in found}

    def keep(self, stream: str, ids: Iterable[str]) -> set[str]:
        """Tell the others that these are being worked on, without counting a delivery; returns those still pending."""
        names = list(ids)  # None, if another took them all: what Redis would refuse, now and each time after.
        found = self._redis.xclaim(stream, self.name, self.consumer, 0, names, justid=True) if names else ()
        return {text(entry) for entry in found}

    def uncount(self, stream: str, deliveries: Mapping[str, int]) -> None:
        """Take back the last delivery from the counts: its failure was not the entries' own."""
        by_count: dict[int, list[str]] = {}
        for entry, count in deliveries.items():
            by_count.setdefault(max(0, count - 1), []).append(entry)
        for count, ids in by_count.items():
            self._redis.xclaim(stream, self.name, self.consumer, 0, ids, retrycount=count, justid=True)

    def acknowledge(self, stream: str, ids: Sequence[str]) -> None:
        if ids:
            self._redis.xack(stream, self.name, *ids)

    def remove_dead(self, stream: str, idle_ms: int) -> list[str]:
        """Remove consumers that hold nothing and have not asked for so long. One that comes back is simply made
        again.
        """
        return self._remove_idle(stream, idle_ms, "")

    def leave(self, stream: str) -> None:
        """Remove this consumer if it holds nothing."""
        self._remove_idle(stream, 0, self.consumer)

    def _remove_idle(self, stream: str, idle_ms: int, only: str) -> list[str]:
        return [text(name) for name in self._redis.eval(scripts.REMOVE_IDLE, 1, stream, self.name, idle_ms, only)]


def _by_stream(answer: Any) -> Iterable[tuple[str | bytes, Sequence[Any]]]:
    """XREADGROUP's answer in either protocol version."""
    if isinstance(answer, dict):
        return [
            (stream, entries[0] if entries and isinstance(entries[0], list) else entries)
            for stream, entries in answer.items()
        ]
    return [(stream, entries) for stream, entries in answer or ()]
