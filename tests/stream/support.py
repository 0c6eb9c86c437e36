"""What the tests of the consumer's side share: a writer, an auditor, and feeds that stop when there is nothing left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from backtest_kit_mongo.adapters.instances import StateInstance
from backtest_kit_mongo.coherence.events import decode
from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.feed.consume import ChangeEvent, ChangeFeed, consume
from backtest_kit_mongo.settings import Settings
from backtest_kit_worker.roles.audit import AuditRole


@dataclass
class Desk:
    """A database with a writer, an auditor and consumers."""

    settings: Settings
    store: Store
    mongo: Any
    redis: Any
    feeds: list[ChangeFeed] = field(default_factory=list)
    _role: AuditRole | None = None

    @property
    def streams(self) -> tuple[str, ...]:
        return streams(self.settings.database, self.settings.partitions)

    @property
    def stream(self) -> str:
        return self.streams[0]

    def clear(self) -> None:
        """Forget everything, in both servers."""
        for name in self.mongo.list_collection_names(filter={"name": {"$not": {"$regex": "^system"}}}):
            self.mongo[name].delete_many({})
        # The database's name stands in every name in Redis, between colons.
        for key in self.redis.scan_iter(match=f"*:{self.settings.database}:*", count=1_000):
            self.redis.delete(key)

    def write(self, *values: int, signal: str = "s") -> None:
        """States: of one document the revision is the value if they are written from 1 on."""
        for value in values:
            StateInstance(self.store, signal, "b").write_state_data({"data": value}, value)

    def audit(self) -> None:
        """What the worker's audit role does with everything that is in the streams."""
        if self._role is None:
            self._role = AuditRole(self.mongo)
            self._role.open()
        for stream in self.streams:
            entries = self.redis.xrange(stream)
            if entries:
                self._role.apply([(name.decode(), decode(fields)) for name, fields in entries])

    def audit_and_trim(self) -> None:
        self.audit()
        for stream in self.streams:
            self.redis.xtrim(stream, maxlen=0, approximate=False)

    def consume(self, group: str = "g", domains: Any = None, **options: Any) -> ChangeFeed:
        """A feed that ends when nothing is left."""
        feed = consume(group, domains, settings=self.settings, **{"until_idle": True, "timeout_s": 10, **options})
        self.feeds.append(feed)
        return feed

    def take(self, group: str = "g", domains: Any = None, **options: Any) -> list[ChangeEvent]:
        """Everything that a group has not acknowledged; acknowledged and closed."""
        with self.consume(group, domains, **options) as feed:
            return acknowledged(feed)

    def pending_count(self, group: str = "g") -> int:
        return sum(self.redis.xpending(stream, f"feed:{group}")["pending"] for stream in self.streams)

    def republish(self) -> None:
        """Append every entry again, as recovery and retries may."""
        for stream in self.streams:
            for _, fields in self.redis.xrange(stream):
                self.redis.xadd(stream, fields)


def acknowledged(feed: Iterable[ChangeEvent]) -> list[ChangeEvent]:
    events = []
    for event in feed:
        event.ack()
        events.append(event)
    return events


def revs(events: Iterable[ChangeEvent]) -> list[int]:
    return [event.rev for event in events]
