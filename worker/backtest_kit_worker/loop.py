"""The loop: entries from a consumer group to a role, acknowledged only after the role's effect is durable.

Where an entry ends:
* applied, then acknowledged;
* parked with the cause, then acknowledged: it cannot be read; or its application failed by itself while others
  succeed - at once if its own bytes are to blame, after `attempts_max` deliveries if a server refused it;
* trimmed while it was pending (only somebody else's XTRIM or XDEL does that): given up, logged and counted.

What fails without proof that it is the entry's fault is never parked:
* a server is away: the batch is held, kept from the others, and applied again after a pause that grows;
* everything fails, with the servers there: the entries stay pending, uncounted, and come again after `claim_idle_ms`.

Nothing is fetched while a batch is held, so memory is bounded by `batch_max` entries and `BYTES_MAX` a stream, and a
few entries more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import redis
from pymongo.errors import ConnectionFailure, PyMongoError

from backtest_kit_mongo.coherence.events import Event, UnknownEvent, decode
from backtest_kit_mongo.errors import EnvironmentFault
from backtest_kit_worker.backoff import Backoff
from backtest_kit_worker.dead_letters import DeadLetterWriter
from backtest_kit_worker.groups import START, Batch, ConsumerGroup, Entry, is_group_gone
from backtest_kit_worker.pacing import SHARE_MIN, Pace
from backtest_kit_worker.roles import Apply, Role

logger = logging.getLogger(__name__)

REFUSED = (redis.RedisError, PyMongoError, OSError, EnvironmentFault)
"""Errors that repeating may cure."""
LOST = (redis.ConnectionError, redis.TimeoutError, ConnectionFailure, ConnectionError, TimeoutError)
"""Errors that say nothing about an entry: nobody answered."""
PASSING = ("TransientTransactionError", "RetryableWriteError")
"""MongoDB's labels for errors that pass by themselves."""
OUTCOMES = ("applied", "duplicate", "parked", "failed", "trimmed")


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """Times are milliseconds.

    Attributes:
        batch_max: entries fetched and applied at once.
        block_ms: how long one read waits for new entries; also the longest delay of a stop request.
        claim_idle_ms: a pending entry untouched for so long belongs to a consumer that is presumed dead.
        retry_ms: pause after a failure; doubled by each further one, up to `retry_max_ms`. Less than `claim_idle_ms`,
            or others take over what is only waiting.
        attempts_max: deliveries after which an entry that a server refuses, while others succeed, is parked.
        dead_consumer_ms: a consumer that holds nothing and did not ask for so long is removed from the group.
        share_min: while behind and others write, work at least this share of the time (see `pacing`); 1: never rest.
    """

    batch_max: int = 1_000
    block_ms: int = 2_000
    claim_idle_ms: int = 30_000
    retry_ms: int = 200
    retry_max_ms: int = 10_000
    attempts_max: int = 8
    dead_consumer_ms: int = 3_600_000
    share_min: float = SHARE_MIN


def is_lost(cause: Exception) -> bool:
    """Whether an error says nothing about the entries: nobody answered, or not in time, or somebody was in the way."""
    if isinstance(cause, PyMongoError):
        return isinstance(cause, LOST) or cause.timeout or any(map(cause.has_error_label, PASSING))
    return isinstance(cause, LOST)


