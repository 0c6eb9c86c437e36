"""Trimming: an entry may go when every group has acknowledged it, the audit holds it and it is old enough.

A plan says for each of these limits how far it reaches; the lowest one counts. Whoever holds the trim back can so be
named. Nothing else ever deletes from the feed.

A stream that has come to more bytes than it may have is trimmed of its oldest entries whatever their age, and without
regard to consumers' own groups (`feed:`): what they have not read they read from the audit log. The worker's roles and
the audit hold entries even then. So is one whose ids have left Redis' clock, because somebody chose an id: ids then
tell no ages, and in the end there are none left to add. When what may go is gone, the rest is appended anew, to all
groups: they know a change by its revision, so what they have done already they do not do again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import redis
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

from backtest_kit_mongo import locks
from backtest_kit_mongo.coherence.events import UnknownEvent, decode
from backtest_kit_mongo.feed import size
from backtest_kit_mongo.feed.consume.groups import PREFIX
from backtest_kit_mongo.feed.consume.handing_over import hand_over
from backtest_kit_mongo.feed.dead_letters import letter_id, whole
from backtest_kit_mongo.feed.positions import HALF_MAX, EntryId, GroupPosition, StreamPosition, look, text
from backtest_kit_mongo.feed.scripts import HEADS, RENEW
from backtest_kit_mongo.stored import AUDIT_ITEMS
from backtest_kit_mongo.stored import AUDIT_ITEMS as AUDIT_COLLECTION
from backtest_kit_mongo.stored import PARKED_ITEMS as DEAD_LETTERS

logger = locks.logger(__name__)
AUDIT_GROUP = "audit"
EXAMINED_MAX = 5_000
"""Entries compared with the audit in one plan; the next plan goes on from there."""
_PAGE = 500
_START = EntryId(0, 0)
_END = EntryId(HALF_MAX, HALF_MAX)
RENEWED_MAX = 5_000
RENEWED_BYTES_MAX = 32 * 2**20
"""What is appended anew in one step; while there is more, its groups have to work it off first."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One reason for keeping entries: all from `keep_from` on stay.

    Attributes:
        name: the group's name, or what the limit is.
        why: for people, with the remedy if something is wrong.
        needs_operator: the limit does not move by itself.
    """

    kind: Literal["group", "retention", "bytes", "audit"]
    name: str
    keep_from: EntryId
    why: str
    needs_operator: bool = False


_NOTHING: Final = Limit("retention", "nothing", _END, "the stream may go as a whole")


@dataclass(frozen=True, slots=True)
class TrimPlan:
    """What may be trimmed from one stream now.

    Attributes:
        until: entries before this may go.
        count: how many entries those are.
        more: the examination ended at its bound; more may be removable.
        passed: groups that hold nothing back, because the stream is too large.
    """

    position: StreamPosition
    limits: tuple[Limit, ...]
    until: EntryId
    count: int
    more: bool
    passed: tuple[GroupPosition, ...] = ()

    @property
    def held_by(self) -> Limit:
        """The limit that reaches least far."""
        return min(self.limits, key=lambda limit: limit.keep_from, default=_NOTHING)


def plan_trim(
    client: redis.Redis, database: Database[dict[str, Any]], stream: str, retention_ms: int, bytes_max: int = 0
) -> TrimPlan | None:
    """Find out what may be trimmed; changes nothing. None if there is no such stream.

    Args:
        bytes_max: what the stream may have in memory (see `size.py`); 0: any number.

    Raises:
        RedisError, PyMongoError: a server cannot be asked.
    """
    position = look(client, stream)
    if position is None:
        return None
    excess = size.excess(client, stream, bytes_max)
    is_hurried = excess or position.is_ahead
    passed = tuple(group for group in position.groups if is_hurried and group.name.startswith(PREFIX))
    limits = [_group_limit(group) for group in position.groups if group not in passed]
    if all(group.name != AUDIT_GROUP for group in position.groups):
        limits.append(
            Limit("group", AUDIT_GROUP, _START, "the audit group does not exist: start a worker with role audit", True)
        )
    if not is_hurried:
        limits.append(_retention_limit(position, retention_ms))
    candidate = min((limit.keep_from for limit in limits), default=position.last.next)
    count, more = 0, False
    if position.first is not None and position.first < candidate:
        count, ended, more = _examine(client, database, stream, candidate, excess)
        limits += [ended] if ended else []
    until = min((limit.keep_from for limit in limits), default=candidate)
    return TrimPlan(position, tuple(limits), until, count, more, passed)


def trim(client: redis.Redis, database: Database[dict[str, Any]], plan: TrimPlan) -> int:
    """Remove what the plan allows; returns how many entries went. Carrying it out later, or twice, is harmless: the
    limits only ever move forward.

    Raises:
        RedisError, EnvironmentFault: a server failed; nothing went.
    """
    removed = 0
    if plan.count:
        for group in plan.passed:
            hand_over(client, database, group, plan.until)
        removed = cut(client, plan.position.stream, plan.until)
    if plan.position.is_ahead:
        renew(client, plan.position)
    return removed


def cut(client: redis.Redis, stream: str, until: EntryId) -> int:
    """Remove the entries before an id; returns how many went.

    Raises:
        RedisError: nothing went.
    """
    asked: Any = client
    if not until.is_possible:
        return int(asked.xtrim(stream, maxlen=0, approximate=False))
    return int(asked.xtrim(stream, minid=str(until), approximate=False))


def renew(client: redis.Redis, position: StreamPosition) -> bool:
    """Give a stream ids of Redis' clock again. False: it holds too much as yet.

    Raises:
        RedisError: nothing was done.
    """
    asked: Any = client
    count = int(asked.eval(RENEW, 1, position.stream, RENEWED_MAX, RENEWED_BYTES_MAX))
    ahead = (
        f"{position.stream}: somebody has appended an entry with an id of his own, {position.last}, far ahead of "
        "Redis' clock"
    )
    if count < 0:
        logger.error("%s. The stream is made anew when its groups have worked off more of it", ahead)
        return False
    logger.error("%s. The stream was made anew; %d entries were appended again, with ids of now", ahead, count)
    return True


def _group_limit(group: GroupPosition) -> Limit:
    why = f"{group.owed_count} entries not acknowledged" if group.owed_count else "has acknowledged everything"
    if group.is_abandoned:
        since = "it has no consumers" if group.idle_ms is None else f"nobody asked for {group.idle_ms // 60_000} min"
        why += f"; {since}: start its consumer again, or give it up with `bkm stream drop-group {group.name}`"
    return Limit("group", group.name, group.needed, why, group.is_abandoned)


def _retention_limit(position: StreamPosition, retention_ms: int) -> Limit:
    before = EntryId(max(0, position.now_ms - retention_ms), 0)
    return Limit(
        "retention", "retention", before, f"entries stay for {retention_ms / 60_000:g} min (CC_STREAM_RETENTION_MS)"
    )


def _examine(
    client: redis.Redis, database: Database[dict[str, Any]], stream: str, candidate: EntryId, excess: int
) -> tuple[int, Limit | None, bool]:
    """Compare entries before `candidate` with the audit: how many are held, what ends them, whether a bound did. With
    `excess`, no more than have so many bytes.
    """
    count = held = 0
    for page, sizes in _pages(client, stream, candidate):
        missing = _first_missing(database, stream, page)
        if missing is not None:
            count += sum(entry < missing for entry, _ in page)
            why = (
                f"entry {missing} is acknowledged but has no audit record (was audit-items restored from a backup?). "
                "Let the audit read "
                f"it again: redis-cli XGROUP SETID '{stream}' {AUDIT_GROUP} 0. Records that exist are not changed by "
                "that"
            )
            return count, Limit("audit", AUDIT_ITEMS, missing, why, True), False
        count += len(page)
        held += sum(sizes)
        if excess and held >= excess:
            why = (
                "the stream has more bytes than it may (CC_STREAM_MAX_BYTES): its oldest entries go whatever their age"
            )
            return count, Limit("bytes", "bytes", page[-1][0].next, why), False
        if count >= EXAMINED_MAX:
            stop = page[-1][0].next
            return count, Limit("audit", AUDIT_ITEMS, stop, f"examined {count} entries, more next time"), True
    return count, None, False


_Page: TypeAlias = Sequence[tuple[EntryId, bytes]]
"""Ids and headers."""


def _pages(client: redis.Redis, stream: str, candidate: EntryId) -> Iterator[tuple[_Page, Sequence[int]]]:
    """Entries before `candidate`, and the bytes of each."""
    asked: Any = client
    start, end = "-", f"({candidate}" if candidate.is_possible else "+"
    while True:
        found = asked.eval(HEADS, 1, stream, start, end, _PAGE)
        if not found:
            return
        yield [(EntryId.parse(entry), head) for entry, head, _ in found], [held for _, _, held in found]
        start = f"({text(found[-1][0])}"


def _first_missing(database: Database[dict[str, Any]], stream: str, page: _Page) -> EntryId | None:
    """The first entry of which neither the audit nor parking holds anything."""
    records = {entry: _record_id(head) for entry, head in page}
    recorded = _present(database, AUDIT_COLLECTION, [name for name in records.values() if name is not None], {})
    rest = {
        entry: letter_id(stream, AUDIT_GROUP, str(entry)) for entry, name in records.items() if name not in recorded
    }
    parked = _present(database, DEAD_LETTERS, list(rest.values()), whole()) if rest else set()
    return min((entry for entry, name in rest.items() if name not in parked), default=None)


def _record_id(head: bytes) -> str | None:
    try:
        return decode({b"e": head, b"p": b""}).id
    except UnknownEvent:
        return None


def _present(
    database: Database[dict[str, Any]], collection: str, names: Sequence[str], also: Mapping[str, Any]
) -> set[str]:
    # Majority: a record that a failover could take back does not count.
    rows = database.get_collection(collection, read_concern=ReadConcern("majority"))
    return {row["_id"] for row in rows.find({"_id": {"$in": list(names)}, **also}, {"_id": 1})}
