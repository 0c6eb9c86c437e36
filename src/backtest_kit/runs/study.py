"""The answer of a sweep: a table, the best, what failed, a digest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from backtest_kit.errors import DeclarationError
from backtest_kit.moments import minute_text
from backtest_kit.results import Equity, Trade, pandas
from backtest_kit.runs.ledger import Row, root_of
from backtest_kit.runs.packing import unpack_trades

__all__ = ["Study", "equity_of", "first_difference", "trades_of"]


@dataclass(frozen=True, eq=False)
class Study:
    """Attributes:
    rows: of its runs, in the order in which they were given; each with params, symbol, frame, status, stats ..
    executed: how many were run by this call; the others were answered from the store or done by somebody else.
    elapsed_s: wall time of the call.
    notes: what was filled or left out of the candles, and which runs others took over.
    """

    title: str
    rows: Sequence[Row]
    executed: int = 0
    elapsed_s: float = 0.0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def failed(self) -> list[Row]:
        """Runs that have no result; `error` says why."""
        return [row for row in self.rows if row.status == "failed"]

    @cached_property
    def digest(self) -> str:
        """One hash over ids and trades of all runs: the same for any number of workers, any executor, any order, any
        host.

        Raises:
            DeclarationError: a run has not ended.
        """
        return root_of({row.run_id: row.result for row in self.rows})

    def best(self, by: str = "pnl", count: int = 1) -> list[Row]:
        """The runs with the highest value of a statistic; those that cannot say it are left out.

        Raises:
            DeclarationError: there is no such statistic.
        """
        done = [row for row in self.rows if row.status == "done"]
        if done and by not in done[0].stats:
            raise DeclarationError(f"there is no statistic {by!r}; there are {', '.join(done[0].stats)}")
        named = [row for row in done if isinstance(row.stats.get(by), int | float)]
        return sorted(named, key=lambda row: (-row.stats[by], row.run_id))[:count]

    @property
    def param_names(self) -> list[str]:
        """Of all runs, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row.params))

    def table(self) -> Any:
        """A pandas DataFrame: a line per run with symbol, frame, parameters, status, statistics.

        Raises:
            ImportError: pandas is not installed.
        """
        lines = [
            {
                "run": row.run_id,
                "symbol": row.symbol,
                "frame": row.frame,
                **row.params,
                "status": row.status,
                **row.stats,
            }
            for row in self.rows
        ]
        return pandas().DataFrame(lines)

    def report(self, path: Any) -> None:
        """Write a page of its own: the table, a heat map of two parameters, curves of the best runs."""
        from backtest_kit.runs.page import write_page

        write_page(self, path)

    def __repr__(self) -> str:
        lost = f", {len(self.failed)} failed" if self.failed else ""
        return f"<study {self.title}: {len(self.rows)} runs{lost}, {self.executed} of them now>"


def trades_of(row: Row) -> tuple[Trade, ...]:
    """The trades of a run."""
    return unpack_trades(row.trades)


def equity_of(row: Row) -> Equity:
    """Sum of the PnL of its closed trades after each of them."""
    return Equity.of(row.start, trades_of(row))


def first_difference(first: Row, second: Row) -> str:
    """Where the trades of two runs part, in a sentence."""
    one, other = trades_of(first), trades_of(second)
    for index, (here, there) in enumerate(zip(one, other, strict=False)):
        mine, theirs = (
            (here.opened_at, here.position, here.price_open),
            (there.opened_at, there.position, there.price_open),
        )
        if mine != theirs:
            moment = minute_text(min(here.opened_at, there.opened_at))
            return f"the first {index} trades open alike; trade {index + 1} differs from {moment} on"
    if len(one) != len(other):
        return (
            f"the first {min(len(one), len(other))} trades open alike; then one has {abs(len(one) - len(other))} more"
        )
    return f"all {len(one)} trades open alike"
