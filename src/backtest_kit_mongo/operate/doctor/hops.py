"""How long each hop takes: a ping of each server, a cached read, a write that a majority has on disk."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, Final

from pymongo.errors import PyMongoError

from backtest_kit_mongo.backends.mongo.identity import IDENTITY
from backtest_kit_mongo.backends.near_cache import HEARTBEATS_PER_STALENESS
from backtest_kit_mongo.backends.redis.cluster import link_over
from backtest_kit_mongo.backends.redis.identity import FixedIdentity
from backtest_kit_mongo.caches import make_cache
from backtest_kit_mongo.coherence.effects import CacheRead
from backtest_kit_mongo.coherence.eras import parse_held
from backtest_kit_mongo.coherence.keys import era_name, names, partition_names
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_mongo.feed.newest import BYTES_MAX, newest
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.operate.doctor.findings import Finding, error, is_unauthorized, note, ok, said, warning
from backtest_kit_mongo.operate.doctor.timing import Latency, latency
from backtest_kit_mongo.stored import CACHE_IDENTITY as COLLECTION
from backtest_kit_mongo.stored import DOCTOR_SCRATCH as SCRATCH

PINGS_COUNT: Final = 50
WRITES_COUNT: Final = 10
RECENT_COUNT: Final = 200
ENTRY_MAX: Final = 64 << 10
"""Bytes of an entry whose reading says something of the way to Redis; larger ones take their own time."""
SHARE_MAX: Final = 0.25
"""Of a time limit: a hop that takes so much of it may run into it under load."""


def pings(servers: FeedServers) -> Iterator[Finding]:
    """A ping of MongoDB."""
    found = latency(lambda: servers.database.client.admin.command("ping"), PINGS_COUNT)
    yield judge("latency.mongo-ping", found, servers.settings.mongo_bound_ms, "CC_MONGO_TIMEOUT_MS")


def redis_pings(servers: FeedServers) -> Iterator[Finding]:
    """A ping of Redis."""
    found = latency(servers.redis.ping, PINGS_COUNT)
    yield judge("latency.redis-ping", found, servers.settings.redis_timeout_ms, "CC_REDIS_TIMEOUT_MS")
    yield from near_heartbeats(servers, found)


def near_heartbeats(servers: FeedServers, ping: Latency) -> Iterator[Finding]:
    """Whether Redis answers fast enough to keep the copies of a near cache fresh."""
    settings = servers.settings
    heartbeat_ms = settings.near_cache_max_staleness_ms / HEARTBEATS_PER_STALENESS
    if settings.near_cache and settings.cache_mode == "document" and ping.p99_ms > heartbeat_ms:
        yield warning(
            "near-cache.beat", (f"Redis takes {ping.p99_ms:.0f} ms, a heartbeat is due each {heartbeat_ms:.0f} ms: "
                "copies are often not served"),
            "raise CC_NEAR_CACHE_MAX_STALENESS_MS, or set CC_NEAR_CACHE= (empty)",
        )  # fmt: skip


def judge(name: str, found: Latency, limit_ms: float, setting: str) -> Finding:
    """Whether a hop keeps well within its time limit."""
    if found.p99_ms > SHARE_MAX * limit_ms:
        return warning(
            name, f"{found}, of the {limit_ms:.0f} ms that {setting} allows",
            f"look at the network and the server's load; or raise {setting} together with what bounds it",
        )  # fmt: skip
    return ok(name, str(found))


def warm_read(servers: FeedServers) -> Iterator[Finding]:
    """A read as clients do it, of a document that is in the cache. (Should its entry go meanwhile, this leaves what any
    reader leaves: a right to install one, which expires.)
    """
    name = "latency.warm-read"
    if servers.settings.cache_mode == "id":
        yield note(name, "not measured: in cache mode `id` every read asks MongoDB")
        return
    key = _cached_key(servers)
    if key is None:
        yield note(name, "not measured: none of the documents written last is in the cache, or they are large")
        return
    identity = servers.database[COLLECTION].find_one({"_id": IDENTITY}) or {}
    deployment = str(identity.get("deployment", ""))
    held: Any = servers.redis.get(era_name(partition_names(servers.settings.database, 0)[0], deployment))
    # Not the store's own, which would count in MongoDB and begin another era where that is due: this only looks.
    looked_at = FixedIdentity(servers.settings.partitions, servers.settings.lease_ms, parse_held(held).era, deployment)
    cache = make_cache(servers.settings, looked_at, link_over(servers.redis))
    try:
        if not isinstance(cache.read(CacheRead(key)), Record):
            yield note(name, "not measured: the entry was just written over, or is of before a restart of Redis")
            return
        found = latency(lambda: cache.read(CacheRead(key)), PINGS_COUNT)
    finally:
        cache.close()
    yield judge(name, found, servers.settings.redis_timeout_ms, "CC_REDIS_TIMEOUT_MS")


def _cached_key(servers: FeedServers) -> Key | None:
    """A document whose entry is there, and not large. One that was written lately most likely has one."""
    asked: Any = servers.redis
    for stream in servers.streams:
        for _, event in newest(servers.redis, stream, count_max=RECENT_COUNT, bytes_max=BYTES_MAX):
            domain = None if event is None else BY_NAME.get(event.domain)
            if event is None or domain is None or not domain.cached:
                continue
            probe = names(servers.settings.database, servers.settings.partitions, domain.name, event.key)
            if 0 < asked.strlen(probe.entry) <= ENTRY_MAX:
                return Key(domain, event.key)
    return None


def durable_write(servers: FeedServers) -> Iterator[Finding]:
    """Writes that a majority of the members has in its journal, to a collection that is dropped afterwards."""
    scratch = servers.database.get_collection(SCRATCH, write_concern=DURABLE)
    own = secrets.token_hex(6)
    try:
        found = latency(lambda: scratch.update_one({"_id": own}, {"$inc": {"n": 1}}, upsert=True), WRITES_COUNT)
        yield judge("latency.durable-write", found, servers.settings.mongo_bound_ms, "CC_MONGO_TIMEOUT_MS")
    except PyMongoError as cause:
        yield error(
            "latency.durable-write", f"a write to {scratch.full_name} failed: {said(cause)}",
            "clients cannot write either: look at the members of the set, at the disk and at the user's role",
        )  # fmt: skip
        if is_unauthorized(cause):
            return
    try:
        scratch.drop()
    except PyMongoError as cause:
        yield warning(
            "latency.scratch", f"the collection {scratch.full_name} may have stayed: {said(cause)}",
            f'mongosh: use {servers.database.name}; db.getCollection("{SCRATCH}").drop()',
        )  # fmt: skip
