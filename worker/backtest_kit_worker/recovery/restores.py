"""A database that went back: noticed, reported in the audit log, and the feed freed of what it no longer holds.

Whoever notices first, a strategy or this worker, puts it into the database's own identity (`cache-identity`), with the
last entries of the feed's streams of that moment. What lies up to there reports revisions that are gone, and that will
be given out again: as records they would stand in the way of the real ones. So it is dropped from the feed, counted in
the record, and all documents are compared with the audit log anew.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import redis

from backtest_kit_mongo.backends.mongo.identity import IdentityDocument
from backtest_kit_mongo.backends.redis.cluster import link_over
from backtest_kit_mongo.backends.redis.identity import HEARTBEAT_S, SharedIdentity
from backtest_kit_mongo.caches import identity_document, identity_of
from backtest_kit_mongo.errors import ServerUnreachable
from backtest_kit_mongo.feed.positions import EntryId
from backtest_kit_mongo.feed.trimming import cut
from backtest_kit_worker.deployment import Deployment

logger = logging.getLogger(__name__)

REASONS: Final = {
    "behind": "the database was set back: MongoDB had not counted as far as its Redis remembered",
    "collections": "collections were dropped or replaced",
    "restored": "`bkm restore` put a backup in the place of what was there",
}


class Restores:
    """Looked for once a heartbeat.

    Args:
        monotonic_s: clock of the heartbeats.
    """

    def __init__(self, deployment: Deployment, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._redis: Any = deployment.redis
        self._document: IdentityDocument = identity_document(deployment.settings, lambda: deployment.mongo)
        self._identity: SharedIdentity = identity_of(
            deployment.settings, lambda: deployment.mongo, link_over(deployment.redis)
        )
        self._monotonic_s = monotonic_s
        self._next_s = monotonic_s()

    def look(self) -> list[Mapping[str, Any]]:
        """Those that nobody has recorded; sends heartbeats on the way, so that one is noticed while no strategy runs.

        Raises:
            PyMongoError: MongoDB failed.
        """
        if self._monotonic_s() < self._next_s:
            return []
        self._next_s = self._monotonic_s() + HEARTBEAT_S
        try:
            self._identity.heartbeat()
        except (redis.RedisError, OSError, ServerUnreachable) as cause:
            logger.debug("the era could not be confirmed; tried again: %s", cause)
        return list(self._document.unrecorded())

    def clear_feed(self, found: Mapping[str, Any]) -> Mapping[str, int]:
        """Drop what the feed reports before; returns how many entries of each stream that were.

        Raises:
            RedisError, OSError: call again.
        """
        dropped: Counter[str] = Counter()
        for place in found.get("streams", ()):
            name = str(place["name"])
            dropped[name] += cut(self._redis, name, EntryId.parse(str(place["last"])).next)
        return dropped

    def reported(self, found: Mapping[str, Any], dropped: Mapping[str, int]) -> str:
        """What the audit log says of it."""
        where = ", ".join(f"{count} of {stream}" for stream, count in dropped.items() if count)
        feed = f"; entries of the feed that informed of before were dropped: {where}" if where else ""
        taken = f"; backup {found['backup']} of {found['takenAt']:%Y-%m-%d %H:%M:%S} UTC" if "backup" in found else ""
        by = f"{'done' if taken else 'noticed'} by {found.get('by', 'an operator')}"
        return f"{REASONS.get(found['why'], found['why'])}{taken}; {by}{feed}"

    def done(self, found: Mapping[str, Any]) -> None:
        """It is recorded."""
        self._document.record(found["over"])
