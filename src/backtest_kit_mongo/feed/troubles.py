"""Work that stands still or went wrong, as both servers show it: one look for `bkm doctor`, for the worker's own
`check`, and for whoever asks. Each question is bounded, so that a health check may ask it every few seconds.

What only a running worker sees (altered audit records, forged events, revisions that are no numbers) it notes in
`worker-troubles`, one document a kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from bson import ObjectId
from pymongo.database import Database

from backtest_kit_mongo.audit.records import IDENTITY, KEYS
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.feed.workers import service_leases
from backtest_kit_mongo.stored import AUDIT_HEADS as HEADS
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS
from backtest_kit_mongo.stored import AUDIT_PENDING as PENDING
from backtest_kit_mongo.stored import RECOVERY_STATE, WORKER_LEASES
from backtest_kit_mongo.stored import WORKER_TROUBLES as COLLECTION

STILL_MS: Final = 180_000
"""What has waited for so long is not on its way any more: three times what any of it may take."""
RENEWED_MS: Final = 60_000
"""A lease is renewed every few seconds by a holder that lives."""
UNLED_MS: Final = 30_000
FAILING_MS: Final = 60_000
FRESH_MS: Final = 24 * 3_600_000
"""For so long a thing that happened once is reported as a trouble."""
EXAMPLES_MAX: Final = 5

ALTERED: Final = "audit-altered"
MISMATCHED: Final = "audit-contradicted"
ODD_REVISION: Final = "odd-revision"
ODD_IDS: Final = "odd-stream-ids"
FOREIGN_WRITES: Final = "foreign-writes"
"""No trouble by itself; the doctor tells who does not see them."""
ADVICE: Final[Mapping[str, str]] = {
    ALTERED: "keep everything as it is, run `bkm audit verify --findings 100`, and inform the owner of the audit log",
    MISMATCHED: (
        "`bkm audit show KEY` has both records; find out who may append to the feed or change the audit log "
        "(ops/redis.acl)"
    ),
    ODD_IDS: (
        "the trimming worker makes such a stream anew; find out who appends to the feed with ids of their own "
        "(ops/redis.acl)"
    ),
    ODD_REVISION: (
        "set `rev` of that document to the whole number that its newest audit record has, in mongosh, as NumberLong"
    ),
}
"""What to do about what a worker noted."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong.

    Attributes:
        name: what stands still or is wrong; stable.
        seen: what is there, with its age.
        advice: what to do.
    """

    name: str
    seen: str
    advice: str


class Notes:
    """What a worker notes down."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._notes = database.get_collection(COLLECTION, write_concern=DURABLE)

    def note(self, kind: str, example: str, count: int = 1, advice: str = "") -> None:
        """Something was seen (again). `advice`: what to do, for kinds that `ADVICE` does not know.

        Raises:
            PyMongoError: it may not be noted.
        """
        self._notes.update_one(
            {"_id": kind},
            {
                "$inc": {"count": count},
                "$set": {"at": datetime.now(UTC), "advice": advice},
                "$push": {"examples": {"$each": [example[:500]], "$slice": -EXAMPLES_MAX}},
            },
            upsert=True,
        )

    def clear(self, kind: str) -> None:
        """It is not so any more."""
        self._notes.delete_one({"_id": kind})


def troubles(database: Database[dict[str, Any]]) -> Iterator[Trouble]:
    """What is wrong with the workers' work, by MongoDB.

    Raises:
        PyMongoError: MongoDB cannot be asked.
    """
    now = database.client.admin.command("hello")["localTime"]
    for look in LOOKS:
        yield from look(database, now)


def _ms(now: datetime, moment: Any) -> float:
    """How long ago something was, by clocks that are a second apart at most; 0 for what is no time."""
    if not isinstance(moment, datetime):
        return 0.0
    aware = [each if each.tzinfo else each.replace(tzinfo=UTC) for each in (now, moment)]
    return (aware[0] - aware[1]).total_seconds() * 1000


def _seconds(ms: float) -> str:
    return f"{ms / 1000:.0f} s"


