"""A consumer group over all streams of the feed: everything that is asked of Redis.

Errors of the client come through as they are; the caller decides what they mean. Entry ids are text, "ms-number".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import redis

from backtest_kit_mongo.feed.positions import EntryId, text

PREFIX = "feed:"
"""Before a group's name in Redis, so that no consumer can name itself like a role of the worker and take its entries."""
HANDED_BACK = "handed-back"
"""The consumer that holds what a closed feed left unacknowledged, for whoever asks next."""
PAGE = 1_000
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
        last, first = info["last-generated-id"], info["first-entry"]
        if start_ms is None or not first:
            return text(last)
        return min(max(before(text(first[0])), f"{max(0, start_ms)}-0", key=order), text(last), key=order)

    def _stream_info(self, stream: str) -> Any:
        try:
            return self._redis.xinfo_stream(stream)
        except redis.ResponseError as cause:
            if "no such key" in str(cause):
                return None
            raise

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
            self._redis.xgroup_create(stream, self._name, id=position, mkstream=True)
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
        """Streams from which entries that the group has not read may have been trimmed. Redis cannot say for certain: an entry
        that the group read last and that is gone, too, looks the same. (Redis 7's `max-deleted-entry-id` knows of XDEL only.)
        """
        for stream in self.streams:
            info, group = self._stream_info(stream), self._info(stream)
            if info is None or group is None:
                continue
            read = text(group["last-delivered-id"])
            first = text(info["first-entry"][0]) if info["first-entry"] else None
            upper = before(first) if first else text(info["last-generated-id"])
            if order(read) < order(upper) and read != "0-0" and not self._redis.xrange(stream, read, read, count=1):
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
            if order(text(group["last-delivered-id"])) < order(text(info["last-generated-id"])):
                reached = min(reached, order(text(group["last-delivered-id"]))[0])
        return reached

    # -- entries

    def read(self, count: int, block_ms: int | None) -> list[Entry]:
        """New entries; waits up to `block_ms` (None: not at all) for the first."""
        if not self._apart:
            try:
                return self._read(self.streams, count, block_ms)
            except redis.exceptions.ClusterCrossSlotError:
                self._apart.extend(self.streams)
        packet = self._redis.pipeline(transaction=False)
        for stream in self.streams:
            packet.xreadgroup(self._name, self.consumer, {stream: ">"}, count=count)
        found = [entry for answer in packet.execute() for entry in _entries(answer)]
        if found or block_ms is None:
            return found
        self._apart.rotate()
        return self._read([self._apart[0]], count, min(block_ms, CLUSTER_BLOCK_MS))

    def _read(self, streams: Sequence[str], count: int, block_ms: int | None) -> list[Entry]:
        wanted = dict.fromkeys(streams, ">")
        return list(_entries(self._redis.xreadgroup(self._name, self.consumer, wanted, count=count, block=block_ms)))

    def own(self, count: int) -> list[Entry]:
        """What this consumer's name holds already: left by an earlier process of the same name."""
        found: list[Entry] = []
        for stream in self.streams:
            found += _entries(self._redis.xreadgroup(self._name, self.consumer, {stream: "0"}, count=count))
        return found

    def claim(self, idle_ms: int, count: int) -> list[Entry]:
        """Take over what nobody has touched for `idle_ms`, this consumer's own included."""
        packet = self._redis.pipeline(transaction=False)
        for stream in self.streams:
            packet.xautoclaim(stream, self._name, self.consumer, idle_ms, self._cursors[stream], count=count)
        found: list[Entry] = []
        for stream, answer in zip(self.streams, packet.execute(), strict=True):
            # Going on where the last look ended: many young entries must not hide old ones behind them.
            self._cursors[stream] = text(answer[0])
            found += [Entry(stream, text(entry[0]), entry[1]) for entry in answer[1] if entry and entry[1] is not None]
            # Redis 7 names what was trimmed; Redis 6 answers nothing in its place.
            found += [Entry(stream, text(entry_id), None) for entry_id in (answer[2] if len(answer) > 2 else ())]
            if any(not entry or entry[1] is None for entry in answer[1]):
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
            packet.xrange(stream, entry_id, entry_id, count=1)
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
