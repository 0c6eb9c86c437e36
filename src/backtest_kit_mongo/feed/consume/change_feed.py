"""The feed that a consumer iterates: the audit log's part first, then the stream's, each change once."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import redis
from pymongo import MongoClient
from redis.exceptions import AskError, ClusterDownError, TryAgainError

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.redis.link import UNREACHABLE
from backtest_kit_mongo.errors import EnvironmentFault, ReadFailed
from backtest_kit_mongo.feed.consume.audit_log import AuditLog
from backtest_kit_mongo.feed.consume.event import ChangeEvent
from backtest_kit_mongo.feed.consume.groups import Entry, Group
from backtest_kit_mongo.feed.consume.intake import Intake, Item
from backtest_kit_mongo.feed.consume.membership import Membership
from backtest_kit_mongo.feed.consume.replay import Replay

logger = locks.logger(__name__)

CHECKPOINT_S = 10.0
"""How often the group's progress is stored outside Redis; after a FLUSHALL so much more is delivered again."""
WAIT_S = 0.2
"""Pause between looks at a replay that another process is busy with."""
GONE = ("NOGROUP", "UNBLOCKED")
"""Answers of a Redis that was flushed."""
FAILING_OVER = (redis.ReadOnlyError, ClusterDownError, AskError, TryAgainError)
"""Answers of a server that is no primary any more, of a cluster without one, and of a slot that is on its way."""


@dataclass(frozen=True, slots=True)
class FeedOptions:
    """See `consume`."""

    timeout_s: float | None
    until_idle: bool
    claim_idle_ms: int
    batch_max: int
    block_ms: int
    window: int
    unacknowledged_max: int
    retry_ms: int = 500


