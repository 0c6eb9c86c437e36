"""MongoDB's log and recovery's place in it: recovery can tell what was missed only as far back as the log reaches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pymongo.errors import OperationFailure

from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.operate.doctor.findings import Finding, duration, error, note, ok, said, warning
from backtest_kit_mongo.stored import RECOVERY_STATE

WINDOW_MIN_MS: Final = 24 * 3_600_000
"""For so long recovery may be stopped before what was written meanwhile can no longer be reconstructed; a day is a
person's time to react.
"""
SILENT_MS: Final = 5 * 60_000
"""Recovery saves its place every ten seconds while nothing happens."""
FULL: Final = 0.9
"""Share of its size; below it the log still grows, and how far it reaches says nothing yet."""


@dataclass(frozen=True, slots=True)
class Oplog:
    """Times are milliseconds.

    Attributes:
        window_ms: from its oldest to its newest entry.
        reaches_ms: age of its oldest entry.
        is_full: it drops an old entry for each new one.
    """

    window_ms: float
    reaches_ms: float
    is_full: bool


def recovery(servers: FeedServers) -> Iterator[Finding]:
    """Where recovery stands, whether it works, and whether the log is long enough for it."""
    try:
        oplog = _oplog(servers)
    except OperationFailure as cause:
        oplog = None
        yield note(
            "mongo.oplog", f"cannot be read: {said(cause)}", "grant `read` on the database `local` to look at it"
        )
    yield from judge(oplog, _place_age_ms(servers), is_used=_is_used(servers))


def _oplog(servers: FeedServers) -> Oplog | None:
    local = servers.database.client["local"]
    ends = [local["oplog.rs"].find_one({}, {"ts": 1}, sort=[("$natural", way)]) for way in (1, -1)]
    first, last = (None if end is None else end["ts"].time for end in ends)
    if first is None or last is None:
        return None
    size = local.command("collStats", "oplog.rs")
    now_ms = servers.database.client.admin.command("hello")["localTime"].timestamp() * 1000
    return Oplog((last - first) * 1000, now_ms - first * 1000, size["size"] >= FULL * size["maxSize"])


def _place_age_ms(servers: FeedServers) -> float | None:
    stages: list[dict[str, Any]] = [
        {"$match": {"_id": "token"}},
        {"$project": {"age": {"$subtract": ["$$NOW", "$savedAt"]}}},
    ]
    found = list(servers.database[RECOVERY_STATE].aggregate(stages))
    return None if not found or found[0]["age"] is None else float(found[0]["age"])


def _is_used(servers: FeedServers) -> bool:
    return any(name.endswith("-items") for name in servers.database.list_collection_names())


def judge(oplog: Oplog | None, place_age_ms: float | None, *, is_used: bool) -> Iterator[Finding]:
    """Findings of a log (None: unknown) and of the age of recovery's saved place (None: it has none)."""
    if place_age_ms is None:
        if is_used:
            yield warning(
                "recovery.place", "recovery never ran on this database",
                "start a worker with the role recovery: it publishes changes whose writer died",
            )  # fmt: skip
    elif oplog is not None and place_age_ms > oplog.reaches_ms:
        yield error(
            "recovery.place", (f"saved {duration(place_age_ms)} ago; MongoDB's log reaches back "
                f"{duration(oplog.reaches_ms)} only"),
            ("start a worker with the role recovery: it compares every document with the audit log, and records as "
                "gaps what is lost"),
        )  # fmt: skip
    elif place_age_ms > SILENT_MS:
        yield warning(
            "recovery.place", f"saved {duration(place_age_ms)} ago: recovery does not run, or is stuck",
            "start a worker with the role recovery, or look at its log",
        )  # fmt: skip
    else:
        yield ok("recovery.place", f"saved {duration(place_age_ms)} ago")
    if oplog is None:
        return
    if oplog.is_full and oplog.window_ms < WINDOW_MIN_MS:
        yield warning(
            "mongo.oplog", f"reaches back {duration(oplog.window_ms)}: so long may recovery be stopped",
            "enlarge it on each member: db.adminCommand({replSetResizeOplog: 1, size: <megabytes>})",
        )  # fmt: skip
    else:
        more = "" if oplog.is_full else ", and is not full yet"
        yield ok("mongo.oplog", f"reaches back {duration(oplog.window_ms)}{more}")
