"""The order in which a deployment is looked at, and what becomes of an area that cannot be looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import redis

from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.operate.doctor import (
    agreement,
    between_hosts,
    cache,
    clocks,
    feed_state,
    hops,
    identity,
    indexes,
    mongo,
    oplog,
    redis_server,
    rights,
)
from backtest_kit_mongo.operate.doctor.findings import Finding, Level, error, is_unauthorized, note, said

Area = Callable[[FeedServers], Iterator[Finding]]
SETTINGS: Final[tuple[Area, ...]] = (agreement.near_cache,)
MONGO: Final[tuple[Area, ...]] = (
    mongo.write_concern, mongo.replica_set, between_hosts.members, between_hosts.mongo_plain_text,
    identity.foreign_reads, identity.settings, agreement.peers,
    indexes.indexes, oplog.recovery, feed_state.parked, feed_state.workers, feed_state.foreign,
    clocks.mongo_clock, hops.pings,
)  # fmt: skip
REDIS: Final[tuple[Area, ...]] = (
    redis_server.memory, redis_server.persistence, redis_server.replication, between_hosts.redis_plain_text,
    rights.rights, feed_state.streams,
    feed_state.consuming,
    identity.era, agreement.partitions, agreement.leases, clocks.redis_clock, hops.redis_pings, hops.warm_read,
)  # fmt: skip
"""Each needs its server only, so what is wrong with one does not hide what is wrong with the other."""
BOTH: Final[tuple[Area, ...]] = (cache.entries,)


def examine(servers: FeedServers, *, write: bool) -> Iterator[Finding]:
    """Look at everything, one area after the other. Reads only, except that with `write` a scratch collection is
    written and dropped.
    """
    for area in SETTINGS:
        yield from area(servers)
    reached = True
    for reach, areas in (
        (mongo.reach, (*MONGO, *((hops.durable_write,) if write else ()))),
        (redis_server.reach, REDIS),
    ):
        found = list(_looked(reach, servers))
        yield from found
        if found[0].level is Level.ERROR:
            reached = False
            continue
        for area in areas:
            yield from _looked(area, servers)
    for area in BOTH if reached else ():
        yield from _looked(area, servers)


def _looked(area: Area, servers: FeedServers) -> Iterator[Finding]:
    """An area's findings. One that fails is a finding itself, and the others are looked at all the same.

    It may fail with any error: a server that is failing answers with what no area expects (a status without its
    fields).
    """
    what = f"{area.__module__.rpartition('.')[2]}.{area.__name__}".replace("_", "-")
    try:
        yield from area(servers)
    except Exception as cause:
        if is_unauthorized(cause) or isinstance(cause, redis.exceptions.NoPermissionError):
            yield note(what, f"not looked at: this user may not ask ({said(cause)})", "run it as a user who may")
        else:
            seen = f"could not be looked at: {type(cause).__name__}: {said(cause)}"
            yield error(what, seen, "look at the server's log, then run this again")
