"""What truths that keep rows, and no blocks, share: the columnar port, and what becomes of conflicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from backtest_kit_mongo.candles.plans import FindBlocks, FindGeneration, FindRows, PutBlock
from backtest_kit_mongo.coherence.inventory import Census, Entry, Selection, census_of
from backtest_kit_mongo.coherence.record import Domain, Key
from backtest_kit_mongo.coherence.series import Conflict, KeepConflicts

if TYPE_CHECKING:
    from backtest_kit_mongo.candles.columns import Columns
    from backtest_kit_mongo.candles.plans import Blocks

Window: TypeAlias = Callable[[Key, int, int], list[dict[str, Any]]]
"""`Truth.window`."""


class RowSeries:
    """Columns made of rows; what a block could save here is not what reading costs."""

    def __init__(self, window: Window) -> None:
        self._window = window

    def find_blocks(self, effect: FindBlocks) -> Blocks:
        return ()

    def find_rows(self, effect: FindRows) -> Columns:
        from backtest_kit_mongo.candles.columns import of_rows

        ranges = sorted((*effect.ranges, *((moment, moment + 1) for moment in effect.times)))
        found = (row for since, until in ranges for row in self._window(effect.scope, since, until))
        return of_rows([row for row in found if not effect.grid.rest(row["timestamp"])])

    def find_generation(self, effect: FindGeneration) -> int:
        return 0

    def put_block(self, effect: PutBlock) -> None:
        """Nothing is kept: `find_blocks` answers for every range that there is none."""


class RowsOnly:
    """A part of a `Truth` whose `window` is all there is to read a series from."""

    def window(self, scope: Key, since: int, until: int) -> list[dict[str, Any]]:
        raise NotImplementedError

    def browse(self, domain: Domain, chosen: Selection) -> Iterator[Entry]:
        raise NotImplementedError

    def census(self, domain: Domain, chosen: Selection) -> Census:
        return census_of(self.browse(domain, chosen))

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    @property
    def series(self) -> RowSeries:
        return RowSeries(self.window)

    def keep_conflicts(self, effect: KeepConflicts) -> tuple[Conflict, ...]:
        """Keeps nothing: conflicts are reported and logged, here that is all."""
        return ()
