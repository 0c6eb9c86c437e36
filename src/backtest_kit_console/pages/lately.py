"""What strategies did, by time: the rows of the domain `notification`; where there are none, the history of signals.

Rows are found by when they were written, which is never before the simulated moment of which they tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from backtest_kit_console import words
from backtest_kit_console.sources import Sources
from backtest_kit_mongo.backends.mongo.decoding import TOLERANT, unreferenced
from backtest_kit_mongo.backends.mongo.layout import BY_CHANGE, collection_of, payload_field
from backtest_kit_mongo.coherence.moments import written_ms
from backtest_kit_mongo.coherence.record import Domain
from backtest_kit_mongo.domains.table import NOTIFICATION, STORAGE

__all__ = ["Event", "Wanted", "around", "moment_of", "newest"]

AROUND_MS: Final = 60 * 60_000
CLOCKS: Final = timedelta(seconds=5)
"""By so much a strategy's clock may be ahead of that of who wrote for it."""
EVENTS_MAX: Final = 50
LOOKED_AT_MAX: Final = 10_000
"""Rows that were written after the moment, in the order in which they were: what happened then is among the first."""
SEARCH_MS: Final = 2_000
FORWARD: Final = tuple((field, -way) for field, way in BY_CHANGE)
LEVELS: Final = ("partial_profit.available", "partial_loss.available", "breakeven.available")
"""Of these a position leaves many, and nothing was done at them."""
TOLD: Final = {
    "signal.opened": "opened",
    "signal.closed": "closed",
    "signal.scheduled": "waits for its price",
    "signal.cancelled": "cancelled",
    "breakeven.commit": "stop moved to the entry",
    "partial_profit.commit": "a part was closed with profit",
    "partial_loss.commit": "a part was closed with loss",
    "average_buy.commit": "bought more",
    "trailing_stop.commit": "stop moved",
    "trailing_take.commit": "target moved",
}  # fmt: skip


class Wanted(NamedTuple):
    """What is looked for; empty: all.

    Attributes:
        symbols: any of these; None: all.
        strategy: a part of its name.
    """

    is_backtest: bool = False
    symbols: Sequence[str] | None = None
    strategy: str = ""

    def query(self, domain: Domain) -> dict[str, Any]:
        field = payload_field(domain)
        found: dict[str, Any] = {"backtest": self.is_backtest}
        if self.symbols is not None:
            found[f"{field}.symbol"] = {"$in": list(self.symbols)}
        if self.strategy:
            found[f"{field}.strategyName"] = {"$regex": escaped_pattern(self.strategy), "$options": "i"}
        return found if domain is not NOTIFICATION else {**found, f"{field}.type": {"$nin": LEVELS}}


class Event(NamedTuple):
    """Something that a strategy did.

    Attributes:
        at: simulated time, ms.
        signal: id of the signal; empty if it is of none.
        told: what happened, in words.
        percent: of profit, where it tells one.
    """

    at: float
    signal: str
    told: str
    row: Mapping[str, Any]
    percent: float | None = None


def newest(sources: Sources, wanted: Wanted, count: int) -> list[Event]:
    """The last events, newest first."""
    field = payload_field(NOTIFICATION)
    kept = sources.database.get_collection(collection_of(NOTIFICATION), TOLERANT)
    found = kept.find(wanted.query(NOTIFICATION), {field: 1}).sort(list(BY_CHANGE)).limit(count)
    return [event for one in found.max_time_ms(SEARCH_MS) for event in _of_notification(unreferenced(one.get(field)))]


def around(sources: Sources, wanted: Wanted, moment_ms: float) -> list[Event]:
    """Events of an hour before to an hour after a moment, newest first; of many, those nearest to it."""
    found = list(_near(sources, wanted, moment_ms, NOTIFICATION, ("timestamp",), _of_notification))
    if not found:
        found = list(
            _near(sources, wanted, moment_ms, STORAGE, ("pendingAt", "closeTimestamp", "scheduledAt"), _of_history)
        )
    near = [event for event in found if abs(event.at - moment_ms) <= AROUND_MS]
    nearest = sorted(near, key=lambda event: abs(event.at - moment_ms))[:EVENTS_MAX]
    return sorted(nearest, key=lambda event: -event.at)


def escaped_pattern(text: str) -> str:
    """A pattern of MongoDB that means just this text."""
    return re.escape(text).replace("\0", r"\x00")


def moment_of(text: str, now_ms: float) -> int:
    """A moment as people write it; a time alone is the last one that has been.

    Raises:
        InvalidKey: it is none.
    """
    time = re.fullmatch(r"\s*([01]?\d|2[0-3]):([0-5]\d)(?::[0-5]\d)?\s*", text, re.ASCII)
    if time is None:
        return written_ms(text, "at")
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    today = now.replace(hour=int(time[1]), minute=int(time[2]), second=0, microsecond=0)
    return int((today if today <= now else today - timedelta(days=1)).timestamp()) * 1000


def _near(
    sources: Sources, wanted: Wanted, moment_ms: float, domain: Domain, times: Sequence[str], events: Any
) -> Iterator[Event]:
    field = payload_field(domain)
    first, last = moment_ms - AROUND_MS, moment_ms + AROUND_MS
    since = datetime.fromtimestamp(first / 1000, UTC) - CLOCKS
    ranges = [{f"{field}.{name}": {"$gte": first, "$lte": last}} for name in times]
    kept = sources.database.get_collection(collection_of(domain), TOLERANT)
    found = kept.aggregate(
        [
            {"$match": {**wanted.query(domain), "updatedDate": {"$gte": since}}},
            {"$sort": dict(FORWARD)},
            {"$limit": LOOKED_AT_MAX},
            {"$match": {"$or": ranges}},
            {"$project": {field: 1, "away": {"$min": [_away(f"${field}.{name}", moment_ms) for name in times]}}},
            {"$sort": {"away": 1}},
            {"$limit": EVENTS_MAX},
        ],
        maxTimeMS=SEARCH_MS,
    )
    for one in found:
        yield from events(unreferenced(one.get(field)))


def _away(path: str, moment_ms: float) -> dict[str, Any]:
    """How far a time is from the moment; null for what is none."""
    return {"$cond": [{"$isNumber": path}, {"$abs": {"$subtract": [path, moment_ms]}}, None]}


def _of_notification(row: Any) -> Iterator[Event]:
    at = words.millis_of(row.get("timestamp")) if isinstance(row, dict) else None
    if at is not None:
        kind = str(row.get("type") or "")
        told = TOLD.get(kind, kind.replace("_", " ").replace(".", ": "))
        why = row.get("closeReason") or row.get("cancelReason")
        text = f"{told}: {str(why).replace('_', ' ')}" if why else told
        percent = row.get("pnlPercentage") if kind == "signal.closed" else None
        yield Event(at, _name(row.get("signalId")), text, row, words.millis_of(percent))


def _of_history(row: Any) -> Iterator[Event]:
    if not isinstance(row, dict):
        return
    is_closed, name, pnl = row.get("status") == "closed", _name(row.get("id")), row.get("pnl")
    opened, closed = words.millis_of(row.get("pendingAt")), words.millis_of(row.get("closeTimestamp"))
    if opened is not None:
        yield Event(opened, name, "opened", row)
    if is_closed and closed is not None:
        percent = pnl.get("pnlPercentage") if isinstance(pnl, dict) else None
        why = str(row.get("closeReason") or "unknown").replace("_", " ")
        yield Event(closed, name, f"closed: {why}", row, words.millis_of(percent))


def _name(value: Any) -> str:
    return value if isinstance(value, str) else ""
