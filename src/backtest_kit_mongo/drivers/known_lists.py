"""What a store remembers of lists: the rows as it last saw them stored, so that only those that differ are written."""

from __future__ import annotations

from itertools import islice
from typing import Final

from backtest_kit_mongo import locks
from backtest_kit_mongo.coherence.lists import KnownRows, Merged
from backtest_kit_mongo.coherence.record import Change, Key
from backtest_kit_mongo.coherence.showing import shown

logger = locks.logger(__name__)

REPORTED_MAX: Final = 10_000
"""Dropped rows that a store remembers having named."""
REMEMBERED_MAX: Final = 100_000
"""Rows of one list that a store knows the stored digests of: some 30 MB. The others are asked for."""


class KnownLists(dict[Key, KnownRows | None]):
    """By scope. A snapshot that a plan goes on from is nobody else's (`KnownRows`)."""

    def __init__(self) -> None:
        super().__init__()
        self._reported: set[tuple[Key, bytes]] = set()

    def keep(self, scope: Key, merged: Merged) -> int:
        """Remember what a write has found and made, and name the rows that it dropped; returns how many it wrote."""
        snapshot = merged.extends
        if snapshot is None:
            snapshot = merged.snapshot
        else:
            snapshot.rows.update(merged.seen)
            snapshot.stamp = merged.stamp
        if snapshot is not None:
            for item in list(islice(snapshot.rows, max(0, len(snapshot.rows) - REMEMBERED_MAX))):
                del snapshot.rows[item]
        self[scope] = snapshot
        for change in merged.dropped:
            self._report_dropped(change)
        return merged.written

    def _report_dropped(self, change: Change) -> None:
        """Once for each: callers write their whole list again and again."""
        reported = (change.key, change.body)
        if reported in self._reported:
            return
        if len(self._reported) >= REPORTED_MAX:
            self._reported.clear()
        self._reported.add(reported)
        logger.warning(
            "%s: another row is stored under this id, and the first stays: NOT stored is %s. Two writers that count "
            "from the same number? Give each its own prefix",
            change.key, shown(repr(change.whole().payload)),
        )  # fmt: skip
