"""Each fault of the table in docs/monitoring.md, provoked on real servers: `bkm doctor` tells it, and so does the
worker's `check`. The table is made by this test.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pytest
from bson import ObjectId
from bson.int64 import Int64
from tests.integration.support import eventually, settings_for, store_for

from backtest_kit_mongo.backends.mongo.identity import Start
from backtest_kit_mongo.caches import identity_document
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.events import Event, Origin
from backtest_kit_mongo.coherence.keys import names
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.operate.doctor import Level, agreement, cache, examination, feed_state, identity
from backtest_kit_mongo.stored import AUDIT_HEADS as HEADS
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS
from backtest_kit_mongo.stored import AUDIT_PENDING as PENDING
from backtest_kit_mongo.stored import WORKER_LEASES as LEASES
from backtest_kit_worker.check import examine as check
from backtest_kit_worker.deployment import Deployment, connect
from backtest_kit_worker.roles.audit import AuditRole
from backtest_kit_worker.services.recovery import RecoveryOptions, RecoveryService
from backtest_kit_worker.services.seal import SealService
from backtest_kit_worker.services.verify import VerifyService

pytestmark = pytest.mark.live
DOC: Final = Path(__file__).parents[2] / "docs" / "monitoring.md"
KEY: Final = Key(STATE, ("signal", "b"))
LONG_AGO: Final = datetime.now(UTC) - timedelta(hours=1)


class Rig:
    def __init__(self, deployment: Deployment, write: Callable[[], object]) -> None:
        self.deployment, self.write = deployment, write
        self.database: Any = deployment.database
        self.servers = FeedServers(deployment.settings, deployment.database, deployment.redis)

    def record(self, rev: int = 1, document: str = "d") -> None:
        role, sealer = AuditRole(self.database), SealService(self.database, rest_ms=0)
        event = Event("state", ("signal", "b"), document, rev, "upsert", 1, 1, Origin("h", 1), pack({"data": 1}))
        role.open()
        role.apply([("1-0", event)])
        sealer.open()
        sealer.run_once()

    def verify(self) -> None:
        service = VerifyService(self.database, self.servers, share=1.0)
        service.open()
        for _ in range(5):
            service.run_once()

    def lease(self, **more: Any) -> None:
        now = datetime.now(UTC)
        lease = {"holder": "host-1-abc", "expiresAt": now + timedelta(hours=1), "renewedAt": now, "term": 1, **more}
        self.database[LEASES].insert_one({"_id": "seal", **lease})


def alter(rig: Rig) -> None:
    rig.record()
    rig.database[ITEMS].update_one({}, {"$set": {"payload": {"data": 666}}})
    rig.verify()


def forge(rig: Rig) -> None:
    name = (
        rig.database["state-items"]
        .insert_one({"signalId": "s", "bucketName": "b", "rev": Int64(1), "payload": {}})
        .inserted_id
    )
    for rev in (1, 2):
        rig.record(rev, str(name))
    rig.verify()


def forge_candles(rig: Rig) -> None:
    role, sealer = AuditRole(rig.database), SealService(rig.database, rest_ms=0)
    payload = pack({"ranges": [[60_000, 120_000, 2]], "count": 2})
    event = Event("candle", ("e", "BTC", "1m"), "e/BTC/1m/60000", 1, "batch", None, 1, Origin("h", 1), payload)
    role.open()
    role.apply([("1-0", event)])
    sealer.open()
    sealer.run_once()
    rig.verify()


def lose_indexes(rig: Rig) -> None:
    rig.record()
    rig.database[ITEMS].drop_indexes()


def set_odd_revision(rig: Rig) -> None:
    recovery = RecoveryService(rig.deployment, RecoveryOptions(grace_ms=0, await_ms=20, look_back_ms=0))
    recovery.open()
    rig.database["state-items"].insert_one({"signalId": "s", "bucketName": "b", "rev": 5.5, "payload": {}})
    while not rig.database["worker-troubles"].count_documents({}):
        recovery.run_once()
    recovery.close()


def corrupt_entry(rig: Rig) -> None:
    handle = names(rig.deployment.settings.database, 1, "state", KEY.parts)
    client: Any = rig.deployment.redis
    eventually(lambda: rig.write() and client.exists(handle.entry))
    client.set(handle.entry, client.get(handle.entry)[:40] + b"garbage")
    rig.verify()


def take_longer_lease(rig: Rig) -> None:
    handle = names(rig.deployment.settings.database, 1, "state", KEY.parts)
    seconds, _ = rig.deployment.redis.time()
    rig.deployment.redis.zadd(handle.leases, {"token": (seconds + 3_600) * 1000})
    rig.verify()


def run_a_peer(rig: Rig) -> None:
    other = Start(1, "document", lease_ms=12_345, version=version("backtest-kit-mongo"), who="host-2/7")
    identity_document(rig.deployment.settings, lambda: rig.deployment.mongo).note(other)
    rig.verify()


def use_another_mode(rig: Rig) -> None:
    rig.write()
    rig.database["cache-identity"].update_many({}, {"$set": {"mode": "id"}})
    rig.verify()


FAULTS: Final[dict[str, Callable[[Rig], object]]] = {
    "an altered audit record": alter,
    "a record of a forged event, ahead of its document": forge,
    "a record of candles that do not exist": forge_candles,
    "the audit log's indexes are gone": lose_indexes,
    "sealing stands still": lambda rig: rig.database[PENDING].insert_one({"_id": ObjectId.from_datetime(LONG_AGO)}),
    "the lease of `seal` is held by nobody": lambda rig: rig.lease(expiresAt=LONG_AGO),
    "it is held by a worker that is dead": lambda rig: rig.lease(renewedAt=LONG_AGO),
    "a service fails again and again": lambda rig: rig.lease(trouble="ValueError: x", failingSince=LONG_AGO),
    "recovery is stuck": lambda rig: rig.database["recovery-state"].insert_one({"_id": "token", "savedAt": LONG_AGO}),
    "a record beyond revisions that nobody recorded": lambda rig: rig.database[HEADS].insert_one(
        {"_id": "state/d", "waiting": {"since": LONG_AGO, "highest": 9}}
    ),
    "a `rev` that is no whole number": set_odd_revision,
    "a corrupted cache entry": corrupt_entry,
    "another CC_LEASE_MS on another host": take_longer_lease,
    "another CC_LEASE_MS in a process that holds no lease": run_a_peer,
    "another CC_CACHE_MODE on another host": use_another_mode,
}


@pytest.fixture
def rig(servers: Endpoints, database: str) -> Iterator[Rig]:
    deployment = connect(settings_for(servers, database))
    with store_for(servers, database) as store:
        yield Rig(deployment, lambda: (store.write(make_change(KEY, {"data": 1}, 1)), store.read(KEY))[0])
    deployment.close()


def clear(rig: Rig) -> None:
    for name in rig.database.list_collection_names(filter={"name": {"$not": {"$regex": "^system"}}}):
        if name != "cache-identity":
            rig.database[name].delete_many({})
    rig.database["cache-identity"].update_many({}, {"$set": {"mode": "document", "peers": []}})
    for handle in rig.deployment.redis.scan_iter(match=f"*:{rig.deployment.settings.database}:[efls]*"):
        rig.deployment.redis.delete(handle)


AREAS: Final = (feed_state.workers, agreement.peers, agreement.leases, cache.entries, identity.settings)
"""Of the doctor, those that concern a fault here."""


def table(rig: Rig) -> Iterator[str]:
    yield "| fault | reported by `bkm doctor` | reported by `check` |"
    yield "|---|---|---|"
    for fault, provoke in FAULTS.items():
        clear(rig)
        provoke(rig)
        found = [finding for area in AREAS for finding in area(rig.servers)]
        reported = sorted({f"`{finding.name}`" for finding in found if finding.level in (Level.WARNING, Level.ERROR)})
        code, _ = check(rig.deployment, ["verify"], 60_000)
        yield f"| {fault} | {', '.join(reported) or 'no'} | {f'{code} ({code.name.lower()})' if code else 'no'} |"


def test_doctor_and_check_tell_every_fault_of_the_table(rig: Rig) -> None:
    assert set(AREAS) <= {*examination.MONGO, *examination.REDIS, *examination.BOTH}
    rows = list(table(rig))
    documented = re.search(r"<!-- troubles -->\n(.*?)\n<!-- /troubles -->", DOC.read_text(), re.S)
    assert "| no |" not in "\n".join(rows)
    assert documented is not None
    assert documented[1].splitlines() == rows
