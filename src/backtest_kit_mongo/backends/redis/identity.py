"""To whom a client's Redis belongs: it keeps MongoDB's document and Redis' memory of it (O) in step.

`renew` is asked for where a store is opened and where a script said that this client believes in another era than its
Redis; `heartbeat` every second besides, so that a database that is set back under running processes is noticed. The
rules are in `coherence/eras.py`.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any, Final, Protocol

import redis
from pymongo.errors import PyMongoError

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.mongo.identity import IdentityDocument, Start
from backtest_kit_mongo.backends.redis.link import UNREACHABLE, Link, Script
from backtest_kit_mongo.coherence.eras import BEHIND, ERA_CHARS, Held, Noted, Verdict, judge, parse_held
from backtest_kit_mongo.coherence.keys import era_name, new_name, partition_names
from backtest_kit_mongo.errors import ServerUnreachable

logger = locks.logger(__name__)

HEARTBEAT_S: Final = 1.0
"""A process notices within two of these, and the time of the commands, that its database was set back."""
PEER_S: Final = 60.0
"""Each process says its settings this often, whoever else counts meanwhile."""
ROUNDS_MAX: Final = 20
NO_ERA: Final = "-" * ERA_CHARS
"""Of a client that knows no era: no Redis is in it."""


class Identity(Protocol):
    """What scripts are given, and how it is learned. Thread-safe."""

    era: str
    partitions: int
    mode: str
    open_ms: int
    """How long a new incarnation of the cache stays closed, and no lease lasts longer."""
    deployment: str
    """What names O; empty as long as it is not known."""

    def name(self, born: str) -> str:
        """O in the partition of a `born` key."""

    def start(self) -> None:
        """This process's settings are in force from now on."""

    def renew(self) -> None:
        """Learn the era.

        Raises:
            redis.RedisError, OSError: Redis cannot be asked.
            ServerUnreachable: MongoDB cannot be asked.
        """

    def heartbeat(self) -> None:
        """Learn whether the era goes on; errors as `renew`."""

    def stretch(self, open_ms: int) -> None:
        """See that every client of this database keeps a new incarnation closed so long; errors as `renew`."""


class FixedIdentity:
    """Of a cache that asks no MongoDB: the era is whatever it is given."""

    def __init__(self, partitions: int, open_ms: int, era: str = "e" * ERA_CHARS, deployment: str = "") -> None:
        self.era, self.partitions, self.mode = era, partitions, "document"
        self.deployment = deployment
        self.open_ms = open_ms

    def name(self, born: str) -> str:
        return era_name(born, self.deployment)

    def stretch(self, open_ms: int) -> None:
        self.open_ms = max(self.open_ms, open_ms)

    def start(self) -> None:
        return

    def renew(self) -> None:
        return

    def heartbeat(self) -> None:
        return


