"""A consumer group over all streams of the feed: everything that is asked of Redis.

Errors of the client come through as they are; the caller decides what they mean. Entry ids are text, "ms-number".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import redis

from backtest_kit_mongo.feed import scripts
from backtest_kit_mongo.feed.positions import EntryId, text

PREFIX = "feed:"
"""Before a group's name in Redis, so that no consumer can name itself like a role of the worker and take its
entries.
"""
HANDED_BACK = "handed-back"
"""The consumer that holds what a closed feed left unacknowledged, for whoever asks next."""
PAGE = 1_000
WOKEN_COUNT = 8
"""Entries that a read which had to wait takes from each stream."""
CLUSTER_BLOCK_MS = 50
"""Only one stream of a cluster can be waited for at a time, and the others must not wait for long meanwhile."""

order = EntryId.parse
"""What entry ids are compared by."""


class Entry(NamedTuple):
    """A delivered entry. `fields` is None if it was trimmed from the stream while it was pending."""

    stream: str
    id: str
    fields: Mapping[bytes, bytes] | None


class Span(NamedTuple):
    """Of one stream: what is after `lower` and was not in the stream after `position` is to be read elsewhere."""

    stream: str
    lower: str
    position: str


def before(entry_id: str) -> str:
    """The greatest id below this one."""
    ms, number = order(entry_id)
    if number:
        return f"{ms}-{number - 1}"
    return f"{ms - 1}-{2**64 - 1}" if ms else "0-0"


class Group:
    """One consumer of one group. Thread-safe as far as the client is."""

    def __init__(self, client: redis.Redis, streams: Sequence[str], name: str, consumer: str) -> None:
        self._redis: Any = client
        self.streams = tuple(streams)
        self._name = f"{PREFIX}{name}"
        self.consumer = consumer
        self._cursors = dict.fromkeys(self.streams, "0-0")
        self._own_after = dict.fromkeys(self.streams, "0-0")
        self._apart: deque[str] = deque()  # The streams in turn, once it is known that they are on several servers.

    def close(self) -> None:
        self._redis.close()

    # -- groups

    def now_ms(self) -> int:
        """Redis' clock, which entry ids are made of."""
        seconds, micros = self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def position(self, stream: str, start_ms: int | None) -> str:
        """Where a new group starts: after what is no longer there and after `start_ms`; None: after everything."""
        info = self._stream_info(stream)
        if info is None:
            return "0-0"
        if start_ms is None or not info.first_entry:
            return info.last
        return min(max(before(info.first_entry), f"{max(0, start_ms)}-0", key=order), info.last, key=order)

    def _stream_info(self, stream: str) -> scripts.StreamInfo | None:
        return scripts.ask_info(self._redis, stream)

    def _info(self, stream: str) -> Any:
        try:
            groups = self._redis.xinfo_groups(stream)
        except redis.ResponseError as cause:
            if "no such key" in str(cause):
                return None
            raise
        return next((group for group in groups if text(group["name"]) == self._name), None)

    def missing(self) -> list[str]:
        """Streams on which the group does not exist."""
        return [stream for stream in self.streams if self._info(stream) is None]

    def create(self, stream: str, position: str) -> bool:
        """Make the group on a stream; False if it is there."""
        try:
            self._redis.eval(scripts.ENSURE, 1, stream, self._name, position)
        except redis.ResponseError as cause:
            if not str(cause).startswith("BUSYGROUP"):
                raise
            return False
        return True

    def destroy(self) -> int:
        """Remove the group; returns on how many streams it was."""
        count = 0
        for stream in self.streams:
            if self._info(stream) is not None:
                count += int(self._redis.xgroup_destroy(stream, self._name))
        return count

    def holes(self) -> Iterator[Span]:
        """Streams from which entries that the group has not read may have been trimmed. Redis cannot say for certain:
        an entry that the group read last and that is gone, too, looks the same. (Redis 7's `max-deleted-entry-id` knows
        of XDEL only.)
        """
        for stream in self.streams:
            info, group = self._stream_info(stream), self._info(stream)
            if info is None or group is None:
                continue
            read = text(group["last-delivered-id"])
            upper = before(info.first_entry) if info.first_entry else info.last
            if order(read) < order(upper) and read != "0-0" and not self.holds([(stream, read)]):
                yield Span(stream, read, upper)

    def move(self, stream: str, position: str) -> None:
        """Read on after `position`. If another consumer is ahead of it by now, what it read is delivered again."""
        self._redis.xgroup_setid(stream, self._name, position)

    def reached_ms(self) -> int:
        """Everything older has been acknowledged, in Redis' time."""
        reached = self.now_ms()
        for stream in self.streams:
            info, group = self._stream_info(stream), self._info(stream)
            if info is None or group is None:
                return 0
            if group["pending"]:
                lowest = self._redis.xpending(stream, self._name)["min"]
                reached = min(reached, order(text(lowest))[0]) if lowest else reached
            if order(text(group["last-delivered-id"])) < order(info.last):
                reached = min(reached, order(text(group["last-delivered-id"]))[0])
        return reached

    # -- entries

    def read(self, count: int, block_ms: int | None) -> list[Entry]:
        """New entries, `count` and `BYTES_MAX` for each stream; waits up to `block_ms` (None: not at all) for the
        first.
        """
        found = self._take(dict.fromkeys(self.streams, ">"), count)
        if found or block_ms is None:
            return found
        if not self._apart:
            try:
                return self._wait(self.streams, count, block_ms)
            except redis.exceptions.ClusterCrossSlotError:
                self._apart.extend(self.streams)
        self._apart.rotate()
        return self._wait([self._apart[0]], count, min(block_ms, CLUSTER_BLOCK_MS))

    def _take(self, after: Mapping[str, str], count: int) -> list[Entry]:
        packet = self._redis.pipeline(transaction=False)
        for stream, position in after.items():
            packet.eval(scripts.READ, 1, stream, self._name, self.consumer, position, count, scripts.BYTES_MAX)
        return [
            Entry(stream, *entry)
            for stream, (answer, _) in zip(after, packet.execute(), strict=True)
            for entry in scripts.entries(answer)
        ]

    def _wait(self, streams: Sequence[str], count: int, block_ms: int) -> list[Entry]:
        wanted = dict.fromkeys(streams, ">")
        woken = min(count, WOKEN_COUNT)
        return list(_entries(self._redis.xreadgroup(self._name, self.consumer, wanted, count=woken, block=block_ms)))

    def own(self, count: int) -> list[Entry]:
        """The next of what this consumer's name holds already, left by an earlier process of the same name; none at the
        end.
        """
        found = self._take(self._own_after, count)
        self._own_after |= {entry.stream: entry.id for entry in found}
        return found

    def remove_dead(self, idle_ms: int) -> None:
        """Remove the consumers that hold nothing and have not asked for so long. One that comes back is simply made
        again.
        """
        packet = self._redis.pipeline(transaction=False)
        for stream in self.streams:
            packet.eval(scripts.REMOVE_IDLE, 1, stream, self._name, idle_ms, "")
        packet.execute()

    def claim(self, idle_ms: int, count: int) -> list[Entry]:
        """Take over what nobody has touched for `idle_ms`, this consumer's own included."""
        packet = self._redis.pipeline(transaction=False)
        for stream in self.streams:
            limits = idle_ms, self._cursors[stream], count, scripts.BYTES_MAX
            packet.eval(scripts.CLAIM, 1, stream, self._name, self.consumer, *limits)
        found: list[Entry] = []
        for stream, (cursor, claimed, gone, holes) in zip(self.streams, packet.execute(), strict=True):
            # Going on where the last look ended: many young entries must not hide old ones behind them.
            self._cursors[stream] = text(cursor)
            found += [Entry(stream, *entry) for entry in scripts.entries(claimed)]
            # Redis 7 names what was trimmed; Redis 6 answers nothing in its place.
            found += [Entry(stream, text(entry_id), None) for entry_id in gone]
            if holes:
                found += self._trimmed(stream)
        return found

    def _trimmed(self, stream: str) -> Iterator[Entry]:
        pending = self._redis.xpending_range(stream, self._name, "-", "+", PAGE, consumername=self.consumer)
        ids = [text(entry["message_id"]) for entry in pending]
        held = self.holds([(stream, entry_id) for entry_id in ids])
        return (Entry(stream, entry_id, None) for entry_id in ids if (stream, entry_id) not in held)

    def holds(self, entries: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the entries that are in the streams."""
        packet = self._redis.pipeline(transaction=False)
        for stream, entry_id in entries:
            packet.eval(scripts.HEADS, 1, stream, entry_id, entry_id, 1)
        return {entry for entry, found in zip(entries, packet.execute(), strict=True) if found}

    def acknowledge(self, entries: Iterable[tuple[str, str]]) -> None:
        by_stream: dict[str, list[str]] = {}
        for stream, entry_id in entries:
            by_stream.setdefault(stream, []).append(entry_id)
        packet = self._redis.pipeline(transaction=False)
        for stream, ids in by_stream.items():
            packet.xack(stream, self._name, *ids)
        packet.execute()

    def hand_back(self) -> None:
        """Give up everything this consumer holds, so that the next to ask gets it at once, and forget the consumer."""
        for stream in self.streams:
            last = "-"
            while pending := self._redis.xpending_range(
                stream, self._name, last, "+", PAGE, consumername=self.consumer
            ):
                ids = [text(entry["message_id"]) for entry in pending]
                # Delivered long ago: idle for longer than anybody's limit. The count of deliveries stays.
                self._redis.xclaim(stream, self._name, HANDED_BACK, 0, ids, time=1, justid=True)
                last = f"({ids[-1]}"
            if not self._redis.xpending_range(stream, self._name, "-", "+", 1, consumername=self.consumer):
                self._redis.xgroup_delconsumer(stream, self._name, self.consumer)


def _entries(answer: Any) -> Iterator[Entry]:
    """XREADGROUP's answer in either protocol version."""
    for stream, entries in answer.items() if isinstance(answer, dict) else answer or ():
        flat = entries[0] if entries and isinstance(entries[0], list) and isinstance(answer, dict) else entries
        for entry_id, fields in flat:
            yield Entry(text(stream), text(entry_id), fields or None)
