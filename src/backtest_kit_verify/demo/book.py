"""What a host is called, and what it remembers between two bars."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

__all__ = ["BACKTEST", "FRAME", "Book", "Event", "Host", "Row"]

Row = dict[str, Any]

BACKTEST = True
FRAME = "replay"


@dataclass(frozen=True, slots=True)
class Host:
    """One process: a strategy variant on a symbol, in one run of the demo.

    Every stored document of a run has a text key column that starts with `{run}.`, so runs never meet in a database.
    """

    run: str
    variant: str
    symbol: str
    interval: str
    exchange: str

    @property
    def strategy(self) -> str:
        return f"{self.run}.{self.variant}"

    @property
    def account(self) -> str:
        """Unique to this host: its risk profile, and the beginning of its signal ids."""
        return f"{self.run}.{self.variant}.{self.symbol}"

    @property
    def label(self) -> str:
        return f"{self.symbol} {self.variant}"


@dataclass(frozen=True, slots=True)
class Book:
    """All that the next decision depends on. Stored in the State domain after each bar, as the last write of the step.

    Attributes:
        bars: bars replayed, which is also the index of the next one.
        since_bar: the bar on which the open signal was scheduled or filled.
        scheduled, position: the open signal row while it waits for its entry price, and after.
        pnl_percent: sum of the results of closed trades.
    """

    bars: int = 0
    fast_ema: float = 0.0
    slow_ema: float = 0.0
    signals: int = 0
    since_bar: int = 0
    trades: int = 0
    wins: int = 0
    pnl_percent: float = 0.0
    scheduled: Row | None = None
    position: Row | None = None

    def data(self) -> Row:
        return asdict(self)

    @classmethod
    def of(cls, data: Row | None) -> Self:
        return cls(**data) if data else cls()


class Event(NamedTuple):
    """Something that happened to a signal on a bar.

    Attributes:
        kind: scheduled, cancelled, opened, partial, breakeven or closed.
        row: the signal row after it.
        price: at which it happened.
        time_ms: open time of the bar.
        reason: of a cancellation or a close.
    """

    kind: str
    row: Row
    price: float
    time_ms: int
    reason: str = ""