class Loop:
    """One role over one or more streams.

    `run_once` is one iteration, so tests call it; `run` repeats it until `stop` is set.

    Args:
        apply: called in place of the role's own, to watch it at work.

    Attributes:
        counts: entries by outcome (`OUTCOMES`); one may fail several times before its end.
        heartbeat: `time.monotonic()` of the last sign of life; an iteration that hangs stops it.
        trouble: the error that the last iteration ended with, None if it succeeded.
    """

    def __init__(
        self,
        client: redis.Redis,
        streams: Sequence[str],
        role: Role,
        dead_letters: DeadLetterWriter,
        consumer: str,
        options: LoopOptions = LoopOptions(),
        apply: Apply | None = None,
    ) -> None:
        self._group = ConsumerGroup(client, role.name, consumer)
        self._streams = tuple(streams)
        self._role = role
        self._watched_apply = apply
        self._dead_letters = dead_letters
        self._options = options
        self._opened = False
        self._proven = False
        self._held: deque[Batch] = deque()
        self._cursors = dict.fromkeys(self._streams, START)
        self._claim_due_s = dict.fromkeys(self._streams, 0.0)
        self._handled_count = 0
        self._asked_count = options.batch_max
        self._is_paced = False  # Only `run` rests.
        self._pace = Pace(lambda: self._group.sight(self._streams, self._handled_count), options.share_min)
        self._rest_s = 0.0
        self.counts: Counter[str] = Counter()
        self.heartbeat = time.monotonic()
        self.trouble: str | None = None

    @property
    def name(self) -> str:
        return self._role.name

    @property
    def role(self) -> Role:
        return self._role

    @property
    def applied_count(self) -> int:
        """Entries whose effect was new."""
        return self.counts["applied"]

    @property
    def dead_letter_count(self) -> int:
        return self.counts["parked"]

    def run_once(self, block_ms: int | None = None) -> int:
        """Take over abandoned entries, then wait up to `block_ms` for new ones.

        Returns how many entries came to an end (applied or parked).

        Raises:
            Exception: whatever the role or a server raised for everything; nothing of it was acknowledged.
        """
        wait_ms = self._options.block_ms if block_ms is None else block_ms
        self._open()
        try:
            return self._work(wait_ms)
        except redis.ResponseError as cause:
            if not is_group_gone(cause):
                raise
            # What is held would come again anyway, since a new group begins at the stream's beginning.
            logger.error("%s: %s; making the group again", self.name, cause)
            self._opened = False
            self._held.clear()
            self._open()
            return self._work(0)

    def _open(self) -> None:
        if not self._opened:
            self._role.open()
            for stream in self._streams:
                self._group.ensure(stream)
            self._opened = True

    def _work(self, wait_ms: int) -> int:
        if self._held:
            self._keep_held()
        else:
            self._held.extend(self._fetch(wait_ms))
        handled, failure = 0, None
        began_s = time.monotonic()
        # Redis counts by stream: of several, none need be full though all together gave more than was asked for.
        is_full = any(batch.full for batch in self._held)
        while self._held:
            self.heartbeat = time.monotonic()
            try:
                handled += self._handle(self._held[0])
            except Exception as cause:
                if is_lost(cause):
                    raise
                # The servers are there. Others may fare better, which proves whose fault it is; so go on with them.
                failure = failure or cause
            self._held.popleft()
        self.heartbeat = time.monotonic()
        if failure is not None:
            raise failure
        self._handled_count += handled
        self._rest_s = self._rest_after(self.heartbeat - began_s, is_full=is_full)
        return handled

    def _rest_after(self, took_s: float, *, is_full: bool) -> float:
        try:
            return self._pace.rest_s(took_s, is_full=is_full)
        except (redis.RedisError, OSError) as cause:
            # What was handled is acknowledged, so this is no failure of it; one that lasts meets the next read too.
            logger.debug("%s: how much waits cannot be seen: %s", self.name, cause)
            return 0.0

    def _keep_held(self) -> None:
        for batch in self._held:
            still = self._group.keep(batch.stream, (entry for entry, _ in batch.entries))
            batch.entries = [(entry, fields) for entry, fields in batch.entries if entry in still]

    def _fetch(self, wait_ms: int) -> list[Batch]:
        claimed = [batch for stream in self._streams for batch in self._claim(stream)]
        if any(batch.suspect for batch in claimed):
            return claimed  # What is fetched beside a suspect would be suspected too when it kills this process.
        most = self._options.batch_max
        self._asked_count = self._pace.batch_max(most) if self._is_paced else most
        return claimed + self._group.fresh(self._streams, self._asked_count, 0 if claimed else wait_ms)

    def _claim(self, stream: str) -> list[Batch]:
        """Go on with the walk over pending entries, until some are found or it has come to its end."""
        cursor = self._cursors[stream]
        if cursor == START and time.monotonic() < self._claim_due_s[stream]:
            return []
        entries: list[Entry] = []
        while not entries:
            cursor, entries, trimmed = self._group.claim(
                stream, cursor, self._options.claim_idle_ms, self._options.batch_max
            )
            self._note_trimmed(stream, trimmed)
            if cursor == START:
                self._claim_due_s[stream] = time.monotonic() + self._options.claim_idle_ms / 4_000
                self._group.remove_dead(stream, self._options.dead_consumer_ms)
                break
        self._cursors[stream] = cursor
        return _apart(stream, entries, self._group.deliveries(stream, entries), self._options.attempts_max)

    def _note_trimmed(self, stream: str, count: int) -> None:
        if count:
            self.counts["trimmed"] += count
            logger.error("%s: %d entries of %s were trimmed before they were applied", self.name, count, stream)

    def _handle(self, batch: Batch) -> int:
        """Bring a batch's entries to their ends; returns how many came to one."""
        causes: dict[str, str] = {}
        readable: list[tuple[str, Event]] = []
        for entry, fields in batch.entries:
            try:
                if batch.give_up:
                    raise UnknownEvent(
                        "delivered again and again without an outcome: handling it may be what kills workers"
                    )
                readable.append((entry, decode(fields)))
            except UnknownEvent as cause:
                causes[entry] = str(cause)
        failures = self._apply(readable)
        # Their own bytes are to blame, which needs no proof by others.
        causes |= {
            entry: str(failures.pop(entry)) for entry in list(failures) if isinstance(failures[entry], UnknownEvent)
        }
        done = [entry for entry, _ in readable if entry not in failures and entry not in causes]
        others_succeed = bool(done) or self._proven
        if done or failures:
            self._proven = bool(done)
        if others_succeed:
            causes |= self._blamed(failures, batch.deliveries)
        for entry, fields in batch.entries:
            if entry in causes:
                self._dead_letters.park(batch.stream, self.name, entry, fields, causes[entry])
        self.counts["parked"] += len(causes)
        self.counts["failed"] += len(failures)
        self._group.acknowledge(batch.stream, [*done, *causes])
        if failures and not others_succeed:
            self._group.uncount(batch.stream, {entry: batch.deliveries.get(entry, 1) for entry in failures})
            raise next(iter(failures.values()))
        return len(done) + len(causes)

    def _apply(self, events: Sequence[tuple[str, Event]]) -> dict[str, Exception]:
        """Apply a batch; returns the entries that fail even alone, found by halving, and why.

        Raises:
            Exception: see `is_lost`; nothing may be acknowledged.
        """
        if not events:
            return {}
        try:
            new_count = (self._watched_apply or self._role.apply)(events)
        except Exception as cause:
            if is_lost(cause):
                raise
            if len(events) == 1:
                return {events[0][0]: cause}
            middle = len(events) // 2
            return self._apply(events[:middle]) | self._apply(events[middle:])
        self.counts["applied"] += new_count
        self.counts["duplicate"] += len(events) - new_count
        return {}

    def _blamed(self, failures: Mapping[str, Exception], deliveries: Mapping[str, int]) -> dict[str, str]:
        """Of the entries that fail while others succeed, those that are not worth another delivery."""
        blamed = {}
        for entry, cause in failures.items():
            attempt = deliveries.get(entry, 1)
            if not isinstance(cause, REFUSED) or attempt >= self._options.attempts_max:
                blamed[entry] = f"{type(cause).__name__}: {cause}"
            else:
                limit = self._options.attempts_max
                logger.warning("%s: entry %s failed, attempt %d of %d: %s", self.name, entry, attempt, limit, cause)
        return blamed

    def run_until_idle(self) -> int:
        """Work until nothing is left; returns how many entries were handled. Errors are raised."""
        total = 0
        while handled := self.run_once(block_ms=0):
            total += handled
        return total

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, through failures of either server; then finish what is at hand."""
        backoff = Backoff(self._options.retry_ms, self._options.retry_max_ms)
        failure_count, self._is_paced = 0, True
        while not stop.is_set():
            try:
                self.run_once()
                failure_count, self.trouble = 0, None
                if self._rest_s:
                    stop.wait(self._rest_s)
            except Exception as cause:
                failure_count, self.trouble = failure_count + 1, f"{type(cause).__name__}: {cause}"
                self.heartbeat = time.monotonic()
                self._opened = False  # Indexes and groups may be gone as well.
                pause_ms = backoff.pause_ms(failure_count)
                logger.warning("%s: %s; trying again in %.0f ms", self.name, self.trouble, pause_ms)
                stop.wait(pause_ms / 1000)
        self.drain()

    def drain(self) -> None:
        """Handle what this consumer took but did not acknowledge, instead of leaving it to others after
        `claim_idle_ms`, and leave the group.
        """
        self._held.clear()
        try:
            for stream in self._streams:
                for batch in self._group.own(stream):
                    self._handle(batch)
                self._group.leave(stream)
        except Exception as cause:
            logger.warning("%s: entries stay pending, another worker will take them over: %s", self.name, cause)

    def close(self) -> None:
        """Let the role close its connections, if it has any of its own."""
        try:
            self._role.close()
        except Exception as cause:
            logger.warning("%s: could not be closed: %s", self.name, cause)


def _apart(stream: str, entries: Sequence[Entry], deliveries: Mapping[str, int], attempts_max: int) -> list[Batch]:
    """Entries that were delivered too often without an outcome, each in a batch of its own behind the others: if one of
    them kills its worker, those before it are done. The first of them is given up in time, so that the rest come
    through.
    """
    ordinary = [entry for entry in entries if deliveries.get(entry[0], 1) <= attempts_max]
    batches = [Batch(stream, ordinary, deliveries)] if ordinary else []
    for entry in entries:
        count = deliveries.get(entry[0], 1)
        if count > attempts_max:
            is_first = not any(batch.suspect for batch in batches)
            batches.append(Batch(stream, [entry], deliveries, True, is_first and count > 2 * attempts_max))
    return batches
