"""Going past Redis, and seeing that nobody else is served meanwhile: the driver of `coherence/bypass.py`."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, NamedTuple

import redis
from pymongo.errors import PyMongoError

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.mongo.flags import LOOK_S, Flags
from backtest_kit_mongo.backends.redis.counts import CacheCounts
from backtest_kit_mongo.coherence.bypass import Door, Flag, Watch, concerns
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.errors import ServerUnreachable, WriteOutcomeUnknown

logger = locks.logger(__name__)
BEAT_S: Final = 1.0
CLOSED_MAX_S: Final = 1.0
"""Between two looks that found no entry may be served, no more than this counts: perhaps nobody wanted one."""
BURIED: Final = "a client died that had written past Redis"


class Serving(NamedTuple):
    """What a script needs that serves something: T, how long it lives (0: there is none, all is served), and a look for
    flags, after which the script is asked again.
    """

    token: str
    serve_ms: int
    is_free: Callable[[], bool]


class Passing:
    """Of one Redis, or of one partition of a cluster. Thread-safe.

    Args:
        scope: what a flag of this client closes.
        end_era: makes what the cache holds worthless.
    """

    def __init__(
        self,
        flags: Flags,
        scope: Callable[[], str],
        serve_ms: int,
        end_era: Callable[[str], None],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flags, self._scope, self._end_era = flags, scope, end_era
        self._owner = secrets.token_hex(8)
        self._monotonic_s = monotonic_s
        self._own_door, self._process = Door(serve_ms / 1000), os.getpid()
        self._watch = Watch()
        self._lock, self._look_lock = locks.Lock(), locks.Lock()
        self._began_s = self._beat_s = float("-inf")
        self._held_scope = ""
        self._is_flagged = False
        self.counts = CacheCounts(monotonic_s)
        self._pause_s = serve_ms / 4000
        self.serve_ms = serve_ms

    def _door(self) -> Door:
        """A forked child has a flag and a door of its own: its parent's goes when the parent has delivered."""
        if self._process != os.getpid():
            self._own_door, self._process = Door(self.serve_ms / 1000), os.getpid()
            self._owner = secrets.token_hex(8)
        return self._own_door

    @property
    def is_held(self) -> bool:
        return self._door().is_held

    # -- readers

    def is_free(self) -> bool:
        """Look for flags, for somebody who has just learned Redis' time. One look serves all who asked before it."""
        wanted_s = self._monotonic_s()
        if self._is_flagged and wanted_s - self._began_s < self._pause_s:
            return False  # Not again at once: to serve nobody is safe.
        with self._look_lock.quietly():
            if self._began_s <= wanted_s:
                began_s = self._monotonic_s()
                try:
                    flags = self._flags.look(max(LOOK_S, self.serve_ms / 1000))
                except PyMongoError as cause:
                    logger.debug("flags cannot be looked for, nothing is served from the cache: %s", cause)
                    self._saw(began_s, is_flagged=True)
                    return False
                mine = self._scope()
                self._bury(self._watch.dead(flags, began_s))
                self._saw(began_s, is_flagged=any(concerns(flag, mine) for flag in flags))
            return not self._is_flagged

    def _saw(self, began_s: float, *, is_flagged: bool) -> None:
        if is_flagged and self._is_flagged:
            self.counts.closed_s += min(began_s - self._began_s, CLOSED_MAX_S)
        self._began_s, self._is_flagged = began_s, is_flagged

    def _bury(self, dead: Iterable[Flag]) -> None:
        self._door()
        for flag in dead:
            if flag.owner == self._owner:
                continue
            logger.error(
                "a client (%s) has written past Redis and was not heard of since: what the cache holds is given up",
                flag.owner,
            )
            with suppress(PyMongoError, redis.RedisError, OSError, ServerUnreachable):
                self._end_era(BURIED)
                self._flags.lower(flag)

    # -- writers

    def enter(self, keys: Iterable[Key], lease_s: float, is_back: Callable[[], bool]) -> float | None:
        """Return when a write of these keys may go past Redis: the moment by which it counts as begun.

        None: Redis is back meanwhile, so it need not.

        Args:
            lease_s: how long after that it may still be stored.

        Raises:
            ServerUnreachable: MongoDB cannot be told; nothing was written.
        """
        with self._lock.quietly():
            began_s, waited = self._open(lease_s)
            if waited and is_back():
                return None
            self._door().passes(keys, began_s, lease_s)
            return began_s

    def _open(self, lease_s: float) -> tuple[float, bool]:
        """The moment at which the door is open, and whether somebody waited for it."""
        waited = False
        self._door().needs(lease_s)
        while True:
            now_s = self._monotonic_s()
            if not self._door().is_valid(now_s, lease_s) or self._held_scope != self._scope():
                self._hold()
            elif (wait_s := self._door().wait_s(now_s)) > 0:
                time.sleep(wait_s)
                waited = True
            else:
                return now_s, waited

    def _hold(self) -> None:
        asked_s, scope = self._monotonic_s(), self._scope()
        try:
            was_there = self._flags.hold(self._owner, scope, round(self._door().rest_s * 1000))
        except PyMongoError as cause:
            raise ServerUnreachable(
                f"Redis cannot be reached, and MongoDB cannot be told so that other hosts stop using it; nothing was "
                f"written: {cause}"
            ) from cause
        self._door().raised(asked_s, self._monotonic_s(), was_there=was_there and scope == self._held_scope)
        self._beat_s, self._held_scope = asked_s, scope

    def acknowledged(self, keys: Iterable[Key], is_owed: Callable[[], bool]) -> None:
        """A write of these keys was, and what it makes old is kept to be delivered. Until that was done, nobody is
        served it: one that did not pass, because its lease ended too early, opens the door afterwards.

        Raises:
            WriteOutcomeUnknown: MongoDB cannot be told.
        """
        with self._lock.quietly():
            if self._door().settled(keys) or not is_owed():
                return
            try:
                self._open(0)
            except ServerUnreachable as cause:
                raise WriteOutcomeUnknown(
                    "MongoDB has acknowledged the write after its time, and neither Redis nor MongoDB can be told: "
                    f"other hosts may read the value of before for a while. Read it, and write it again. {cause}"
                ) from cause

    def overdue(self) -> tuple[Key, ...]:
        """What must be delivered although nobody said what became of it."""
        with self._lock.quietly():
            return self._door().overdue(self._monotonic_s())

    def tend(self, is_delivered: Callable[[], bool]) -> None:
        """Raise the beat, or take the flag away when all is delivered. Errors are left to the next time."""
        if not self._door().is_held:
            return
        with self._lock.quietly(), suppress(PyMongoError, ServerUnreachable):
            # Under the lock, and in this order: what is settled was kept before, and so is delivered or missed.
            if not self._door().is_passing and is_delivered():
                self._flags.lower(Flag(self._owner, self._held_scope, 0), any_beat=True)
                self._door().lowered()
            elif self._monotonic_s() - self._beat_s >= BEAT_S:
                self._hold()
