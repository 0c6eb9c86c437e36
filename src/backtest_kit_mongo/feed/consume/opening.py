"""`consume` and `forget`: the wiring of the consumer's side of the feed."""

from __future__ import annotations

import difflib
import os
import secrets
import socket
from collections.abc import Iterable
from datetime import datetime

import redis

from backtest_kit_mongo.backends.redis.link import UNREACHABLE
from backtest_kit_mongo.coherence.moments import moment_ms
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_mongo.errors import InvalidSetting, ReadFailed, ServerUnreachable
from backtest_kit_mongo.feed.consume.audit_log import AuditLog
from backtest_kit_mongo.feed.consume.change_feed import ChangeFeed, FeedOptions
from backtest_kit_mongo.feed.consume.groups import Group
from backtest_kit_mongo.feed.consume.membership import Membership, Start
from backtest_kit_mongo.feed.consume.progress import Progress
from backtest_kit_mongo.feed.consume.replay import Replay
from backtest_kit_mongo.reachability import WAYS_OUT
from backtest_kit_mongo.servers import Servers
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.setup import get_config, resolve

NAME_MAX = 200


def consume(
    group: str,
    domains: str | Iterable[str] | None = None,
    *,
    start: Start = "new",
    timeout_s: float | None = None,
    until_idle: bool = False,
    settings: Settings | None = None,
    consumer: str | None = None,
    claim_idle_ms: int = 30_000,
    batch_max: int = 100,
    block_ms: int = 500,
    window: int = 100_000,
    unacknowledged_max: int = 10_000,
) -> ChangeFeed:
    """Open the change feed for a named group of consumers.

        with consume("risk-desk", ["signal", "risk"], start="beginning") as feed:
            for event in feed:
                handle(event.key, event.payload)
                event.ack()

    Every group gets every change; the processes of one group share them (give them all the same domains). An event
    that was not acknowledged comes again: at once when its feed is closed, otherwise after `claim_idle_ms`, to any
    process of the group. A change that Redis delivers twice within the last `window` changes is handed out once; beyond
    that, after a restart and after a FLUSHALL, delivery is at least once. Changes of one document may arrive out of
    order: compare `event.rev`.

    A group remembers its place, in Redis and in the collection `feed-groups`; while it exists, entries that it has not
    acknowledged are not trimmed, so `forget` one that is no longer used.

    Args:
        domains: domain names (`bkm domains` lists them); None: all.
        start: where a new group begins: "new", "beginning", or a datetime with a zone that is compared with
            `event.written_at`. What the stream no longer holds is read from the worker's audit log first. An existing
            group goes on where it was.
        timeout_s: end the iteration after so long; iterating again goes on.
        until_idle: end the iteration when nothing is left to deliver.
        settings: default: those of `setup()`, or of the CC_ variables.
        consumer: a name that is this process's own and the same after a restart, so that it gets what it left at once
            even after SIGKILL. Default: a new one.
        claim_idle_ms: also how long one event may take before another process gets it, too.
        batch_max: events fetched at once.
        block_ms: how long one read waits; also how long `close` may take.
        window: changes remembered to recognise a second delivery; not less than `unacknowledged_max`.
        unacknowledged_max: events that may be open at once.

    Raises:
        InvalidSetting: an argument is wrong; nothing was connected.
        ServerUnreachable: a server cannot be reached; nothing was consumed.
        ReadFailed, WriteRefused: a server refuses; nothing was consumed.
    """
    _require(
        0 < len(group) <= NAME_MAX and group.isprintable(), f"group must have 1 to {NAME_MAX} printable characters"
    )
    numbers = {
        "claim_idle_ms": claim_idle_ms, "batch_max": batch_max, "block_ms": block_ms,
        "unacknowledged_max": unacknowledged_max,
    }  # fmt: skip
    for name, number in numbers.items():
        _require(number >= 1, f"{name} must be at least 1, not {number}")
    _require(
        window >= unacknowledged_max,
        f"window ({window}) must not be less than unacknowledged_max ({unacknowledged_max})",
    )
    chosen, begin = _domains(domains), _start(start)
    found = resolve(settings or get_config())
    options = FeedOptions(
        timeout_s, until_idle, claim_idle_ms, batch_max, block_ms, window, unacknowledged_max,
    )  # fmt: skip
    feed = _connect(group, chosen, begin, found, consumer, options)
    try:
        feed.open()
    except UNREACHABLE as cause:
        feed.close()
        raise ServerUnreachable(
            f"Redis at {found.redis_address} did not answer: {cause}. Nothing was consumed. {WAYS_OUT}"
        ) from cause
    except redis.RedisError as cause:
        feed.close()
        raise ReadFailed(f"Redis at {found.redis_address} refused: {cause}. Nothing was consumed.") from cause
    except BaseException:
        feed.close()
        raise
    return feed


def _connect(
    name: str,
    domains: frozenset[str] | None,
    start: Start,
    settings: Settings,
    consumer: str | None,
    options: FeedOptions,
) -> ChangeFeed:
    unique = consumer or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    servers = _servers(settings, options.block_ms)
    database = servers.database
    group = Group(servers.redis, servers.streams, name, unique)
    # Its own even where the consumer's name is not: a process that was replaced must not go on replaying.
    progress = Progress(database, name, f"{unique} {secrets.token_hex(8)}", settings.mongo_bound_ms)
    log = AuditLog(database, settings.partitions, domains)
    replay = Replay(progress, log, group, options.claim_idle_ms)
    membership = Membership(name, group, progress, start, domains)
    return ChangeFeed(membership, group, log, replay, servers.mongo, options, named=consumer is not None)


def _servers(settings: Settings, block_ms: int) -> Servers:
    bound_ms = min(settings.mongo_bound_ms, 5_000)
    return Servers(settings, "backtest-kit-mongo feed", find_ms=bound_ms, block_ms=block_ms)


def forget(group: str, *, settings: Settings | None = None) -> bool:
    """Remove a group for good, with its place; False if there was none. A feed of the name begins anew.

    A group that nobody consumes any more keeps the stream from being trimmed.

    Raises:
        ServerUnreachable: a server cannot be reached; call it again.
    """
    found = resolve(settings or get_config())
    servers = _servers(found, block_ms=0)
    try:
        # Redis first: cut off in between, the group is found again and not half there.
        count = Group(servers.redis, servers.streams, group, "").destroy()
        return Progress(servers.database, group, "", found.mongo_bound_ms).forget() or count > 0
    except UNREACHABLE as cause:
        raise ServerUnreachable(
            f"Redis at {found.redis_address} did not answer: {cause}. Call it again. {WAYS_OUT}"
        ) from cause
    finally:
        servers.close()


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise InvalidSetting(otherwise)


def _domains(chosen: str | Iterable[str] | None) -> frozenset[str] | None:
    if chosen is None:
        return None
    found = frozenset((chosen,) if isinstance(chosen, str) else chosen)
    _require(bool(found), "no domain is chosen; None means all")
    for name in sorted(found - set(BY_NAME)):
        close = difflib.get_close_matches(name, BY_NAME, n=1)
        raise InvalidSetting(
            f"unknown domain {name!r}{f'; did you mean {close[0]}?' if close else ''}; known: "
            f"{', '.join(sorted(BY_NAME))}"
        )
    return found


def _start(start: Start) -> Start:
    if isinstance(start, datetime):
        moment_ms(start, "start")
        return start
    _require(
        start in ("new", "beginning"), f'start must be "new", "beginning" or a datetime with a zone, not {start!r}'
    )
    return start
