"""Who works on the feed: consumers of its groups, and which worker leads which service."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import redis
from pymongo.database import Database

from backtest_kit_mongo.feed.positions import GroupPosition, text
from backtest_kit_mongo.stored import WORKER_LEASES as LEASES


@dataclass(frozen=True, slots=True)
class Consumer:
    """One consumer, over all groups and streams. A worker has one name in all of them.

    Attributes:
        groups: those that know it.
        pending_count: entries that it took and has not acknowledged.
        idle_ms: since it last asked for entries. On a quiet stream a living consumer looks idle too.
    """

    name: str
    groups: tuple[str, ...]
    pending_count: int
    idle_ms: int


@dataclass(frozen=True, slots=True)
class ServiceLease:
    """Who leads a service.

    Attributes:
        left_ms: by MongoDB's clock, until the lease ends; negative if it has ended.
        renewed_ms_ago: since its holder last took or renewed it.
        trouble: the error of the holder's last attempt, empty if it succeeded.
        failing_ms: for how long all its attempts have failed.
    """

    service: str
    holder: str
    left_ms: int
    renewed_ms_ago: int = 0
    trouble: str = ""
    failing_ms: int = 0

    @property
    def is_held(self) -> bool:
        return self.left_ms > 0


def consumers(client: redis.Redis, groups: Iterable[GroupPosition]) -> list[Consumer]:
    """The consumers of groups, the most recent first.

    Raises:
        RedisError: Redis cannot be asked.
    """
    asked: Any = client
    found: dict[str, list[tuple[str, int, int]]] = {}
    for group in groups:
        for one in asked.xinfo_consumers(group.stream, group.name):
            found.setdefault(text(one["name"]), []).append((group.name, one["pending"], one["idle"]))
    merged = [
        Consumer(
            name=name,
            groups=tuple(sorted({group for group, _, _ in rows})),
            pending_count=sum(pending for _, pending, _ in rows),
            idle_ms=min(idle for _, _, idle in rows),
        )
        for name, rows in found.items()
    ]
    return sorted(merged, key=lambda one: (one.idle_ms, one.name))


def service_leases(database: Database[dict[str, Any]]) -> list[ServiceLease]:
    """The leases of all services that a worker ever led, by name.

    Raises:
        PyMongoError: MongoDB cannot be asked.
    """
    # Subtracted by MongoDB, whose clock the leases' times are of.
    reported: dict[str, Any] = {
        "left": {"$subtract": ["$expiresAt", "$$NOW"]},
        "renewed": {"$subtract": ["$$NOW", {"$ifNull": ["$renewedAt", "$$NOW"]}]},
        "failing": {"$subtract": ["$$NOW", {"$ifNull": ["$failingSince", "$$NOW"]}]},
    }
    stages: list[dict[str, Any]] = [{"$project": {"holder": 1, "trouble": 1, **reported}}, {"$sort": {"_id": 1}}]
    return [
        ServiceLease(
            str(row["_id"]), str(row["holder"]), int(row["left"]), int(row["renewed"]), str(row.get("trouble") or ""),
            int(row["failing"]),
        )
        for row in database[LEASES].aggregate(stages)
    ]  # fmt: skip
