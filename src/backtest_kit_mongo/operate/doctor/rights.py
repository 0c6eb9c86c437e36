"""Whether the Redis user may run what the package and the worker need.

Commands are queued in a transaction that is then discarded: Redis checks the rights of a command, its keys and its
channel when it is queued, so nothing is executed. Commands inside scripts are checked by the same rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import redis

from backtest_kit_mongo.backends.redis import npm_names
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.operate.doctor.findings import Finding, error, note, ok, warning

Command = tuple[str, ...]
PROBE: Final = "{probe}"
"""Stands for a key, stream or channel of the package."""
CLIENT: Final[tuple[Command, ...]] = (
    ("INFO", "replication"), ("TIME",), ("EVAL", "return 1", "1", PROBE), ("EVALSHA", "0" * 40, "1", PROBE),
    ("GET", PROBE), ("SET", PROBE, "v", "PX", "1"), ("DEL", PROBE), ("EXISTS", PROBE), ("INCR", PROBE),
    ("ZADD", PROBE, "1", "m"), ("ZREM", PROBE, "m"), ("ZREMRANGEBYSCORE", PROBE, "-inf", "0"),
    ("XADD", PROBE, "*", "e", "v"), ("PUBLISH", PROBE, "m"), ("SUBSCRIBE", PROBE),
)  # fmt: skip
"""What a strategy's process runs, inside scripts and outside."""
WORKER: Final[tuple[Command, ...]] = (
    ("SCAN", "0"), ("GETRANGE", PROBE, "0", "1"), ("XRANGE", PROBE, "-", "+"), ("XREVRANGE", PROBE, "+", "-"),
    ("XINFO", "STREAM", PROBE), ("XGROUP", "CREATE", PROBE, "g", "0"), ("XREADGROUP", "GROUP", "g", "c", "STREAMS",
        PROBE, ">"),
    ("XACK", PROBE, "g", "1-1"), ("XPENDING", PROBE, "g"), ("XCLAIM", PROBE, "g", "c", "0", "1-1"),
    ("XAUTOCLAIM", PROBE, "g", "c", "0", "0"), ("XTRIM", PROBE, "MINID", "0"),
    ("MEMORY", "USAGE", PROBE),
)  # fmt: skip
"""What workers, consumers of the feed and `bkm` run besides."""


def rights(servers: FeedServers) -> Iterator[Finding]:
    """What the user may not do."""
    needed = list(CLIENT)
    if servers.settings.cache_mode == "id":
        needed += [("SET", npm_names.template(domain), "v") for domain in DOMAINS if domain.cached]
    lacking = _refused(servers, needed)
    if lacking is None:
        yield note(
            "redis.rights", "this user may not run MULTI, so its other rights cannot be tried",
            "grant +multi to have them tried; nothing else needs it",
        )  # fmt: skip
        return
    if lacking:
        yield error("redis.rights", f"this user may not run {', '.join(lacking)}", _grant(servers, lacking))
    else:
        yield ok("redis.rights", "all that clients need")
    if lacking := _refused(servers, WORKER):
        yield warning(
            "redis.worker-rights", ("no worker, consumer of the feed or `bkm` may use this user: it may not run "
                f"{', '.join(lacking)}"),
            f"nothing if it is for clients alone; otherwise {_grant(servers, lacking)}",
        )  # fmt: skip


def _grant(servers: FeedServers, lacking: Sequence[str]) -> str:
    user = servers.settings.redis_user or "default"
    allowed = " ".join(f"+{name.lower()}" for name in lacking)
    return f"redis-cli ACL SETUSER {user} {allowed} '~{{bk:*' '&{{bk:*', and the same in the ACL file"


def _refused(servers: FeedServers, commands: Sequence[Command]) -> list[str] | None:
    """Names of the commands that the user may not run on the feed's names; None if that cannot be tried."""
    # In the slot and namespace of the real names, but never stored.
    probe = f"{servers.streams[0]}:doctor"
    pool = servers.redis.connection_pool
    connection: Any = pool.connection_class(**pool.connection_kwargs)
    try:
        if not _may(connection, ("MULTI",)):
            return None
        placed = [[probe if part == PROBE else part for part in command] for command in commands]
        return list(dict.fromkeys(command[0] for command in placed if not _may(connection, command)))
    finally:
        connection.disconnect()  # Which discards the transaction, too.


def _may(connection: Any, command: Sequence[str]) -> bool:
    connection.send_command(*command)
    try:
        connection.read_response()
    except redis.exceptions.NoPermissionError:
        return False
    except redis.ResponseError:
        pass  # It objects to something else, and asks for rights first.
    return True
