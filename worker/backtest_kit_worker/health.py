"""Health: judged by how far behind the roles are and whether anything hangs; that the process lives says nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pymongo
import redis
from pymongo.errors import PyMongoError

from backtest_kit_mongo.feed.dead_letters import count_open
from backtest_kit_mongo.feed.positions import GroupPosition, look
from backtest_kit_mongo.feed.settings import load_feed_settings
from backtest_kit_mongo.feed.size import bytes_max, stream_bytes
from backtest_kit_mongo.feed.troubles import Trouble, troubles
from backtest_kit_worker.deployment import Deployment
from backtest_kit_worker.loop import Loop
from backtest_kit_worker.runner import ServiceRunner

ASK_S = 2.0
"""Bound on a question to MongoDB; those to Redis are bounded by its client."""
SLOW_S = 30.0
"""What changes slowly and costs a server milliseconds is asked this often: memory of the streams, troubles (which are
none before a minute has passed)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Times are milliseconds.

    Attributes:
        lag_ms: a role whose oldest entry that is not acknowledged is older is unhealthy.
        stuck_ms: a thread without a sign of life for so long is unhealthy.
        fresh_ms: servers are asked at most this often, however many ask for health or metrics.
    """

    lag_ms: int = 60_000
    stuck_ms: int = 120_000
    fresh_ms: int = 1_000


@dataclass(frozen=True, slots=True)
class GroupHealth:
    """A consumer group over all streams: sums of counts, maxima of ages."""

    owed_count: int
    pending_count: int
    lag_ms: int
    pending_age_ms: int
    is_abandoned: bool

    @classmethod
    def over(cls, positions: Sequence[GroupPosition]) -> GroupHealth:
        return cls(
            owed_count=sum(each.owed_count for each in positions),
            pending_count=sum(each.pending_count for each in positions),
            lag_ms=max(each.lag_ms for each in positions),
            pending_age_ms=max(each.pending_age_ms for each in positions),
            is_abandoned=any(each.is_abandoned for each in positions),
        )


@dataclass(frozen=True, slots=True)
class FeedStatus:
    """What the servers say.

    Attributes:
        unreachable: servers that did not answer, and why.
        groups: by name.
        entry_count: entries in all streams.
        stream_bytes, stream_bytes_max: their memory in Redis, and what it may be; 0 where that is not known.
        parked: rows that wait for an operator, by role.
        troubles: work that stands still or went wrong.
        replica_lag_s: by replica, for how long it may have missed changes: the age of the oldest change that the role
            has not acknowledged, or that of the copy of what was there before while it is not complete.
    """

    unreachable: tuple[str, ...] = ()
    groups: dict[str, GroupHealth] = field(default_factory=dict)
    entry_count: int = 0
    stream_bytes: int = 0
    stream_bytes_max: int = 0
    parked: dict[str, int] = field(default_factory=dict)
    troubles: tuple[Trouble, ...] = ()
    replica_lag_s: dict[str, float] = field(default_factory=dict)


class Monitor:
    """Looks at one worker process and at the feed it works on. Thread-safe."""

    def __init__(
        self,
        deployment: Deployment,
        loops: Sequence[Loop] = (),
        services: Sequence[ServiceRunner] = (),
        limits: Limits = Limits(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deployment = deployment
        self.loops = tuple(loops)
        self.services = tuple(services)
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._last = FeedStatus()
        self._asked_s = self._sizes_due_s = self._troubles_due_s = float("-inf")
        self._last_sizes = (0, 0)
        self._last_troubles: tuple[Trouble, ...] = ()

    def snapshot(self) -> FeedStatus:
        """What the servers say, not older than `fresh_ms`."""
        with self._lock:
            if self._clock() - self._asked_s > self._limits.fresh_ms / 1000:
                self._last = self._ask()
                self._asked_s = self._clock()
            return self._last

    def _ask(self) -> FeedStatus:
        unreachable = []
        positions, parked, unfilled_s = [], {}, {}
        found_troubles: tuple[Trouble, ...] = ()
        sizes = (0, 0)
        try:
            found = (look(self._deployment.redis, stream) for stream in self._deployment.streams)
            positions = [position for position in found if position is not None]
            sizes = self._sizes()
        except (redis.RedisError, OSError) as cause:
            unreachable.append(f"Redis at {self._deployment.settings.redis_address}: {cause}")
        try:
            with pymongo.timeout(ASK_S):
                parked = count_open(self._deployment.database)
                unfilled_s = self._unfilled_s()
                found_troubles = self._troubles()
        except PyMongoError as cause:
            kind = type(cause).__name__  # Its text is a page long.
            unreachable.append(f"MongoDB at {self._deployment.settings.mongo_address}: {kind}")
        groups: dict[str, list[GroupPosition]] = {}
        for position in positions:
            for group in position.groups:
                groups.setdefault(group.name, []).append(group)
        health = {name: GroupHealth.over(each) for name, each in sorted(groups.items())}
        # The role acknowledges what all replicas have, so none is further ahead than its group.
        applied_s = health["replica"].lag_ms / 1000 if "replica" in health else 0.0
        return FeedStatus(
            tuple(unreachable),
            health,
            sum(position.length for position in positions),
            *sizes,
            parked,
            found_troubles,
            {name: max(applied_s, since_s) for name, since_s in unfilled_s.items()},
        )

    def _sizes(self) -> tuple[int, int]:
        """Memory of all streams, and what it may be."""
        if self._clock() >= self._sizes_due_s:
            client, streams = self._deployment.redis, self._deployment.streams
            most = bytes_max(client, len(streams), load_feed_settings().max_bytes) * len(streams)
            self._last_sizes = sum(stream_bytes(client, stream) for stream in streams), most
            self._sizes_due_s = self._clock() + SLOW_S
        return self._last_sizes

    def _troubles(self) -> tuple[Trouble, ...]:
        if self._clock() >= self._troubles_due_s:
            self._last_troubles = tuple(troubles(self._deployment.database))
            self._troubles_due_s = self._clock() + SLOW_S
        return self._last_troubles

    def _unfilled_s(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for loop in self.loops:
            found.update(loop.role.unfilled_s())
        return found

    def why_unhealthy(self) -> list[str]:
        """What is wrong with this process; empty if it is healthy."""
        snapshot = self.snapshot()
        reasons = list(snapshot.unreachable)
        for name in sorted({loop.name for loop in self.loops} & set(snapshot.groups)):
            lag_ms = snapshot.groups[name].lag_ms
            if lag_ms > self._limits.lag_ms:
                reasons.append(f"{name} is {lag_ms / 1000:.0f} s behind, more than {self._limits.lag_ms / 1000:g} s")
        for each in self.services:
            behind_s = each.service.oldest_s
            if behind_s > self._limits.lag_ms / 1000:
                reasons.append(f"{each.name} is {behind_s:.0f} s behind, more than {self._limits.lag_ms / 1000:g} s")
        now_s = time.monotonic()
        failing = [(each, now_s - each.failing_s) for each in self.services if each.failing_s is not None]
        limit_s = self._limits.lag_ms / 1000
        reasons += [
            f"{each.name} has failed for {for_s:.0f} s: {each.trouble}" for each, for_s in failing if for_s > limit_s
        ]
        heartbeats = [(loop.name, loop.heartbeat) for loop in self.loops] + [
            (each.name, each.heartbeat) for each in self.services
        ]
        for name, heartbeat_s in heartbeats:
            if now_s - heartbeat_s > self._limits.stuck_ms / 1000:
                reasons.append(f"{name} gave no sign of life for {now_s - heartbeat_s:.0f} s: it hangs")
        return reasons

    def report(self) -> dict[str, Any]:
        """Health as JSON, for `/healthz`."""
        reasons = self.why_unhealthy()
        snapshot = self.snapshot()
        return {
            "healthy": not reasons,
            "why": reasons,
            "roles": {
                loop.name: {**_shown(snapshot.groups.get(loop.name)), **dict(loop.counts), "trouble": loop.trouble}
                for loop in self.loops
            },
            "services": {
                each.name: {"leading": each.leads(), "done": each.done_count, "trouble": each.trouble}
                for each in self.services
            },
            "parked": snapshot.parked,
            "troubles": {trouble.name: trouble.seen for trouble in snapshot.troubles},
            "abandonedGroups": [name for name, group in snapshot.groups.items() if group.is_abandoned],
        }


def _shown(group: GroupHealth | None) -> dict[str, Any]:
    if group is None:
        return {}
    return {"lagSeconds": group.lag_ms / 1000, "lagEntries": group.owed_count, "pending": group.pending_count}
