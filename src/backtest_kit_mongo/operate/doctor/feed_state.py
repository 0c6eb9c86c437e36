"""The change feed: whether its groups keep up, whether somebody serves them, what is parked, which workers are seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from backtest_kit_mongo.feed.dead_letters import count_open
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.feed.positions import GroupPosition, StreamPosition, look
from backtest_kit_mongo.feed.trimming import AUDIT_GROUP
from backtest_kit_mongo.feed.troubles import FOREIGN_WRITES, troubles
from backtest_kit_mongo.feed.workers import Consumer, consumers, service_leases
from backtest_kit_mongo.operate.doctor.findings import Finding, duration, note, ok, warning
from backtest_kit_mongo.stored import WORKER_TROUBLES as NOTES

LAG_MS: Final = 60_000
"""As the worker's own health check judges it, unless it is set otherwise."""
SEEN_MS: Final = 60_000
NAMED_MAX: Final = 5


def streams(servers: FeedServers) -> Iterator[Finding]:
    """Groups of the feed's streams."""
    positions = _positions(servers)
    if not positions:
        yield note("feed.stream", "no stream: nothing was written yet, or Redis was flushed")
        return
    length = sum(position.length for position in positions)
    yield ok("feed.stream", f"{length} entries in {len(positions)} of {len(servers.streams)} streams")
    groups = [group for position in positions for group in position.groups]
    for name in sorted({group.name for group in groups}):
        yield judge_group(name, [group for group in groups if group.name == name])
    if length and all(group.name != AUDIT_GROUP for group in groups):
        yield warning(
            "feed.audit", ("nobody records the changes: there is no group of the audit role, so the feed is never "
                "trimmed"),
            "start a worker with the role audit",
        )  # fmt: skip


def _positions(servers: FeedServers) -> list[StreamPosition]:
    found = (look(servers.redis, name) for name in servers.streams)
    return [position for position in found if position is not None]


def judge_group(name: str, positions: Sequence[GroupPosition]) -> Finding:
    """How one group stands over all streams."""
    owed_count = sum(each.owed_count for each in positions)
    lag_ms = max(each.lag_ms for each in positions)
    pending_count = sum(each.pending_count for each in positions)
    seen = f"{name}: {owed_count} entries not acknowledged ({pending_count} pending), the oldest {duration(lag_ms)} old"
    if any(each.is_abandoned for each in positions):
        return warning(
            "feed.abandoned", f"{seen}; nobody serves it, so the feed grows",
            f"start its consumer again, or give it up with `bkm stream drop-group {name}`",
        )  # fmt: skip
    if lag_ms > LAG_MS:
        return warning(
            "feed.lag",
            seen,
            "look at its consumers' logs; add workers (--scale worker=3) if they are busy, not failing",
        )
    return ok("feed.group", seen if owed_count else f"{name}: up to date")


def parked(servers: FeedServers) -> Iterator[Finding]:
    """Entries that no worker could apply."""
    found = count_open(servers.database)
    for role, count in sorted(found.items()):
        yield warning(
            "feed.parked", f"{count} dead letters for {role}",
            "`bkm park list` shows the causes; `bkm park replay --all` once they are cured",
        )  # fmt: skip
    if not found:
        yield ok("feed.parked", "nothing")


def foreign(servers: FeedServers) -> Iterator[Finding]:
    """Changes past this package: no event reports them, so what is made from events lacks them."""
    found = servers.database[NOTES].find_one({"_id": FOREIGN_WRITES})
    if found is None:
        yield ok("feed.foreign", "no change by another program was seen")
        return
    yield note(
        "feed.foreign", (f"{found['count']} changes by other programs, the last {found['at']:%Y-%m-%d %H:%M:%S} UTC "
            f"({found['examples'][-1]})"),
        ("replicas and `consume` do not see them: `backtest-kit-worker replica compare` and `rebuild`; the audit log "
            "has them as `foreign`"),
    )  # fmt: skip


def workers(servers: FeedServers) -> Iterator[Finding]:
    """Which service is led by whom, and what is wrong with the work."""
    leases = service_leases(servers.database)
    held = [lease for lease in leases if lease.is_held]
    if held:
        yield ok("workers.services", "; ".join(f"{lease.service}: {lease.holder}" for lease in held))
    for trouble in troubles(servers.database):
        yield warning(trouble.name, trouble.seen, trouble.advice)
    if not leases:
        yield note("workers.services", "no worker ever led a service here", "start one: `backtest-kit-worker`")


def consuming(servers: FeedServers) -> Iterator[Finding]:
    """Consumers that asked for entries lately."""
    groups = [group for position in _positions(servers) for group in position.groups]
    known = consumers(servers.redis, groups)
    lately = [one for one in known if one.idle_ms <= SEEN_MS]
    dead = [one for one in known if one.idle_ms > SEEN_MS and one.pending_count]
    seen = f"{len(lately)} of {len(known)} asked in the last minute{_named(lately)}"
    if lately:
        yield ok("workers.consumers", seen)
    else:
        # Before Redis 7.2 only an answer with entries counts as asking.
        advice = "nothing while there is nothing to read: before Redis 7.2 one that waits is not seen asking"
        yield note("workers.consumers", seen, advice if known else "")
    if dead:
        yield note(
            "workers.dead", f"{len(dead)} consumers hold entries but do not ask{_named(dead)}",
            "nothing while others serve the group: they take the entries over",
        )  # fmt: skip


def _named(some: Sequence[Consumer]) -> str:
    names = ", ".join(f"{one.name} ({' '.join(one.groups)})" for one in some[:NAMED_MAX])
    more = f" and {len(some) - NAMED_MAX} more" if len(some) > NAMED_MAX else ""
    return f": {names}{more}" if names else ""
