"""What the servers hold when all is quiet, as observations that the checks can use."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database

from backtest_kit_mongo.backends.mongo.layout import collection_of, payload_field
from backtest_kit_mongo.backends.redis.entry import parse_entry
from backtest_kit_mongo.coherence.eras import parse_held
from backtest_kit_mongo.coherence.keys import era_name, names, partition_names
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.stored import CACHE_IDENTITY as COLLECTION
from backtest_kit_verify.chaos.checks import Evidence
from backtest_kit_verify.chaos.faulty_servers import Servers
from backtest_kit_verify.chaos.feed_evidence import Feed
from backtest_kit_verify.chaos.history import Operation, Value
from backtest_kit_verify.chaos.journal import CallKind, Outcome
from backtest_kit_verify.chaos.workload import Workload, mark_of

__all__ = ["counted", "direct", "gather", "held", "told"]


def gather(servers: Servers, feed: Feed, workload: Workload) -> Evidence:
    """Ask MongoDB, then Redis. Precondition: nobody writes any more."""
    feed.collect(settled_ms=0)
    with MongoClient[dict[str, Any]](direct(servers), tz_aware=True) as client:
        stored = held(client[servers.settings.database], workload, CallKind.STORED)
    return Evidence(stored, list(_cached(servers, workload.documents)), feed.counts, feed.reported)


def direct(servers: Servers) -> str:
    """Whoever follows the replica set takes a member that was set back for one that was deposed."""
    return f"{servers.settings.mongo_connection_string.get_secret_value()}&directConnection=true"


def counted(database: Database[dict[str, Any]]) -> dict[str, int]:
    """How far MongoDB has counted in each era in force."""
    return {era["era"]: int(era["count"]) for era in (database[COLLECTION].find_one({}) or {}).get("eras", ())}


def told(servers: Servers) -> dict[str, int]:
    """How far Redis was told that it had."""
    born, _ = partition_names(servers.settings.database, 0)
    found = servers.redis.scan_iter(match=era_name(born, "*"))
    return {era: count for era, count in (parse_held(servers.redis.get(name)) for name in found) if era}


def held(database: Database[dict[str, Any]], workload: Workload, kind: CallKind) -> list[Operation]:
    """The clients' documents as MongoDB has them now."""
    return [found for key in (*workload.documents, *workload.rows) for found in _stored(database, key, kind)]


def _stored(database: Database[dict[str, Any]], key: Key, kind: CallKind) -> Iterator[Operation]:
    now_ns = time.monotonic_ns()
    for document in database[collection_of(key.domain)].find(key.query()):
        value = Value(mark_of(key.domain, document[payload_field(key.domain)]), document.get("removed") is True)
        yield _observation("mongod", kind, str(key), now_ns, int(document["rev"]), value)


def _cached(servers: Servers, keys: Sequence[Key]) -> Iterator[Operation]:
    settings = servers.settings
    with MongoClient[dict[str, Any]](direct(servers)) as client:
        identity = client[settings.database][COLLECTION].find_one({}) or {}
    memory = servers.redis.info("replication")["master_replid"].encode()[:24]
    for key in keys:
        now_ns = time.monotonic_ns()
        found = names(settings.database, settings.partitions, key.domain.name, key.parts)
        entry = servers.redis.get(found.entry)
        era = parse_held(servers.redis.get(era_name(found.born, identity.get("deployment", "")))).era
        if entry is not None and entry.startswith(memory + era.encode()):
            record = parse_entry(key, entry)
            value = Value(mark_of(key.domain, record.payload), record.removed)
            yield _observation("redis-server", CallKind.CACHED, str(key), now_ns, record.rev, value)


def _observation(process: str, kind: CallKind, key: str, at_ns: int, rev: int, value: Value) -> Operation:
    return Operation(process, 0, kind, key, key, at_ns, at_ns, Outcome.DONE, rev=rev, value=value)
