"""To whom Redis belongs: settings in force, a database that went back, restores that nobody has recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pymongo.errors import PyMongoError

from backtest_kit_mongo.backends.mongo.concerns import has_one_member, is_replicated
from backtest_kit_mongo.backends.mongo.identity import IDENTITY
from backtest_kit_mongo.coherence.eras import parse_held
from backtest_kit_mongo.coherence.keys import era_name, partition_names
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.operate.doctor.findings import Finding, error, note, ok, warning
from backtest_kit_mongo.stored import CACHE_IDENTITY as COLLECTION

_RESTORED: Final = "read RUNBOOK.md, `Restoring a backup`; a worker records it in the audit log"


def foreign_reads(servers: FeedServers) -> Iterator[Finding]:
    """What reads see of whoever else writes in cache mode `id`."""
    if servers.settings.cache_mode != "id":
        return
    name, hello = "mongo.foreign-writes", servers.database.client.admin.command("hello")
    if not is_replicated(hello) or has_one_member(hello):
        yield ok(name, "cache mode `id`, one member: reads see every write that this primary has, also of w:1")
        return
    yield note(
        name,
        "cache mode `id`, several members: single documents are read linearizably; lists and candles as the primary "
        "has them, so in the seconds of a failover they may be old, and what others write with w:1 may be rolled back",
        "let other writers use w:majority, too",
    )  # fmt: skip


def settings(servers: FeedServers) -> Iterator[Finding]:
    """Whether this host's settings are those in force."""
    found = servers.database[COLLECTION].find_one({"_id": IDENTITY}) or {}
    if not found:
        yield note("identity.settings", "no store was opened on this database yet")
        return
    chosen = servers.settings
    mine = {"CC_PARTITIONS": chosen.partitions, "CC_CACHE_MODE": chosen.cache_mode}
    force = {"CC_PARTITIONS": found["partitions"], "CC_CACHE_MODE": found["mode"]}
    differing = [
        f"{name} is {mine[name]} here and {force[name]} in force" for name in mine if mine[name] != force[name]
    ]
    if differing:
        yield error(
            "identity.settings", "; ".join(differing),
            ("whoever is started last decides, and the others follow without their cache's full use: give every host "
                "the same"),
        )  # fmt: skip
    else:
        yield ok("identity.settings", ", ".join(f"{name} {value}" for name, value in mine.items()))
    for restored in found.get("restores", ()):
        if not restored.get("recorded"):
            yield warning(
                "identity.restore", f"the database went back on {restored['at']:%Y-%m-%d %H:%M:%S} UTC "
                f"({restored['why']}); no worker "
                "has recorded it", _RESTORED,
            )  # fmt: skip


def era(servers: FeedServers) -> Iterator[Finding]:
    """Whether the database is still where Redis remembers it."""
    try:
        found = servers.database[COLLECTION].find_one({"_id": IDENTITY}) or {}
    except PyMongoError:
        return  # Said where MongoDB was looked at.
    counts = {one["era"]: int(one["count"]) for one in found.get("eras", ())}
    asked: Any = servers.redis
    behind = 0
    for partition in range(servers.settings.partitions):
        born, _ = partition_names(servers.settings.database, partition)
        held = parse_held(asked.get(era_name(born, str(found.get("deployment", "")))))
        behind += bool(held.era) and counts.get(held.era, 0) < held.noted_count
    if behind:
        yield error(
            "identity.era", f"MongoDB is behind what {behind} partitions of Redis remember: it was set back, or what "
            "is cached is of "
            "another database", ("start any strategy or worker: it begins another era, and nothing old is served; "
                f"then {_RESTORED}"),
        )  # fmt: skip
    else:
        yield ok("identity.era", f"MongoDB is where Redis remembers it ({len(counts)} in force)")
