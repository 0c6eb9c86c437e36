"""What the servers hold when all is quiet, as observations that the checks can use."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database

from backtest_kit_mongo.backends.mongo.layout import collection_of, payload_field
from backtest_kit_mongo.backends.redis.entry import parse_entry
from backtest_kit_mongo.coherence.eras import parse_held
from backtest_kit_mongo.coherence.keys import era_name, names
from backtest_kit_mongo.coherence.record import Domain, Key
from backtest_kit_mongo.stored import CACHE_IDENTITY as COLLECTION
from backtest_kit_verify.chaos.checks import Evidence
from backtest_kit_verify.chaos.faulty_servers import Servers
from backtest_kit_verify.chaos.feed_evidence import Feed
from backtest_kit_verify.chaos.history import Operation, Value
from backtest_kit_verify.chaos.journal import CallKind, Outcome
from backtest_kit_verify.chaos.workload import LIST, Workload, mark_of

__all__ = ["gather"]


def gather(servers: Servers, feed: Feed, workload: Workload) -> Evidence:
    """Ask MongoDB, then Redis. Precondition: nobody writes any more."""
    feed.collect(settled_ms=0)
    documents = workload.documents
    domains = (*dict.fromkeys(key.domain for key in documents), LIST)
    client: MongoClient[dict[str, Any]]
    with MongoClient(servers.settings.mongo_connection_string.get_secret_value(), tz_aware=True) as client:
        database: Database[dict[str, Any]] = client[servers.settings.database]
        stored = [found for domain in domains for found in _stored(domain, database[collection_of(domain)].find())]
    return Evidence(stored, list(_cached(servers, documents)), feed.counts, feed.reported)


def _stored(domain: Domain, documents: Iterable[dict[str, Any]]) -> Iterator[Operation]:
    now_ns = time.monotonic_ns()
    for document in documents:
        key = Key(domain, tuple(document[name] for name in domain.columns))
        value = Value(mark_of(domain, document[payload_field(domain)]), document.get("removed") is True)
        yield _observation("mongod", CallKind.STORED, str(key), now_ns, int(document["rev"]), value)


def _cached(servers: Servers, keys: Sequence[Key]) -> Iterator[Operation]:
    settings = servers.settings
    with MongoClient[dict[str, Any]](settings.mongo_connection_string.get_secret_value()) as client:
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
