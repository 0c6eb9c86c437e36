"""The faults, drawn from a table by a seed. Each begins at its time, and what it has to undo happens later."""

import heapq
import itertools
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backtest_kit_mongo.coherence.keys import names
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_verify.chaos.audit_checks import Traces
from backtest_kit_verify.chaos.epochs import UNAWARE_NS
from backtest_kit_verify.chaos.evidence import told
from backtest_kit_verify.chaos.faulty_servers import LEASE_MS, REDIS_ERRORS, Servers
from backtest_kit_verify.chaos.feed_evidence import Feed
from backtest_kit_verify.chaos.fleet import Fleet, Member
from backtest_kit_verify.chaos.history import Flush, Operation, RedisKill, Restore
from backtest_kit_verify.chaos.strangers import Strangers
from backtest_kit_verify.chaos.wire import Wire
from backtest_kit_verify.chaos.workers import Workers

__all__ = ["OF_WORKERS", "RESTORE", "SNAPSHOT", "TABLE", "UNNOTICEABLE", "Fault", "Injector"]

RETRY_S = 0.3
"""A fault that cannot happen now (its server is down, nobody is left to hurt) is tried again after so long."""
FIRST_BY = 0.7
"""By this share of the run, or of its own period if that is shorter, each fault has happened once."""
FASTEST, SLOWEST = 0.5, 1.5
"""Pauses between two occurrences, as shares of a fault's period."""
SAMPLE_S = 0.05
SQUEEZE_S = 0.1
NOTICED_NS = 30_000_000_000
"""A restore is noticed within seconds, unless MongoDB is killed once more."""
OLD_S = 10.0
"""What a snapshot is restored after at the earliest."""
LEASE_S = LEASE_MS / 1000


