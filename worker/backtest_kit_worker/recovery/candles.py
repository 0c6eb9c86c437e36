"""Rows of a series have no event each: one `batch` event covers the rows of one append."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

from pymongo.collection import Collection

from backtest_kit_mongo.candles.intervals import ALONE, find_grid
from backtest_kit_mongo.coherence.effects import Publish, Published
from backtest_kit_mongo.coherence.keys import escaped
from backtest_kit_mongo.coherence.record import Domain, Key, Part
from backtest_kit_mongo.coherence.series import Appended, append
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_worker.recovery.changes import LoggedChange, decode, recorded_key

Series: TypeAlias = tuple[Domain, tuple[Part, ...]]
Append: TypeAlias = tuple[Series, Any]
"""What the rows of one append share: the series, and the writer's time of creation."""
SERIES_MAX: Final = 1_000
RANGES_MAX: Final = 64
"""Series that are remembered, and recent ranges of each."""


class Coverage:
    """Which rows have a recorded batch."""

    def __init__(self, records: Collection[dict[str, Any]]) -> None:
        self._records = records
        self._recent: OrderedDict[Series, list[tuple[int, int]]] = OrderedDict()

    def uncovered(self, keys: Iterable[Key], *, thorough: bool) -> set[Key]:
        """Keys of rows that no recorded batch covers.

        Batches that begin with one of the rows are found by their identity. A batch that began elsewhere is found only
        if it was met lately or if the search is `thorough`: all batches of the series.
        """
        times: dict[Series, list[int]] = {}
        for key in keys:
            times.setdefault((key.domain, key.parts[:-1]), []).append(int(key.item))
        left = {series: self._subtract(series, sorted(set(moments))) for series, moments in times.items()}
        self._meet([_identity(series, moment) for series, moments in left.items() for moment in moments])
        missing: set[Key] = set()
        for series, moments in left.items():
            remaining = self._subtract(series, moments)
            if thorough and remaining:
                remaining = self._search(series, remaining)
            missing |= {Key(series[0], (*series[1], moment)) for moment in remaining}
        return missing

    def _subtract(self, series: Series, moments: list[int]) -> list[int]:
        left = list(moments)
        for first, last in self._recent.get(series, ()):
            _cut(left, first, last)
        return left

    def _meet(self, identities: Sequence[str]) -> None:
        if not identities:
            return
        query = {"_id": {"$in": list(identities)}, "operation": "batch"}
        for record in self._records.find(query, {"domain": 1, "key": 1, "payload.ranges": 1}):
            domain = BY_NAME.get(record["domain"])
            key = recorded_key(domain, record["key"]) if domain is not None else None
            if key is None:
                continue
            ranges = self._recent.setdefault((key.domain, key.parts), [])
            ranges += [(first, last) for first, last, _ in ranges_of(record)]
            del ranges[:-RANGES_MAX]
            self._recent.move_to_end((key.domain, key.parts))
        while len(self._recent) > SERIES_MAX:
            self._recent.popitem(last=False)

    def _search(self, series: Series, moments: list[int]) -> list[int]:
        prefix = _identity(series, "").removesuffix("/1")
        query = {
            "_id": {"$gte": prefix, "$lt": prefix[:-1] + chr(ord(prefix[-1]) + 1)},
            "payload.ranges": {"$elemMatch": {"0": {"$lte": moments[-1]}, "1": {"$gte": moments[0]}}},
        }
        left = list(moments)
        for record in self._records.find(query, {"payload.ranges": 1}):
            for first, last, _ in ranges_of(record):
                _cut(left, first, last)
        return left


def ranges_of(record: Mapping[str, Any]) -> Iterator[tuple[int, int, int]]:
    """(first, last, count) of a batch's ranges. What is none covers nothing."""
    payload = record.get("payload")
    ranges = payload.get("ranges") if isinstance(payload, dict) else None
    for each in ranges if isinstance(ranges, list) else ():
        if isinstance(each, list) and len(each) == 3 and all(isinstance(moment, int) for moment in each):
            yield int(each[0]), int(each[1]), int(each[2])


def _identity(series: Series, first: Part) -> str:
    """Identity of the batch that begins with this row."""
    return f"{series[0].name}/{escaped((*series[1], first))}/1"


def _cut(moments: list[int], first: int, last: int) -> None:
    """Take what lies in a range out of sorted times."""
    del moments[bisect_left(moments, first) : bisect_right(moments, last)]


def append_of(row: LoggedChange) -> Append | None:
    """The append that made a row."""
    if row.key is None:
        return None
    created = decode(row.body).get("createDate")
    return (row.domain, row.key.parts[:-1]), created if isinstance(created, datetime) else repr(created)


def batch(scope: Key, rows: Sequence[LoggedChange]) -> Published:
    """The event of an append: what the writer itself would have published for these new rows."""
    times = sorted({int(row.key.item) for row in rows if row.key is not None})
    plan = append(scope, None, find_grid(str(scope.parts[-1])) or ALONE)
    next(plan)
    effect = plan.send(Appended(tuple(times)))
    assert isinstance(effect, Publish)  # What an append asks for after its rows are stored.
    plan.close()
    return effect.published[0]
