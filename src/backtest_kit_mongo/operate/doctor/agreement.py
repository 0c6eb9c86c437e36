"""Settings that all hosts must share: each process says them with its heartbeat, and what it does shows in Redis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

from backtest_kit_mongo.backends.mongo.identity import IDENTITY, PEER_MS
from backtest_kit_mongo.backends.redis.cluster import servers_of
from backtest_kit_mongo.coherence.events import Event
from backtest_kit_mongo.coherence.keys import lease_pattern, names, streams
from backtest_kit_mongo.coherence.record import Shape
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_mongo.feed.newest import BYTES_MAX, newest
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.operate.doctor.findings import Finding, duration, error, note, ok, warning
from backtest_kit_mongo.stored import CACHE_IDENTITY

PARTITIONS_MAX: Final = 4_096
"""Of CC_PARTITIONS."""
EVENTS_MAX: Final = 200
"""Newest events looked at in each stream."""
STREAMS_MAX: Final = 64
"""Streams looked into; every one of them shows a host with other settings soon."""
RECENT_MS: Final = 3_600_000
"""What is older may be of before the setting was changed."""
LEASES_MAX: Final = 1_000
NAMED_MAX: Final = 5
PAGE: Final = 10_000
PAGES_MAX: Final = 200
"""Keys of Redis that are passed at once, and how often: leases are few, but only a walk over all keys finds them."""


def partitions(servers: FeedServers) -> Iterator[Finding]:
    """Whether the events lie in the streams in which this host would have put them."""
    chosen = servers.settings.partitions
    beyond = _beyond(servers)
    now_ms = _now_ms(servers)
    misplaced = None
    for stream in [*servers.streams, *beyond][-STREAMS_MAX:]:
        for entry, event in newest(servers.redis, stream, count_max=EVENTS_MAX, bytes_max=BYTES_MAX):
            if event is not None and not _is_own(servers, stream, event):
                misplaced = max(misplaced or entry, entry)
                break
    if misplaced is not None:
        age_ms = max(0, now_ms - misplaced.ms)
        seen = f"{chosen} here; a change of {duration(age_ms)} ago lies where another number puts it"
        if age_ms < RECENT_MS:
            yield error(
                "agreement.partitions", f"{seen}: two hosts that differ do not see each other's leases",
                "stop all clients and workers, set one CC_PARTITIONS on every host, start them again",
            )  # fmt: skip
        else:
            yield note("agreement.partitions", f"{seen}, most likely from before CC_PARTITIONS was changed")
    else:
        yield ok("agreement.partitions", f"{chosen}, as the newest changes were written with")
    for stream in beyond:
        yield warning(
            "agreement.stream", f"{stream} is beyond the {chosen} streams that workers read",
            "let a worker with the old CC_PARTITIONS read it to its end (`bkm stream status`), then DEL it in Redis",
        )  # fmt: skip


def peers(servers: FeedServers) -> Iterator[Finding]:
    """Whether the processes that were heard of in the last minutes have this host's settings."""
    found = servers.database[CACHE_IDENTITY].find_one({"_id": IDENTITY}, {"peers": 1}) or {}
    now = servers.database.client.admin.command("hello")["localTime"].replace(tzinfo=UTC)
    heard = [each for each in found.get("peers", ()) if (now - each["at"]).total_seconds() * 1000 < PEER_MS]
    chosen = servers.settings
    mine = {"lease_ms": chosen.lease_ms, "mode": chosen.cache_mode, "partitions": chosen.partitions}
    names = {"lease_ms": "CC_LEASE_MS", "mode": "CC_CACHE_MODE", "partitions": "CC_PARTITIONS"}
    differing = [
        f"{names[name]} is {value} here and {each.get(name)} in {each['who']} ({duration(_age_ms(now, each))} ago)"
        for each in heard
        for name, value in mine.items()
        if each.get(name) != value
    ]
    releases = {str(each.get("version")) for each in heard} | {version("backtest-kit-mongo")}
    if differing:
        yield error(
            "agreement.peers", "; ".join(differing[:NAMED_MAX]),
            "set the same on every host, this one among them, and start what differs again",
        )  # fmt: skip
    else:
        yield ok("agreement.peers", f"{len(heard)} processes of the last minutes, all with this host's settings")
    if len(releases) > 1:
        yield warning(
            "agreement.release", f"releases at work, or here: {', '.join(sorted(releases))}",
            "finish the update: each release is tested with itself",
        )  # fmt: skip


