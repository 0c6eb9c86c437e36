"""What a store does for candles: rows of a series are inserted once, and read as ranges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from backtest_kit_mongo.candles import plans as series_plans
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence import series
from backtest_kit_mongo.coherence.record import Domain, Key
from backtest_kit_mongo.drivers.counts import FAILED_READ, LIST, Counts
from backtest_kit_mongo.drivers.drive import Perform, Performers, drive
from backtest_kit_mongo.drivers.scopes import current
from backtest_kit_mongo.ports import Truth

if TYPE_CHECKING:
    from backtest_kit_mongo.candles.columns import Columns
    from backtest_kit_mongo.candles.intervals import Grid

R = TypeVar("R")


def series_handlers(truth: Truth) -> Mapping[type[fx.Effect[Any]], Perform]:
    """Who performs the effects of series."""
    return {
        series.Append: truth.append,
        series.KeepConflicts: truth.keep_conflicts,
        # Late: the columnar way needs NumPy, which only those who read candles should wait for.
        series_plans.FindBlocks: lambda effect: truth.series.find_blocks(effect),
        series_plans.FindRows: lambda effect: truth.series.find_rows(effect),
    }


class SeriesVerbs:
    """A part of `Store`, which has these attributes and methods."""

    truth: Truth
    counts: Counts
    open: Callable[[], None]
    performers: Callable[[Domain], Performers]
    _run: Callable[..., Any]

    def append(self, scope: Key, rows: Columns, grid: Grid) -> series.Appended:
        """Insert rows of a series; tells the times that were new and the rows that are stored with other values."""
        if (block := current.get()) is not None:
            return block.append(self, scope, rows, grid)  # type: ignore[no-any-return]
        appended: series.Appended = self._run(series.append(scope, rows, grid), self.counts.writes[scope.domain])
        self.counts.appended(len(rows), appended)
        return appended

    def now_ms(self) -> int:
        """The truth's clock; this host's may be wrong."""
        self.open()
        return self.truth.now_ms()

    def window(self, scope: Key, since: int, until: int) -> list[dict[str, Any]]:
        """Rows of a series with since <= timestamp < until, row by row."""
        return self._listing(scope.domain, lambda: self.truth.window(scope, since, until))

    def columns(self, scope: Key, grid: Grid, since: int, until: int) -> Columns:
        """The same, column by column."""
        return self._listing(
            scope.domain, lambda: drive(series_plans.read(scope, grid, since, until), self.performers(scope.domain))
        )

    def _listing(self, domain: Domain, look: Callable[[], R]) -> R:
        outcome = FAILED_READ
        since_s = perf_counter()
        try:
            self.open()
            answer = look()
            outcome = LIST
            return answer
        finally:
            self.counts.reads[domain].add(outcome, perf_counter() - since_s)