def _services(database: Database[dict[str, Any]], now: datetime) -> Iterator[Trouble]:
    for lease in service_leases(database):
        name = f"service.{lease.service}"
        forget = f'db["{WORKER_LEASES}"].deleteOne({{_id: "{lease.service}"}})'
        if lease.left_ms < -UNLED_MS:
            yield Trouble(
                name, f"nobody leads {lease.service}; {lease.holder} did until {_seconds(-lease.left_ms)} ago",
                f"start a worker with it; if {lease.service} was given up, in mongosh: {forget}",
            )  # fmt: skip
        elif lease.renewed_ms_ago > RENEWED_MS:
            yield Trouble(
                name, (f"{lease.holder} holds {lease.service} and has not renewed it for "
                    f"{_seconds(lease.renewed_ms_ago)}"),
                f"it is dead, or a clock jumped; in mongosh: {forget}",
            )  # fmt: skip
        elif lease.trouble and lease.failing_ms > FAILING_MS:
            yield Trouble(
                name, f"{lease.service} has failed for {_seconds(lease.failing_ms)}: {lease.trouble}",
                f"cure that; the log of {lease.holder} has more of it",
            )  # fmt: skip


def _recovery(database: Database[dict[str, Any]], now: datetime) -> Iterator[Trouble]:
    token = database[RECOVERY_STATE].find_one({"_id": "token"}, {"savedAt": 1})
    age_ms = _ms(now, token and token.get("savedAt"))
    if age_ms > STILL_MS:
        yield Trouble(
            "recovery.stuck", (f"its place in MongoDB's log was saved {_seconds(age_ms)} ago: recovery does not run, "
                "or is stuck"),
            "start a worker with the role recovery, or look at the log of the one that leads it",
        )  # fmt: skip


def _sealing(database: Database[dict[str, Any]], now: datetime) -> Iterator[Trouble]:
    oldest = database[PENDING].find_one({}, {"_id": 1}, sort=[("_id", 1)])
    if oldest is None:
        return
    age_ms = _ms(now, oldest["_id"].generation_time) if isinstance(oldest["_id"], ObjectId) else STILL_MS + 1
    if age_ms > STILL_MS:
        yield Trouble(
            "sealing.stuck", f"records wait to be sealed, the first for {_seconds(age_ms)}",
            "start a worker with the role audit, or look at the log of the one that leads `seal`",
        )  # fmt: skip


def _holes(database: Database[dict[str, Any]], now: datetime) -> Iterator[Trouble]:
    first = database[HEADS].find_one({"waiting.since": {"$exists": True}}, {"waiting": 1}, sort=[("waiting.since", 1)])
    age_ms = _ms(now, first and first["waiting"].get("since"))
    if first is not None and age_ms > STILL_MS:
        yield Trouble(
            "audit.hole", f"{first['_id']} has records beyond revisions that nobody recorded, for {_seconds(age_ms)}",
            "`bkm audit verify` and `bkm doctor`: recovery does not run, or the record was forged",
        )  # fmt: skip


def _indexes(database: Database[dict[str, Any]], now: datetime) -> Iterator[Trouble]:
    if not database[ITEMS].find_one({}, {"_id": 1}):
        return
    have = {
        tuple(map(tuple, index["key"])): bool(index.get("unique"))
        for index in database[ITEMS].index_information().values()
    }
    lacking = [name for name, fields in (("unique", IDENTITY), ("of keys", KEYS)) if tuple(fields) not in have]
    if lacking or not have.get(tuple(IDENTITY), True):
        yield Trouble(
            "audit.indexes", (f"{ITEMS} lacks the index {' and the one '.join(lacking) or 'that is unique'}: a "
                "revision may get two records"),
            ("restart a worker with the role audit, which builds it; if it cannot, `bkm audit verify` names the "
                "doubled records"),
        )  # fmt: skip


def _notes(database: Database[dict[str, Any]], now: datetime) -> Iterator[Trouble]:
    for note in database[COLLECTION].find({"_id": {"$ne": FOREIGN_WRITES}}):
        kind, age_ms = str(note["_id"]), _ms(now, note.get("at"))
        if age_ms < FRESH_MS:
            examples = "; ".join(str(example) for example in (note.get("examples") or [])[-2:])
            yield Trouble(
                kind,
                f"{note.get('count')} times, last {_seconds(age_ms)} ago: {examples}",
                ADVICE.get(kind) or str(note.get("advice")),
            )


Look = Callable[[Database[dict[str, Any]], datetime], Iterator[Trouble]]
LOOKS: Final[tuple[Look, ...]] = (_services, _recovery, _sealing, _holes, _indexes, _notes)