class Injector:
    """Makes faults happen.

    Attributes:
        counts: by name, those that happened.
        evicted_count: keys that Redis evicted.
        restores: of MongoDB, in the order of time.

    Args:
        look: what MongoDB has of the clients' documents now.
        counted: how far it has counted in each era in force.
    """

    def __init__(
        self,
        servers: Servers,
        fleet: Fleet,
        feed: Feed,
        keys: Sequence[Key],
        seed: str,
        wires: Mapping[str, Wire],
        workers: Workers | None = None,
        strangers: Strangers | None = None,
        look: Callable[[], Sequence[Operation]] = tuple,
        counted: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._wires = wires
        self._strangers, self._look, self._counted = strangers, look, counted
        self.counts: Counter[str] = Counter()
        self.redis_kills: list[RedisKill] = []
        self.flushes: list[Flush] = []
        self.restores: list[Restore] = []
        self._snapshot: tuple[float, Path] | None = None
        self.evicted_count = 0
        self._servers, self._fleet, self._feed, self._workers = servers, fleet, feed, workers
        settings = servers.settings
        found = [names(settings.database, settings.partitions, key.domain.name, key.parts) for key in keys]
        self._evictable = [name for each in found for name in (each.entry, each.right)]
        self._seed = seed
        self._now_s = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._sampled_s = 0.0

    # -- time

    def begin(self, faults: "Sequence[Fault]", now_s: float, duration_s: float) -> None:
        """Draw the first occurrence of each fault."""
        for fault in faults:
            rng = random.Random(f"{self._seed}/{fault.name}")
            first_s = rng.uniform(0.1, 1.0) * FIRST_BY * min(fault.every_s, duration_s)
            self._at(now_s + first_s, lambda fault=fault, rng=rng: self._attempt(fault, rng))  # type: ignore[misc]

    def tick(self, now_s: float) -> None:
        """Do what is due."""
        self._now_s = now_s
        if self._servers.is_redis_up and now_s >= self._sampled_s + SAMPLE_S:
            self._servers.sample()
            self._sampled_s = now_s
        while self._agenda and self._agenda[0][0] <= now_s:
            heapq.heappop(self._agenda)[2]()

    def heal(self) -> None:
        """Undo everything; nothing more happens."""
        self._agenda.clear()
        for wire in self._wires.values():
            wire.heal()
        self._servers.heal()
        self._fleet.heal()

    def _at(self, at_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (at_s, next(self._order), act))

    def _after(self, pause_s: float, act: Callable[[], None]) -> None:
        self._at(self._now_s + pause_s, act)

    def _attempt(self, fault: "Fault", rng: random.Random) -> None:
        has_happened = fault.act(self, rng)
        self.counts[fault.name] += has_happened
        pause_s = fault.every_s * rng.uniform(FASTEST, SLOWEST) if has_happened else RETRY_S
        self._after(pause_s, lambda: self._attempt(fault, rng))

    # -- clients

    def kill_client(self, rng: random.Random) -> bool:
        victims = self._fleet.candidates(unhurt=False)
        if victims:
            self._fleet.kill(rng.choice(victims))
        return bool(victims)

    def kill_worker(self, rng: random.Random) -> bool:
        return self._workers is not None and self._workers.kill(rng)

    def stop_briefly(self, rng: random.Random) -> bool:
        return self._stop(rng, rng.uniform(0.02, 0.5))

    def stop_beyond_the_lease(self, rng: random.Random) -> bool:
        return self._stop(rng, LEASE_S * rng.uniform(1.05, 2.5))

    def _stop(self, rng: random.Random, duration_s: float) -> bool:
        return self._hurt(rng, duration_s, self._fleet.stop)

    def cut_off(self, rng: random.Random) -> bool:
        """Mostly for less than a lease, so that other clients' entries are there to be wrong."""
        return self._hurt(rng, rng.choice((0.05, 0.3, 1.0, 2.0 * LEASE_S)) * rng.uniform(0.5, 1.5), self._fleet.cut)

    def cut_off_and_kill(self, rng: random.Random) -> bool:
        """It dies before it reaches Redis again."""

        def cut(member: Member, is_cut: bool) -> None:
            if is_cut:
                self._fleet.cut(member, True)
            else:
                self.counts[KILL] += 1
                self._fleet.kill(member)

        return self._hurt(rng, rng.uniform(0.1, 0.6), cut)

    def cut_off_from_mongo(self, rng: random.Random) -> bool:
        """What it sent meanwhile arrives when the cut heals, also if it was killed."""
        victims = self._fleet.candidates(unhurt=True)
        if not victims:
            return False
        wire = self._wires[rng.choice(victims).task.slot]
        wire.cut()
        self._after(LEASE_S * rng.uniform(0.3, 2.5), wire.heal)
        return True

    def _hurt(self, rng: random.Random, duration_s: float, harm: Callable[[Member, bool], None]) -> bool:
        victims = self._fleet.candidates(unhurt=True)
        if not victims:
            return False
        victim = rng.choice(victims)
        turn = victim.task.turn

        def undo() -> None:
            if victim.task.turn == turn and not victim.is_doomed:
                harm(victim, False)

        harm(victim, True)
        self._after(duration_s, undo)
        return True

    # -- servers

    def kill_redis(self, rng: random.Random) -> bool:
        if not self._servers.is_redis_up or self._servers.is_starting:
            return False
        self.redis_kills.append(self._servers.kill_redis(rng))
        self._after(rng.choice((0.0, 1.5)) * rng.random(), self._servers.start_redis)
        return True

    def kill_mongo(self, rng: random.Random) -> bool:
        if not self._servers.is_mongo_up or self._servers.is_starting:
            return False
        self._servers.kill_mongo()
        self._after(rng.uniform(0, 2.0), self._servers.start_mongo)
        return True

    def flush(self, rng: random.Random) -> bool:
        return self._on_redis(lambda: self.flushes.append(self._feed.flush()))

    def press(self, rng: random.Random) -> bool:
        """Memory pressure for a while: Redis evicts what it used least."""
        if not self._servers.is_redis_up:
            return False
        end_s = self._now_s + rng.uniform(0.5, 2.0)

        def squeeze() -> None:
            self._on_redis(lambda: self._squeeze(rng.randrange(512, 6_000)))
            if self._now_s < end_s:
                self._after(SQUEEZE_S, squeeze)

        squeeze()
        return True

    def _squeeze(self, spare_bytes: int) -> None:
        before = self._servers.evicted_count()
        self._servers.squeeze(spare_bytes)
        self.evicted_count += self._servers.evicted_count() - before

    def narrow(self, rng: random.Random) -> bool:
        """A limit for some seconds that Redis has passed already, or will soon: it evicts, and refuses what needs
        memory.
        """
        share = rng.uniform(0.6, 1.2)
        if not self._on_redis(lambda: self._servers.limit(int(share * self._servers.used_memory()))):
            return False
        # One that is killed meanwhile starts with its own limit.
        self._after(rng.uniform(1.0, 5.0), self._lift)
        return True

    def _lift(self) -> None:
        self._on_redis(self._servers.limit)

    def snapshot(self, rng: random.Random) -> bool:
        if not self._servers.is_mongo_up or self._servers.is_starting:
            return False
        before, self._snapshot = self._snapshot, (self._now_s, self._servers.snapshot())
        if before is not None:
            shutil.rmtree(before[1])
        return True

    def restore(self, rng: random.Random) -> bool:
        """Back to the last snapshot, with Redis as it is."""
        servers = self._servers
        is_old = self._snapshot is not None and self._now_s - self._snapshot[0] > OLD_S
        if (
            self._snapshot is None
            or not is_old
            or not (servers.is_mongo_up and servers.is_redis_up)
            or servers.is_starting
        ):
            return False
        try:
            before = told(servers)
        except REDIS_ERRORS:
            return False
        stopped_ns = time.monotonic_ns()
        with self._fleet.held():
            servers.restore(self._snapshot[1])
            base, now = self._look(), self._counted()
            is_behind = any(now.get(era, 0) < count for era, count in before.items())
            self.counts[UNNOTICEABLE] += not is_behind
            self.restores.append(Restore(stopped_ns, time.monotonic_ns(), base, is_behind))
        return True

    def traces(self) -> Traces:
        """What the verdict has to know."""
        if self._strangers is None:
            return Traces()
        # What came after everything that takes entries away must be there.
        losses = [*(kill.gone_ns for kill in self.redis_kills), *(flush.ended_ns for flush in self.flushes)]
        last_ns = max((*losses, *(restore.resumed_ns + UNAWARE_NS for restore in self.restores)), default=0)
        entries = [number for number, at_ns in self._strangers.entries.items() if at_ns > last_ns]
        return Traces(frozenset(self._strangers.forged), entries, len(self.restores), self._restored_at())

    def _restored_at(self) -> datetime | None:
        """When MongoDB was set back for the last time; None if it was not, or if nobody can notice, or if Redis was
        emptied before everybody must have: then nobody knows what was before, and nothing of it is left.
        """
        if not self.restores or not self.restores[-1].is_behind:
            return None
        last = self.restores[-1]
        if any(last.stopped_ns < flush.ended_ns < last.resumed_ns + NOTICED_NS for flush in self.flushes):
            return None
        return datetime.now(UTC) - timedelta(microseconds=(time.monotonic_ns() - last.stopped_ns) / 1000)

    # -- strangers

    def insert_odd(self, rng: random.Random) -> bool:
        return self._strangers is not None and self._strangers.insert_odd(rng)

    def forge(self, rng: random.Random) -> bool:
        return self._strangers is not None and self._strangers.forge(rng)

    def append_odd(self, rng: random.Random) -> bool:
        return self._strangers is not None and self._strangers.append_odd(rng)

    def append_ahead(self, rng: random.Random) -> bool:
        return self._strangers is not None and self._strangers.append_ahead(rng)

    def delete(self, rng: random.Random) -> bool:
        """What an eviction can do at any moment, to any entry and any right."""
        return self._on_redis(
            lambda: self._servers.redis.delete(*rng.sample(self._evictable, min(3, len(self._evictable))))
        )

    def _on_redis(self, act: Callable[[], object]) -> bool:
        if not self._servers.is_redis_up:
            return False
        try:
            act()
        except REDIS_ERRORS:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the table: how often it happens, and what does. False: it could not happen now."""

    name: str
    every_s: float
    act: Callable[[Injector, random.Random], bool]


KILL = "SIGKILL of a client"
KILL_WORKER = "SIGKILL of a worker"
FLUSHALL = "FLUSHALL"
DELETION = "an entry or a right deleted"
TABLE = (
    Fault(KILL, 3.5, Injector.kill_client),
    Fault("SIGSTOP of a client, briefly", 4.0, Injector.stop_briefly),
    Fault("SIGSTOP of a client, beyond its lease", 12.0, Injector.stop_beyond_the_lease),
    Fault("a client cut off from Redis", 6.0, Injector.cut_off),
    Fault("a client cut off from Redis, then SIGKILL", 15.0, Injector.cut_off_and_kill),
    Fault("a client cut off from MongoDB, what it sent arrives later", 8.0, Injector.cut_off_from_mongo),
    Fault("kill -9 of redis-server, a suffix lost", 30.0, Injector.kill_redis),
    Fault("kill -9 of mongod", 90.0, Injector.kill_mongo),
    Fault(FLUSHALL, 45.0, Injector.flush),
    Fault("memory pressure on Redis", 10.0, Injector.press),
    Fault("a small maxmemory for a while", 20.0, Injector.narrow),
    Fault(DELETION, 0.5, Injector.delete),
)
"""In half an hour: about 600 SIGKILLs (300 at the very least), 60 restarts of redis-server and 20 of mongod."""
SNAPSHOT = "a snapshot of MongoDB, by SIGKILL"
RESTORE = "MongoDB set back to a snapshot, Redis kept"
UNNOTICEABLE = "  of these, Redis knew of nothing later than the snapshot"
OF_WORKERS = (
    Fault(KILL_WORKER, 6.0, Injector.kill_worker),
    Fault("an odd document of a stranger", 0.7, Injector.insert_odd),
    Fault("a forged event", 0.7, Injector.forge),
    Fault("an odd entry in the feed", 1.0, Injector.append_odd),
    Fault("an entry of the feed from the future", 60.0, Injector.append_ahead),
    Fault(SNAPSHOT, 50.0, Injector.snapshot),
    Fault(RESTORE, 100.0, Injector.restore),
)
"""Added to a run with workers: what only they can put right."""
