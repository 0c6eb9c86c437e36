"""Which signal is meant by "at 14:03": those of the live history that were there then, what happened nearest first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeGuard

from backtest_kit_mongo.audit.log import AuditLog
from backtest_kit_mongo.audit.records import readable
from backtest_kit_mongo.backends.mongo.errors import reading
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.coherence.moments import iso
from backtest_kit_mongo.domains.table import STORAGE

__all__ = ["SignalThen", "meant", "signals_at"]

MINUTE_MS: Final = 60_000
SIGNALS_MAX: Final = 20
HELD: Final = ("opened", "scheduled")
MOMENTS: Final = {"scheduledAt": "proposed", "pendingAt": "opened", "updatedAt": "last change"}
"""The last change of a signal that has ended is its end."""


class SignalThen(NamedTuple):
    """Attributes:
    row: of the history.
    minutes: from the moment's minute to that of the nearest thing that happened to it.
    """

    row: Mapping[str, Any]
    minutes: int

    @property
    def text(self) -> str:
        row = self.row
        names = ("id", "position", "symbol", "strategyName", "exchangeName", "status", "closeReason")
        words = [str(row[name]) for name in names if row.get(name)]
        times = [f"{what} {iso(row[name])}" for name, what in MOMENTS.items() if _is_time(row.get(name))]
        return f"{' '.join(words)}: {', '.join(times)}"


def signals_at(log: AuditLog, moment: int, *, symbol: str | None, strategy: str | None) -> list[SignalThen]:
    """At most 20, nearest first: proposed before the moment's minute was over, and not over before it began; give or
    take a minute.
    """
    named = {"payload.symbol": symbol, "payload.strategyName": strategy}
    begin = moment // MINUTE_MS * MINUTE_MS
    query = {
        "backtest": False,
        **{name: value for name, value in named.items() if value is not None},
        "payload.scheduledAt": {"$lt": begin + 2 * MINUTE_MS},
        "$or": [{"payload.updatedAt": {"$gte": begin - MINUTE_MS}}, {"payload.status": {"$in": [*HELD]}}],
    }
    with reading("the history of signals"):
        found = readable(log.database, collection_of(STORAGE)).find(query, {"payload": 1})
        then = (SignalThen(stored["payload"], _minutes_away(stored["payload"], begin)) for stored in found)
        return sorted(then, key=lambda one: one.minutes)[:SIGNALS_MAX]


def meant(found: list[SignalThen]) -> SignalThen | None:
    """The only one, or the only one to which something happened in that minute, or within one of it; None: it cannot be
    told.
    """
    for reach in (0, 1, float("inf")):
        near = [one for one in found if one.minutes <= reach]
        if len(near) == 1:
            return near[0]
    return None


def _minutes_away(row: Mapping[str, Any], begin: int) -> int:
    times = (row.get(name) for name in MOMENTS)
    return min((abs(int(at) // MINUTE_MS - begin // MINUTE_MS) for at in times if _is_time(at)), default=0)


def _is_time(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and value > 0
