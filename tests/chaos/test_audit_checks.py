"""The verdict on the work of workers finds each way in which a log or a replica can be wrong, and nothing in a true
one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pymongo
import pytest
import redis
from bson import Regex
from pymongo.database import Database
from tests.audit.support import Worker
from tests.integration.support import settings_for, store_for

from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.coherence.events import Event, decode
from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import DOMAINS, STATE
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.testing.calls import calls
from backtest_kit_mongo.testing.examples import BASE_MS
from backtest_kit_verify.chaos.audit_checks import AuditState, AuditVerdict, Traces, check_audit, differing_copies
from backtest_kit_verify.chaos.history import Revision
from backtest_kit_verify.chaos.odd import STRANGER
from backtest_kit_verify.chaos.strangers import NUMBER, Forged
from backtest_kit_verify.chaos.workload import payload_of

pytestmark = pytest.mark.live

Documents = Database[dict[str, Any]]
KEPT, LOST = Key(STATE, ("signal", "kept")), Key(STATE, ("signal", "lost"))
NONE = Traces()
WITHOUT_ONE = "a revision without exactly one record"


@pytest.fixture
def database(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Documents]:
    with pymongo.MongoClient[dict[str, Any]](servers.mongo_url, tz_aware=True) as client:
        name = f"{new_database()}_verdict"
        yield client[name]
        client.drop_database(name)


@pytest.fixture
def reported(servers: Endpoints, database: Documents) -> list[Event]:
    """What the feed reports two documents, each written twice as chaos clients write."""
    with store_for(servers, database.name) as store:
        registry = calls(STATE).over(store)
        for number in range(2):
            for key in (KEPT, LOST):
                calls(STATE).write(registry, payload_of(key, f"w0.0.{number}"), key.parts, BASE_MS)
    settings = settings_for(servers, database.name)
    with redis.Redis(servers.redis_host, servers.redis_port) as client:
        names = streams(settings.database, settings.partitions)
        entries = [entry for name in names for entry in client.xrange(name)]
        client.delete(*names)
    return [decode(fields) for _, fields in entries]


def judged(database: Documents, recorded: Sequence[Event], differing_replicas: str = "") -> AuditVerdict:
    """The verdict after a worker recorded and sealed these."""
    Worker(database).sealed(recorded)
    return verdict_of(database, differing_replicas=differing_replicas)


def verdict_of(
    database: Documents, traces: Traces = NONE, left: str = "", differing_replicas: str = ""
) -> AuditVerdict:
    return check_audit(database, (KEPT, LOST), traces, left, differing_replicas)


def kinds(verdict: AuditVerdict) -> list[str]:
    return [violation.kind for violation in verdict.violations]


def test_a_log_with_every_revision_is_as_it_should_be(database: Documents, reported: list[Event]) -> None:
    verdict = judged(database, reported)
    assert not verdict.violations
    assert (verdict.revisions, verdict.records, verdict.gaps, verdict.seals, verdict.strangers) == (4, 4, 0, 1, 0)
    assert verdict.reported[Revision(str(KEPT), 2)] == "w0.0.1"


def test_revisions_whose_events_a_flush_took_are_found(database: Documents, reported: list[Event]) -> None:
    """As with workers that do not recover."""
    verdict = judged(database, [event for event in reported if event.key != LOST.parts or event.rev == 1])
    (violation,) = verdict.violations
    assert (violation.kind, verdict.revisions, verdict.records) == (WITHOUT_ONE, 4, 3)
    assert "2 revisions are stored" in violation.text


def test_a_record_of_another_value_or_of_nothing_and_a_changed_log_are_found(
    database: Documents, reported: list[Event]
) -> None:
    of_kept, of_lost = ({"key": list(key.parts)} for key in (KEPT, LOST))
    assert not judged(database, reported).violations
    database[collection_of(STATE)].delete_one(dict(zip(STATE.columns, LOST.parts, strict=True)))
    assert kinds(verdict_of(database)) == ["a record of nothing", "a record of nothing"]
    database["audit-items"].delete_many(of_lost)
    database["audit-items"].update_one({**of_kept, "rev": 2}, {"$set": {"payload": payload_of(KEPT, "another")}})
    assert set(kinds(verdict_of(database))) == {"a record of another value", "the log does not verify"}


def test_what_strangers_did_is_recorded_or_parked_with_its_cause_and_what_they_forged_is_known(
    database: Documents, reported: list[Event]
) -> None:
    assert not judged(database, reported).violations
    lost = reported[0]._replace(document="nobody", rev=7, origin=STRANGER)
    Worker(database).sealed([lost])
    assert kinds(verdict_of(database)) == ["a record of nothing"]
    traces = Traces(frozenset({Forged(lost.domain, "nobody", 7)}))
    assert not verdict_of(database, traces).violations
    database[collection_of(STATE)].insert_one({"_id": {"odd": 1}, "signalId": Regex("x"), "payload": 1})
    (unseen,) = verdict_of(database, traces).violations
    assert (unseen.kind, "{'odd': 1}" in unseen.text) == ("an odd input not set aside", True)
    parked = {"stream": "mongodb", "role": "recovery", "cause": "odd", "fields": []}
    database["parked-items"].insert_one(parked)
    assert not verdict_of(database, traces).violations
    odd = {**parked, "stream": "s", "_id": 2, "role": "audit", "fields": [[b"e", b"x"], [NUMBER, b"8"]]}
    assert kinds(verdict_of(database, replace(traces, entries=[8]))) == ["an odd input not set aside"]
    database["parked-items"].insert_one(odd)
    assert not verdict_of(database, replace(traces, entries=[8])).violations


def test_a_restore_that_the_log_does_not_name_and_work_that_stands_still_are_found(
    database: Documents, reported: list[Event]
) -> None:
    judged(database, reported)
    began = datetime.now(UTC) - timedelta(seconds=1)
    set_back, unnoticeable = Traces(restore_count=1, restored_at=began), Traces(restore_count=1)
    assert kinds(verdict_of(database, unnoticeable, "audit has 2 to do")) == ["a role without progress"]
    assert kinds(verdict_of(database, set_back)) == ["a restore that nothing reports"]
    noticed = {"over": "an era", "at": datetime.now(UTC)}
    database["cache-identity"].update_one({"_id": "identity"}, {"$set": {"restores": [noticed]}}, upsert=True)
    assert kinds(verdict_of(database, set_back)) == ["a restore that nothing reports"]
    database["cache-identity"].update_one({}, {"$set": {"restores.0.at": began - timedelta(days=1)}})
    database["audit-items"].insert_one({"operation": "restore", "documentId": "an era"})
    assert "a restore that nothing reports" in kinds(verdict_of(database, set_back))
    database["cache-identity"].update_one({}, {"$set": {"restores.0.at": datetime.now(UTC)}})
    assert "a restore that nothing reports" not in kinds(verdict_of(database, set_back))
    database["audit-items"].delete_one({"operation": "restore"})
    database["cache-identity"].update_one({}, {"$set": {"restores": []}})
    database["worker-troubles"].insert_one({"_id": "audit-contradicted", "at": datetime.now(UTC)})
    database["recovery-state"].insert_one({"_id": "token", "savedAt": datetime(2000, 1, 1, tzinfo=UTC)})
    (stuck,) = verdict_of(database).violations
    assert (stuck.kind, stuck.key) == ("a role without progress", "recovery.stuck")


def test_a_copy_that_is_not_its_document_is_named(database: Documents, reported: list[Event]) -> None:
    replica = database.client[f"{database.name}_replica"]
    stored = list(database[collection_of(STATE)].find())
    replica[collection_of(STATE)].insert_many(stored)
    assert differing_copies(database, replica, (KEPT, LOST)) == ""
    replica[collection_of(STATE)].update_one(LOST.query(), {"$set": {"rev": 9}})
    assert differing_copies(database, replica, (KEPT, LOST)) == str(LOST)
    database.client.drop_database(replica.name)


def test_a_replica_that_differs_is_one_violation_with_what_the_comparison_says(
    database: Documents, reported: list[Event]
) -> None:
    (violation,) = judged(database, reported, "state: 1 differs").violations
    assert (violation.kind, violation.text) == ("a replica differs", "state: 1 differs")


def test_what_is_left_to_do_is_named_until_nothing_is(database: Documents, reported: list[Event]) -> None:
    waiting: Mapping[str, int] = {"audit": 2}
    state = AuditState(database, (KEPT, LOST), lambda: waiting)
    worker = Worker(database)
    worker.record(reported[:3])
    assert state.left() == "1 revisions without a record"
    worker.record(reported)
    assert state.left() == "audit has 2 to do"
    waiting = {"audit": 0}
    assert state.left() == f"{len(DOMAINS)} domains to copy"
    copied = {domain.name: {"done": True} for domain in DOMAINS}
    database["replica-state"].insert_one({"_id": "copy/one", "domains": copied})
    assert state.left().endswith("batches to seal")
    worker.seal()
    assert state.left() == ""
