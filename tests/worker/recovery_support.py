"""A deployment with its writers, recovery and the audit role, all driven by the test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pymongo.database import Database
from tests.integration.support import settings_for, store_for

from backtest_kit_mongo.candles.columns import of_rows
from backtest_kit_mongo.candles.intervals import grid_of
from backtest_kit_mongo.coherence.effects import SoftRemove, Upsert
from backtest_kit_mongo.coherence.events import Event, decode
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.coherence.series import Append
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import CANDLE, STATE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS
from backtest_kit_mongo.stored import CACHE_IDENTITY as IDENTITY_COLLECTION
from backtest_kit_worker.dead_letters import DeadLetterWriter
from backtest_kit_worker.deployment import Deployment, connect
from backtest_kit_worker.loop import Loop, LoopOptions
from backtest_kit_worker.roles.audit import AuditRole
from backtest_kit_worker.services.recovery import RecoveryOptions, RecoveryService

MINUTE_MS = 60_000
_PROOF = ["signal", "proof"]
# No looking back: MongoDB's log tells what earlier tests did to the same collections.
AT_ONCE = RecoveryOptions(grace_ms=0, await_ms=1, save_ms=0, look_back_ms=0)


class Bed:
    """Everything a test of recovery needs. `recovery` and `audit` run only when the test says so."""

    def __init__(self, store: Store, deployment: Deployment) -> None:
        self.store = store
        self.deployment = deployment
        self.recovery = RecoveryService(deployment, AT_ONCE)
        self.audit = self.loop()

    def loop(self) -> Loop:
        """The audit role of a process that has just begun."""
        deployment, database = self.deployment, self.deployment.database
        options = LoopOptions(block_ms=1, retry_ms=1)
        return Loop(
            deployment.redis, deployment.streams, AuditRole(database), DeadLetterWriter(database), "one", options
        )

    def clear(self) -> None:
        """As if nothing had ever happened. Making collections anew would take most of a test's time."""
        self.recovery.close()
        # Without its birth certificate and its era Redis would install nothing for a while.
        for name in self.mongo.list_collection_names():
            if name != IDENTITY_COLLECTION:
                self.mongo[name].delete_many({})
        for name in self.redis.scan_iter():
            if not name.endswith(b":b") and b":o:" not in name:
                self.redis.delete(name)
        self.audit = self.loop()
        self.restart()

    @property
    def mongo(self) -> Database[dict[str, Any]]:
        return self.deployment.database

    @property
    def redis(self) -> Any:
        return self.deployment.redis

    # -- writers

    def write(self, data: Any, *, item: str = "bucket", when: int = 1) -> None:
        """A write as it should be."""
        self.store.write(make_change(state_key(item), {"data": data}, when))

    def write_unannounced(self, data: Any, *, item: str = "bucket", when: int = 1) -> Record:
        """A write whose writer died between MongoDB and Redis, or could not reach Redis."""
        return self.store.truth.upsert(Upsert(make_change(state_key(item), {"data": data}, when), None))

    def remove_unannounced(self, key: Key) -> Record | None:
        return self.store.truth.remove(SoftRemove(key, None))

    def append_unannounced(self, *minutes: int, interval: str = "1m") -> None:
        """Candles whose writer died before it reported to the feed."""
        rows = [{"timestamp": minute * MINUTE_MS, **candle()} for minute in sorted(minutes)]
        self.store.truth.append(Append(series(interval), of_rows(rows), grid_of(interval)))

    @property
    def states(self) -> Any:
        """The documents that `write` writes, for foreign writers."""
        return self.mongo["state-items"]

    # -- what came of it

    def records(self, **query: Any) -> list[dict[str, Any]]:
        order = [("domain", 1), ("documentId", 1), ("rev", 1), ("foreign", 1)]
        return list(self.mongo[ITEMS].find({"key": {"$ne": _PROOF}, **query}).sort(order))

    def data(self) -> list[Any]:
        """What the audit log holds of all revisions, in order."""
        return [record["payload"] and record["payload"]["data"] for record in self.records()]

    def events(self) -> list[Event]:
        return [decode(fields) for stream in self.deployment.streams for _, fields in self.redis.xrange(stream)]

    def lose_feed(self) -> None:
        """Redis loses every event and every group."""
        self.redis.delete(*self.deployment.streams)

    # -- progress

    def work(self, audit: bool = True) -> None:
        """Each does one piece."""
        self.recovery.run_once()
        if audit:
            self.audit.run_once(block_ms=0)

    def work_until(self, holds: Callable[[], object], within_s: float = 60) -> None:
        """Work until it holds and nothing is left to judge."""
        end_s = time.monotonic() + within_s
        self.work()
        while not (holds() and self.recovery.unjudged_count == 0):
            assert time.monotonic() < end_s, (
                f"not within {within_s} s; recorded: {[r['_id'] for r in self.records()][:40]}"
            )
            self.work()

    def catch_up(self) -> None:
        """Work until everything written so far is judged, which a last write proves."""
        before = self.mongo[ITEMS].count_documents({"key": _PROOF})
        self.write_unannounced("proof", item="proof")
        self.work_until(lambda: self.mongo[ITEMS].count_documents({"key": _PROOF}) > before)

    def restart(self, **options: int) -> None:
        """Another process takes over, with other options if need be."""
        self.recovery.close()
        self.recovery = RecoveryService(self.deployment, replace(AT_ONCE, **options))
        self.recovery.open()


def candle() -> dict[str, float]:
    return {"open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 0.0}


def series(interval: str = "1m") -> Key:
    return Key(CANDLE, ("e", "BTC", interval))


def state_key(item: str = "bucket") -> Key:
    return Key(STATE, ("signal", item))


@contextmanager
def bed_for(servers: Endpoints, database: str, **settings: Any) -> Iterator[Bed]:
    with store_for(servers, database, **settings) as store:
        store.open()
        deployment = connect(settings_for(servers, database, **settings))
        bed = Bed(store, deployment)
        bed.recovery.open()
        try:
            yield bed
        finally:
            bed.recovery.close()
            deployment.close()