def _age_ms(now: datetime, peer: Mapping[str, Any]) -> float:
    age_ms: float = (now - peer["at"]).total_seconds() * 1000
    return max(0.0, age_ms)


def _beyond(servers: FeedServers) -> list[str]:
    """Streams that exist although this host would never write them."""
    settings = servers.settings
    others = streams(settings.database, PARTITIONS_MAX)[settings.partitions :]
    if not others or not servers.redis.exists(*others):
        return []  # As it should be, and asked each minute: a command, not thousands.
    pipeline: Any = servers.redis.pipeline(transaction=False)
    for name in others:
        pipeline.exists(name)
    return [name for name, exists in zip(others, pipeline.execute(), strict=True) if exists]


def _is_own(servers: FeedServers, stream: str, event: Event) -> bool:
    domain = BY_NAME.get(event.domain)
    if domain is None:
        return True  # Of a newer release; its shape is not known here.
    # The rows of a list are written under one lease, so they go where their scope belongs.
    parts = event.key[:-1] if domain.shape is Shape.LIST else event.key
    return names(servers.settings.database, servers.settings.partitions, domain.name, parts).stream == stream


def _now_ms(servers: FeedServers) -> int:
    asked: Any = servers.redis
    seconds, microseconds = asked.time()
    return int(seconds * 1000 + microseconds // 1000)


def leases(servers: FeedServers) -> Iterator[Finding]:
    """Whether a lease that is held now lasts longer than this host's would. (A shorter one cannot be seen.)"""
    own_ms = servers.settings.lease_ms
    asked: Any = servers.redis
    now_ms, left_ms = _now_ms(servers), []
    for name in _lease_names(servers):
        left_ms += [until_ms - now_ms for _, until_ms in asked.zrevrange(name, 0, 0, withscores=True)]
    longest_ms = max(left_ms, default=0)
    if longest_ms > own_ms:
        yield error(
            "agreement.lease", f"CC_LEASE_MS is {own_ms} here; a lease is held that lasts {longest_ms:.0f} ms more",
            "set one CC_LEASE_MS on every host: a new Redis is trusted too early by hosts with the shorter one",
        )  # fmt: skip
    else:
        yield ok("agreement.lease", f"CC_LEASE_MS {own_ms}; none of the {len(left_ms)} leases held now lasts longer")


def _lease_names(servers: FeedServers) -> list[bytes]:
    asked: Any = servers_of(servers.redis)
    pattern = lease_pattern(servers.settings.database)
    found: list[bytes] = []
    for server in asked:
        cursor = 0
        for _ in range(PAGES_MAX):
            cursor, page = server.scan(cursor, match=pattern, count=PAGE, _type="zset")
            found += page
            if not cursor or len(found) >= LEASES_MAX:
                break
    return found[:LEASES_MAX]


def near_cache(servers: FeedServers) -> Iterator[Finding]:
    """What a process keeps copies of, and how old those may be."""
    settings = servers.settings
    name = "near-cache.settings"
    if not settings.near_cache:
        yield ok(name, "off: every read sees what was written before it")
        return
    if settings.cache_mode == "id":
        yield note(name, "CC_NEAR_CACHE has no effect in cache mode `id`", "set it empty, so that nobody counts on it")
        return
    if not settings.near_cache_max_bytes:
        yield note(name, "CC_NEAR_CACHE_MAX_BYTES is 0: no copy is ever kept", "set CC_NEAR_CACHE empty instead")
        return
    seen = f"{', '.join(sorted(settings.near_cache))}: copies up to {settings.near_cache_max_staleness_ms} ms old"
    risky = sorted(one for one in settings.near_cache if not BY_NAME[one].memo)
    if risky:
        yield note(
            name, f"{seen}; of these {', '.join(risky)} change under their key",
            "name only domains of which a decision may rest on what is that old",
        )  # fmt: skip
    else:
        yield ok(name, seen)