class ChangeFeed:
    """Iterate it to get `ChangeEvent`s; close it, or use it as a context manager. Made by `consume`.

    One thread iterates; any thread may acknowledge or close. Iteration ends when the feed is closed, after `timeout_s`
    from its start, or with `until_idle` when nothing is left; iterating again goes on. While a server is away it
    waits. Closing hands back what was not acknowledged: the next process of the group gets it at once. Without closing
    it comes again after `claim_idle_ms`.

    Attributes:
        group: name of the consumer group.
    """

    def __init__(
        self,
        membership: Membership,
        group: Group,
        log: AuditLog,
        replay: Replay,
        mongo: MongoClient[dict[str, Any]],
        options: FeedOptions,
        *,
        named: bool,
    ) -> None:
        self.group = membership.name
        self._membership = membership
        self._redis = group
        self._log = log
        self._replay = replay
        self._mongo = mongo
        self._options = options
        self._intake = Intake(
            membership, group, replay, options.window, options.unacknowledged_max, options.claim_idle_ms
        )
        # Whoever iterates or closes. No `Lock`: iterating may wait for long, and says so while it does.
        self._turn = threading.RLock()
        self._stop = threading.Event()
        self._inside = self._closed = self._prepared = self._waiting = False
        # An earlier process of the same name may have left something behind.
        self._left_behind = named
        self._buffer: deque[Item] = deque()
        self._fetched_s = self._end_s = float("inf")
        self._checkpoint_s = time.monotonic()

    def __repr__(self) -> str:
        return f"<feed of group {self.group!r}{', closed' if self._closed else ''}>"

    # -- iterating

    def __iter__(self) -> Iterator[ChangeEvent]:
        timeout_s = self._options.timeout_s
        self._end_s = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        return self

    def __next__(self) -> ChangeEvent:
        """The next event.

        Raises:
            TooManyUnacknowledged: acknowledge some events, then go on.
            ReadFailed: Redis refuses (permissions, a key of another type); what was not acknowledged comes again.
        """
        with self._turn:
            self._inside = True
            try:
                event = self._next()
            finally:
                self._inside = False
                if self._stop.is_set():
                    self._shut()
        if event is None:
            raise StopIteration
        return event

    def _next(self) -> ChangeEvent | None:
        while not self._stop.is_set() and time.monotonic() < self._end_s:
            self._intake.require_room()
            self._drop_what_is_lost()
            while self._buffer:
                event = self._intake.admit(self._buffer.popleft())
                if event is not None:
                    return event
            if not self._fill() and self._options.until_idle:
                return None
        return None

    def _drop_what_is_lost(self) -> None:
        """Go on being the one that replays. What another process may have taken over by now is not handed out here;
        what is still ours comes again.
        """
        if not self._buffer:
            return
        lost = time.monotonic() - self._fetched_s >= self._options.claim_idle_ms / 1000
        with suppress(EnvironmentFault), self._intake.lock:  # If MongoDB is away, the fetch deals with it.
            lost = lost or (self._replay.is_held and not self._replay.keep())
        if lost:
            # Redis 7 forgets a trimmed entry when it has named it once.
            self._buffer = deque(item for item in self._buffer if item.entry is not None and item.record is not None)

    def ack(self, *events: ChangeEvent) -> None:
        """Acknowledge several events of this feed in one packet; see `ChangeEvent.ack`.

        Raises:
            FeedClosed: the feed is closed; what was not acknowledged before comes again.
        """
        self._intake.settle([event.receipt for event in events])

    # -- fetching

    def open(self) -> None:
        """Make sure that the group exists; `consume` does so.

        Raises:
            EnvironmentFault, redis.RedisError, OSError: a server cannot be used.
        """
        self._membership.prepare()
        with self._intake.lock:
            self._replay.save(at_once=True)
            self._replay.load()
        self._prepared = True

    def _fill(self) -> bool:
        """Fetch more. False if there is nothing now; True if it is worth asking again."""
        try:
            found = self._fetch()
        except (*UNREACHABLE, redis.ResponseError, EnvironmentFault) as cause:
            self._trouble(cause)
            return True
        if self._waiting:
            logger.warning("group %s: the servers are back", self.group)
            self._waiting = False
        return found

    def _trouble(self, cause: Exception) -> None:
        """Wait a little, then look at everything anew: whatever failed may have lost the group, or a part of the past.

        Raises:
            ReadFailed: waiting would not help.
        """
        self._prepared = False
        if isinstance(cause, redis.ResponseError):
            if any(word in str(cause) for word in GONE):
                return
            if not isinstance(cause, FAILING_OVER):
                raise ReadFailed(
                    f"group {self.group!r}: Redis refused to deliver: {cause}. What was not acknowledged comes again."
                ) from cause
        if not self._waiting:
            logger.warning("group %s waits for a server and goes on by itself: %s", self.group, cause)
            self._waiting = True
        self._pause(self._options.retry_ms / 1000)

    def _pause(self, seconds: float) -> None:
        self._stop.wait(max(0, min(seconds, self._end_s - time.monotonic())))

    def _fetch(self) -> bool:
        if not self._prepared:
            self.open()
        self._intake.pay()
        self._fetched_s = time.monotonic()
        with self._intake.lock:
            self._replay.save()
            if self._replay.is_due:
                records = self._replay.take(self._options.batch_max)
                if records is not None:
                    self._buffer += [Item(None, record) for record in records]
                    return True
            is_elsewhere = self._replay.is_due
        if is_elsewhere:
            # Until the other process has read everything, the stream has to wait.
            self._pause(WAIT_S)
            return True
        self._checkpoint(self._look_around)
        return self._fetch_entries()

    def _fetch_entries(self) -> bool:
        options = self._options
        entries = self._redis.own(options.batch_max) if self._left_behind else []
        self._left_behind = bool(entries)
        entries += self._redis.claim(options.claim_idle_ms, options.batch_max)
        with self._intake.lock:
            again = self._replay.overdue(options.claim_idle_ms / 1000)
        if not entries and not again:
            entries = self._redis.read(options.batch_max, self._block_ms())
        self._buffer += [Item(None, record) for record in again]
        self._buffer += [Item(entry) for entry in entries if entry.fields is not None]
        if trimmed := [entry for entry in entries if entry.fields is None]:
            self._recover(trimmed)
        return bool(entries or again)

    def _block_ms(self) -> int | None:
        if self._options.until_idle:
            return None
        left_ms = (self._end_s - time.monotonic()) * 1000
        return max(1, int(min(self._options.block_ms, self._options.claim_idle_ms, left_ms)))

    def _recover(self, trimmed: Iterable[Entry]) -> None:
        """Entries that were trimmed while they were pending: the audit log has them, or nobody has."""
        records = self._log.by_entry([entry[:2] for entry in trimmed])
        for entry in trimmed:
            record = records.get(entry[:2])
            if record is not None:
                self._buffer.append(Item(entry, record))
                continue
            logger.error(
                "group %s: entry %s of %s was trimmed before it was acknowledged, and the audit log has no change of "
                "it that this group wants", self.group, entry.id, entry.stream,
            )  # fmt: skip
            self._intake.pass_over(Item(entry))

    def _checkpoint(self, work: Callable[[], object]) -> None:
        if time.monotonic() - self._checkpoint_s >= CHECKPOINT_S:
            self._checkpoint_s = time.monotonic()
            work()

    def _look_around(self) -> None:
        with self._intake.lock:
            if not self._replay.is_held:
                self._replay.load()  # Another process may have left one behind.
        self._membership.store_reached()
        self._redis.remove_dead(self._options.claim_idle_ms)

    # -- closing

    def close(self) -> None:
        """Stop iterating and hand back what was not acknowledged. May be called from any thread or signal handler, and
        again. Never raises for a server that is away.
        """
        self._stop.set()
        with self._turn:
            if not self._inside:  # A signal handler interrupted the iteration: that closes when it stops.
                self._shut()

    def _shut(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._intake.close()
        self._buffer.clear()
        try:
            if self._prepared:
                self._intake.pay()
                self._replay.close()
                self._membership.store_reached()
                self._redis.remove_dead(self._options.claim_idle_ms)
                self._redis.hand_back()
        except (*UNREACHABLE, redis.RedisError, EnvironmentFault) as cause:
            logger.warning(
                "group %s closes without its servers; what was not acknowledged comes again after %d ms: %s",
                self.group, self._options.claim_idle_ms, cause,
            )  # fmt: skip
        finally:
            self._redis.close()
            self._mongo.close()

    def __enter__(self) -> ChangeFeed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
