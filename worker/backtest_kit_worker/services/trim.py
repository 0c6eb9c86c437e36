"""The trim service: removes from the feed what nobody needs any more. What that is: `backtest_kit_mongo.feed.trimming`.

Two at once do no harm: limits only move forward, and an entry can be removed once.
"""

from __future__ import annotations

import logging
from typing import Any

import redis
from pymongo.database import Database

from backtest_kit_mongo.feed.dead_letters import DeadLetters
from backtest_kit_mongo.feed.settings import load_feed_settings
from backtest_kit_mongo.feed.size import bytes_max, measure
from backtest_kit_mongo.feed.trimming import TrimPlan, plan_trim, trim
from backtest_kit_mongo.feed.troubles import ODD_IDS, Notes
from backtest_kit_worker.deployment import Deployment
from backtest_kit_worker.services import Service

logger = logging.getLogger(__name__)


class TrimService(Service):
    """Trims each stream, and closes dead letters whose replay was handled.

    Args:
        retention_ms: entries younger than this stay.
        max_bytes: unless the streams together have more than this in memory; 0: half of maxmemory.
    """

    name = "trim"
    interval_ms = 5_000

    def __init__(
        self,
        database: Database[dict[str, Any]],
        client: redis.Redis,
        streams: tuple[str, ...],
        retention_ms: int,
        max_bytes: int = 0,
    ) -> None:
        self._database = database
        self._redis = client
        self._streams = streams
        self._retention_ms = retention_ms
        self._max_bytes = max_bytes
        self._notes = Notes(database)
        self._parked = DeadLetters(database, client, streams)
        self._reported: dict[str, str] = {}

    @classmethod
    def build(cls, deployment: Deployment) -> TrimService:
        settings = load_feed_settings()
        return cls(deployment.database, deployment.redis, deployment.streams, settings.retention_ms, settings.max_bytes)

    def open(self) -> None:
        self._reported.clear()

    def run_once(self) -> int:
        """Trim a bounded part of each stream; returns how many entries went."""
        removed_count = 0
        most = bytes_max(self._redis, len(self._streams), self._max_bytes)
        for stream in self._streams:
            plan = plan_trim(self._redis, self._database, stream, self._retention_ms, most)
            if plan is not None:
                removed_count += trim(self._redis, self._database, plan)
                self._report(plan)
                measure(self._redis, stream, len(self._streams), self._max_bytes)
        self._parked.settle()
        return removed_count

    def _report(self, plan: TrimPlan) -> None:
        """Log, once for each, groups that nobody serves and entries that the audit lost: neither passes by itself."""
        if plan.position.is_ahead:
            self._notes.note(ODD_IDS, f"{plan.position.stream}: {plan.position.last} at {plan.position.now_ms}")
        troubles = {limit.name: limit.why for limit in plan.limits if limit.needs_operator}
        for name, why in troubles.items():
            if (key := f"{plan.position.stream}/{name}") not in self._reported:
                logger.warning("%s is not trimmed beyond what %s needs: %s", plan.position.stream, name, why)
                self._reported[key] = why
        for group in plan.position.groups:
            if group.name not in troubles:
                self._reported.pop(f"{plan.position.stream}/{group.name}", None)
