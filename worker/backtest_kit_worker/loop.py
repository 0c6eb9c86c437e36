"""The loop: entries from a consumer group to a role, acknowledged only after the role's effect is durable.

An entry's ways: new -> applied -> acknowledged; or the role raised, or the process died: it stays pending and is
delivered again, here after `claim_idle_ms` or to another worker; or it cannot be read: it is parked with the cause and
acknowledged, so that it neither blocks the stream nor is lost.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from pymongo.errors import PyMongoError

from backtest_kit_mongo.coherence.events import Event, UnknownEvent, decode
from backtest_kit_worker.parking import Parking
from backtest_kit_worker.roles import Role

logger = logging.getLogger(__name__)

Entry = tuple[bytes | None, Mapping[bytes, bytes] | None]
SERVER_FAILED = (redis.RedisError, PyMongoError, OSError)
"""Errors that repeating may cure."""


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """Times are milliseconds.

    Attributes:
        batch_max: entries fetched and applied at once.
        block_ms: how long one read waits for new entries; also the longest delay of a stop request.
        claim_idle_ms: a pending entry untouched for so long belongs to a consumer that is presumed dead.
        retry_ms: pause after a failure.
    """

    batch_max: int = 500
    block_ms: int = 1_000
    claim_idle_ms: int = 30_000
    retry_ms: int = 1_000


class Loop:
    """One role over one or more streams.

    `run_once` is one iteration, so tests call it; `run` repeats it until `stop` is set.
    """

    def __init__(
        self,
        client: redis.Redis,
        streams: Sequence[str],
        role: Role,
        parking: Parking,
        consumer: str,
        options: LoopOptions = LoopOptions(),
    ) -> None:
        self._redis: Any = client
        self._streams = tuple(streams)
        self._role = role
        self._parking = parking
        self._consumer = consumer
        self._options = options
        self._opened = False
        self.applied_count = 0
        self.parked_count = 0

    def _open(self) -> None:
        """Create groups at the beginning of the stream:

        an event published before the first worker started must be seen too.
        """
        if self._opened:
            return
        self._role.open()
        for stream in self._streams:
            try:
                self._redis.xgroup_create(stream, self._role.name, id="0", mkstream=True)
            except redis.ResponseError as cause:
                if not str(cause).startswith("BUSYGROUP"):
                    raise
        self._opened = True

    def run_once(self, block_ms: int | None = None) -> int:
        """Take over abandoned entries, then wait up to `block_ms` for new ones;

        returns how many entries were handled.
        """
        self._open()
        handled = 0
        for stream in self._streams:
            answer = self._redis.xautoclaim(
                stream,
                self._role.name,
                self._consumer,
                self._options.claim_idle_ms,
                "0-0",
                count=self._options.batch_max,
            )
            handled += self._handle(stream, answer[1])
        wait_ms = self._options.block_ms if block_ms is None else block_ms
        fresh = self._redis.xreadgroup(
            self._role.name,
            self._consumer,
            dict.fromkeys(self._streams, ">"),
            count=self._options.batch_max,
            block=wait_ms or None,
        )
        for name, entries in _streams_of(fresh):
            handled += self._handle(name, entries)
        return handled

    def _handle(self, stream: str | bytes, entries: Sequence[Entry]) -> int:
        readable: list[tuple[str, Event]] = []
        raw: dict[str, Mapping[bytes, bytes]] = {}
        for entry_id, fields in entries:
            if entry_id is None or fields is None:
                continue  # Trimmed while it was pending; see _forget_trimmed.
            name = entry_id.decode()
            raw[name] = fields
            try:
                readable.append((name, decode(fields)))
            except UnknownEvent as cause:
                self._park(stream, name, fields, str(cause))
        self._apply(stream, readable, raw)
        if raw:
            self._redis.xack(stream, self._role.name, *raw)
        if len(raw) < len(entries):
            self._forget_trimmed(stream)
        return len(raw)

    def _apply(
        self, stream: str | bytes, events: Sequence[tuple[str, Event]], raw: Mapping[str, Mapping[bytes, bytes]]
    ) -> None:
        """Apply a batch. If one of it cannot be applied whatever the servers do, find it by applying one at a time, and
        park it.

        Raises:
            RedisError, PyMongoError, OSError: a server failed; nothing may be acknowledged.
        """
        if not events:
            return
        try:
            self.applied_count += self._role.apply(events)
        except SERVER_FAILED:
            raise
        except Exception as cause:
            if len(events) > 1:
                for event in events:
                    self._apply(stream, [event], raw)
                return
            name = events[0][0]
            self._park(stream, name, raw[name], f"{type(cause).__name__}: {cause}")

    def _park(self, stream: str | bytes, entry: str, fields: Mapping[bytes, bytes], cause: str) -> None:
        self._parking.park(stream, self._role.name, entry, fields, cause)
        self.parked_count += 1

    def _forget_trimmed(self, stream: str | bytes) -> None:
        """Acknowledge what is pending here but no longer in the stream: nobody can ever apply it. Redis 7 does so by
        itself.
        """
        pending = self._redis.xpending_range(
            stream, self._role.name, "-", "+", self._options.batch_max, consumername=self._consumer
        )
        for entry in pending:
            entry_id = entry["message_id"]
            if not self._redis.xrange(stream, entry_id, entry_id, count=1):
                self._redis.xack(stream, self._role.name, entry_id)
                logger.error("%s: entry %s was trimmed before it was applied", self._role.name, entry_id.decode())

    def run_until_idle(self) -> int:
        """Work until nothing is left; returns how many entries were handled. Errors are raised."""
        total = 0
        while handled := self.run_once(block_ms=0):
            total += handled
        return total

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, through failures of either server; then finish what is at hand."""
        while not stop.is_set():
            try:
                self.run_once()
            except Exception as cause:
                # Nothing of the batch was acknowledged, so it comes again. Groups may be gone after FLUSHALL: make sure
                # again.
                logger.warning("%s: %s; trying again in %d ms", self._role.name, cause, self._options.retry_ms)
                self._opened = False
                stop.wait(self._options.retry_ms / 1000)
        self._drain()

    def _drain(self) -> None:
        """Entries that this consumer took but did not acknowledge go back at once instead of after `claim_idle_ms`."""
        try:
            for stream in self._streams:
                own = self._redis.xreadgroup(
                    self._role.name, self._consumer, {stream: "0"}, count=self._options.batch_max
                )
                for name, entries in _streams_of(own):
                    self._handle(name, entries)
        except SERVER_FAILED as cause:
            logger.warning(
                "%s: stopping with entries pending, another worker will take them over: %s", self._role.name, cause
            )


def _streams_of(answer: Any) -> Sequence[tuple[str | bytes, Sequence[Entry]]]:
    """XREADGROUP's answer in either protocol version."""
    if not answer:
        return ()
    if isinstance(answer, dict):
        return [
            (stream, entries[0] if entries and isinstance(entries[0], list) else entries)
            for stream, entries in answer.items()
        ]
    return [(stream, entries) for stream, entries in answer]