class SharedIdentity:
    """Of one database and one Redis.

    Args:
        settings: the partitions, the mode and the time of a lease that this process was given.
    """

    def __init__(
        self,
        document: IdentityDocument,
        link: Link,
        database: str,
        settings: Start,
        *,
        random_era: Callable[[], str] = lambda: secrets.token_hex(ERA_CHARS // 2),
    ) -> None:
        self._document = document
        self._link = link
        self._database = database
        self._settings = settings
        self._random_era = random_era
        self._claim = Script("claim")
        self._lock = locks.Lock()
        self.flags = document.flags
        self.deployment = ""
        self._widest = settings.partitions
        self._counts: Mapping[int, int] = {}
        self._said: set[str] = set()
        self._noted_s = 0.0
        self._left = ""
        """An era of another database than the one that is here now: a drop, or a restore after it, that is not reported
        yet.
        """
        self.era, self.partitions, self.mode = NO_ERA, settings.partitions, settings.mode
        self.open_ms = settings.lease_ms

    def name(self, born: str) -> str:
        return era_name(born, self.deployment)

    def _held(self) -> AbstractContextManager[None]:
        if self._lock.is_mine:
            raise ServerUnreachable(
                "the era of the cache is being learned by the thread that this interrupted: try again"
            )
        return self._lock.quietly()

    def start(self) -> None:
        with self._held():
            self._adopt(self._note(starting=True))

    def renew(self) -> None:
        with self._held():
            self._renew()

    def end(self, why: str) -> None:
        """End the era here and on every other Redis of this database: what they hold is worthless from now on."""
        with self._held():
            try:
                self._document.end_all(why)
            except PyMongoError as cause:
                raise ServerUnreachable(f"MongoDB could not be reached: {cause}") from cause
            self._renew()

    def stretch(self, open_ms: int) -> None:
        if open_ms <= self.open_ms:
            return
        with self._held():
            try:
                self._document.stretch(open_ms)
            except PyMongoError as cause:
                raise ServerUnreachable(f"MongoDB could not be reported that steps are used: {cause}") from cause
            self._renew()

    def heartbeat(self) -> None:
        with self._held():
            held = self._look()
            counts = {partition: found.noted_count for partition, found in held.items()}
            before, self._counts = self._counts, counts
            same = all(found.era == self.era for found in held.values())
            is_counted = same and before and any(count > before.get(p, count) for p, count in counts.items())
            if not is_counted or time.monotonic() - self._noted_s > PEER_S:
                self._renew()  # Nobody else has counted since the last time, or this process was silent for long.

    def _renew(self) -> None:
        if not self.deployment:
            self._adopt(self._note())
        for _ in range(ROUNDS_MAX):
            looked_at = self.deployment, self._widest
            held = self._look()
            reported = {
                era: max(one.noted_count for one in held.values() if one.era == era)
                for era in {one.era for one in held.values()}
            }
            noted = self._note({era: count for era, count in reported.items() if era})
            self._adopt(noted)
            if looked_at != (self.deployment, self._widest):
                # The database was dropped and made anew, or is used with more partitions: there is more to look at.
                continue
            verdict = judge(held, noted)
            era = verdict.era or self._begin(verdict, held)
            if self._claimed(held, era, noted.counts.get(era, 1), verdict):
                self.era = era
                if self._left:
                    self._report(held)
                return
        raise redis.ConnectionError("other clients begin one era after the other; is another MongoDB behind them?")

    def _note(self, reported: Mapping[str, int] | None = None, *, starting: bool = False) -> Noted:
        try:
            self._noted_s = time.monotonic()
            return self._document.note(self._settings, reported, starting=starting)
        except PyMongoError as cause:
            raise ServerUnreachable(f"MongoDB could not be asked whom its cache belongs to: {cause}") from cause

    def _adopt(self, noted: Noted) -> None:
        """What was started last is in force: a process that does otherwise would write where nobody looks."""
        for name, mine, theirs in (
            ("CC_PARTITIONS", self._settings.partitions, noted.partitions),
            ("CC_CACHE_MODE", self._settings.mode, noted.mode),
        ):
            reported = f"{name} {theirs}"
            if mine != theirs and reported not in self._said:
                logger.error(
                    "%s is %s here, and %s is what was started last on this database: that is in force. Give all "
                    "processes the same, and start this one again.", name, mine, theirs,
                )  # fmt: skip
                self._said.add(reported)
        if self.deployment not in ("", noted.deployment) and self.era != NO_ERA:
            self._left = self.era
        self.deployment, self._widest = noted.deployment, max(noted.widest, noted.partitions)
        self.partitions, self.mode = noted.partitions, noted.mode
        self.open_ms = max(self._settings.lease_ms, noted.open_ms)

    def _look(self) -> dict[int, Held]:
        """What the partitions remember that can be asked; of a cluster some may be away.

        Raises:
            redis.RedisError, OSError: none can be asked.
        """
        names = {p: self._names(p)[0] for p in range(self._widest)}
        try:
            answers = self._link.execute_many([["GET", name] for name in names.values()])
            return {p: parse_held(raw) for p, raw in zip(names, answers, strict=True)}
        except UNREACHABLE:
            if len(self._link.everywhere()) < 2:
                raise
        found = {}
        for p, name in names.items():
            with suppress(*UNREACHABLE):
                found[p] = parse_held(self._link.execute("GET", name))
        if not found:
            raise redis.ConnectionError("no node of the cluster answers")
        return found

    def _names(self, partition: int) -> tuple[str, str, str, str]:
        """What CLAIM takes."""
        born, stream = partition_names(self._database, partition)
        return self.name(born), stream, born, new_name(born)

    def _ends(self, eras: Mapping[int, str]) -> dict[str, str]:
        """The last entries of the streams, where the database was set back, by partition and the era that it is in.
        They become known together with the restore, since a worker may record it at once, and whoever found it out may
        die before the next era is claimed.
        """
        lasts: dict[str, str] = {}
        for p, era in eras.items():
            names = self._names(p)
            with suppress(*UNREACHABLE):
                done, last = self._link.run(self._claim, names, [era, "", 0])
                if done and last:
                    lasts[names[1]] = _text(last)
        return lasts

    def _report(self, held: Mapping[int, Held]) -> None:
        logger.error(
            "the database was dropped and made anew, or restored, under this process, which was in era %s. Nothing "
            "that was cached is served any more; a worker records it. If nobody did that, find out who did.",
            self._left,
        )  # fmt: skip
        with suppress(PyMongoError):  # Then the next one who asks reports it.
            self._document.report(self._left, self.era, _who(), self._ends(dict.fromkeys(held, self.era)))
            self._left = ""

    def _begin(self, verdict: Verdict, held: Mapping[int, Held]) -> str:
        era = self._random_era()
        ends = self._ends({p: found.era for p, found in held.items() if found.era in verdict.restored})
        try:
            self._document.begin(era, sorted(verdict.over), verdict.restored, _who(), ends)
        except PyMongoError as cause:
            raise ServerUnreachable(f"MongoDB could not be given another era of its cache: {cause}") from cause
        for over, found in verdict.restored.items():
            logger.error(
                "the database went back: %s (era %s, Redis was given %d). Nothing that was cached is served any more; "
                "a worker records it. If nobody restored a backup, find out who did.",
                ("it has not counted as far as its "
                    "Redis remembers") if found.why == BEHIND else "collections were dropped or replaced",
                over, found.noted_count,
            )  # fmt: skip
        return era

    def _claimed(self, held: Mapping[int, Held], era: str, count: int, verdict: Verdict) -> bool:
        """Tell all partitions; false if one has another era than was looked at."""
        lasts: dict[str, str] = {}
        for p, found in held.items():
            names = self._names(p)
            try:
                done, last = self._link.run(self._claim, names, [found.era, era, count])
            except UNREACHABLE:
                if len(held) == 1:
                    raise
                continue  # The node of this partition: whoever reaches it again renews.
            if not done:
                return False
            if found.era in verdict.restored and last:
                lasts[names[1]] = _text(last)
        if lasts:
            with suppress(PyMongoError):  # Then what was appended since `_ends` is compared with MongoDB, as all else.
                self._document.place(sorted(verdict.restored), lasts)
        return True


def _who() -> str:
    return f"{socket.gethostname()}/{os.getpid()}"


def _text(raw: Any) -> str:
    return raw.decode() if isinstance(raw, bytes) else str(raw)
