"""Redis as a server: reachable, new enough, the master, never evicting what must stay, keeping the feed over a
restart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import redis

from backtest_kit_mongo.backends.redis.safety import unsafe_reason
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.operate.doctor.findings import Finding, error, note, ok, said, version, warning

VERSION_MIN: Final = (6, 2)
"""XAUTOCLAIM, and what INFO says about replication."""
TESTED: Final = ("6.2", "7.0")
"""Releases that this package's own tests run on."""
FULL: Final = 0.9
"""Share of maxmemory."""


def reach(servers: FeedServers) -> Iterator[Finding]:
    """Whether Redis answers and lets us in, and which one it is. The first finding is an error if it does not."""
    address = servers.settings.redis_address
    try:
        servers.redis.ping()
        info = info_of(servers, "server")
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as cause:
        yield error("redis.reachable", f"{address} refused: {said(cause)}", _CREDENTIALS)
        return
    except (redis.RedisError, OSError) as cause:
        yield error("redis.reachable", f"no answer from {address}: {said(cause)}", _START)
        return
    yield ok("redis.reachable", address)
    yield _version(str(info["redis_version"]))


_CREDENTIALS: Final = "check CC_REDIS_USER and CC_REDIS_PASSWORD, and that the user may run PING and INFO"
_START: Final = (
    "start it (`bkm up` for a laptop, `docker compose up -d --wait` for the stack) or correct CC_REDIS_HOST and "
    "CC_REDIS_PORT (with Sentinel or a cluster: CC_REDIS_SENTINEL, CC_REDIS_CLUSTER). Meanwhile "
    "clients bypass it, slower but never wrong, unless CC_ON_REDIS_DOWN=fail"
)


def info_of(servers: FeedServers, section: str) -> dict[str, Any]:
    """A section of INFO."""
    asked: Any = servers.redis
    found: dict[str, Any] = asked.info(section)
    return found


def _version(found: str) -> Finding:
    name, numbers = "redis.version", version(found)
    if numbers < VERSION_MIN:
        return error(name, f"Redis {found}", f"upgrade to {TESTED[-1]} or later; below 6.2 the worker does not run")
    if found.startswith(tuple(f"{release}." for release in TESTED)):
        return ok(name, f"Redis {found}, which this package is tested with")
    return note(name, f"Redis {found}; tested with {', '.join(TESTED)}", "nothing, unless something else looks odd")


def memory(servers: FeedServers) -> Iterator[Finding]:
    """Whether leases and events may be evicted, and how full it is."""
    info = info_of(servers, "memory")
    policy, maximum, used = str(info["maxmemory_policy"]), int(info["maxmemory"]), int(info["used_memory"])
    name, seen = (
        "redis.maxmemory-policy",
        f"{policy}, maxmemory {maximum // 2**20} MiB" if maximum else f"{policy}, no maxmemory",
    )
    # As the store judges it when it opens.
    if unsafe_reason(f"maxmemory:{maximum}\r\nmaxmemory_policy:{policy}\r\n".encode()):
        yield error(name, f"{seen}: leases and change events may be evicted, so clients refuse to start", _POLICY)
    elif policy.startswith("allkeys"):
        yield warning(name, f"{seen}: harmless only as long as there is no maxmemory", _POLICY)
    elif policy == "noeviction" and maximum:
        yield note(name, f"{seen}: when it is full it is bypassed, where volatile-lru would drop old entries", _POLICY)
    else:
        yield ok(name, seen)
    if maximum and used > FULL * maximum:
        yield warning(
            "redis.memory", f"{used / maximum:.0%} of maxmemory is used",
            "`bkm stream status` shows whether the feed holds it; raise maxmemory or lower CC_CACHE_TTL_MS",
        )  # fmt: skip
    else:
        yield ok("redis.memory", f"{used / 2**20:.0f} MiB used")


_POLICY: Final = "redis-cli CONFIG SET maxmemory-policy volatile-lru, and the same in redis.conf"


def replication(servers: FeedServers) -> Iterator[Finding]:
    """Whether it is the master, and whether a cut-off master would stop."""
    info = info_of(servers, "replication")
    if info["role"] != "master":
        yield error(
            "redis.role", (f"a replica of {info.get('master_host')}:{info.get('master_port')}: it is refused, as its "
                "entries may be old"),
            "point CC_REDIS_HOST and CC_REDIS_PORT at the master, or name Sentinels (CC_REDIS_SENTINEL) that know it",
        )  # fmt: skip
        return
    replicas_count = int(info.get("connected_slaves", 0))
    yield ok("redis.role", f"master with {replicas_count} replicas")
    wanted = _config(servers, "min-replicas-to-write").get("min-replicas-to-write")
    if replicas_count and wanted == "0":
        yield warning(
            "redis.min-replicas", ("it has replicas, but goes on alone when it is cut off from them, beside a new "
                "master"),
            "redis-cli CONFIG SET min-replicas-to-write 1, and the same in redis.conf",
        )  # fmt: skip


def persistence(servers: FeedServers) -> Iterator[Finding]:
    """Whether the feed survives a restart."""
    info = info_of(servers, "persistence")
    if info.get("loading"):
        yield warning("redis.persistence", "it is still loading its data", "wait; clients bypass it until it is done")
    if not info["aof_enabled"]:
        yield warning(
            "redis.persistence", ("appendonly no: a restart loses the feed, and what its consumers had not read comes "
                "by recovery only"),
            "redis-cli CONFIG SET appendonly yes, and appendonly yes with appendfsync everysec in redis.conf",
        )  # fmt: skip
        return
    if info.get("aof_last_write_status", "ok") != "ok":
        yield error(
            "redis.persistence", "the last write to the append-only file failed", "look at the disk and Redis' log"
        )
        return
    config = _config(servers, "appendfsync", "save")
    if not config:
        yield ok("redis.persistence", "appendonly yes (this user may not see appendfsync)")
        return
    yield from _judge_fsync(config)


def _judge_fsync(config: Mapping[str, str]) -> Iterator[Finding]:
    fsync, save = config.get("appendfsync", "everysec"), config.get("save", "")
    seen = f"appendonly yes, appendfsync {fsync}, save {save!r}"
    if fsync == "no":
        yield warning(
            "redis.persistence", f"{seen}: a power cut loses as many events as the kernel held back",
            "redis-cli CONFIG SET appendfsync everysec, and the same in redis.conf",
        )  # fmt: skip
    elif save:
        yield note(
            "redis.persistence", f"{seen}: snapshots beside the file cost memory at each fork",
            'CONFIG SET save "", unless the snapshots are your backup',
        )  # fmt: skip
    elif fsync == "always":
        yield note(
            "redis.persistence", f"{seen}: each write waits for the disk", "everysec is enough: recovery has the rest"
        )
    else:
        yield ok("redis.persistence", seen)


def _config(servers: FeedServers, *names: str) -> dict[str, str]:
    """Values of the server's configuration; empty if this user may not see it, or the service does not offer it."""
    asked: Any = servers.redis
    found: dict[str, str] = {}
    try:
        for name in names:  # Several at once need Redis 7.
            found.update(asked.config_get(name))
    except redis.ResponseError:
        return {}
    return found
