"""What a strategy proposes, and the parts of a signal that is held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

Position: TypeAlias = Literal["long", "short"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A signal as `get_signal` returns it. Prices are absolute.

    Attributes:
        price_open: where to enter; None: at the market. A price that the market has already reached opens at once.
        minutes: how long the position may live; None: what the rules say (a day).
        cost: what the entry costs, in the quote currency; None: what the rules say (100).
        id: None: derived from the context and the minute.
        symbol: None: the context's; a foreign one is refused.
    """

    position: Position
    take_profit: float
    stop_loss: float
    price_open: float | None = None
    minutes: float | None = None
    cost: float | None = None
    note: str = ""
    id: str | None = None
    symbol: str | None = None


def long(
    *,
    take_profit: float,
    stop_loss: float,
    price_open: float | None = None,
    minutes: float | None = None,
    cost: float | None = None,
    note: str = "",
    id: str | None = None,  # noqa: A002 - the field's name
    symbol: str | None = None,
) -> Proposal:
    """Propose to buy. See `Proposal`."""
    return Proposal("long", take_profit, stop_loss, price_open, minutes, cost, note, id, symbol)


def short(
    *,
    take_profit: float,
    stop_loss: float,
    price_open: float | None = None,
    minutes: float | None = None,
    cost: float | None = None,
    note: str = "",
    id: str | None = None,  # noqa: A002 - the field's name
    symbol: str | None = None,
) -> Proposal:
    """Propose to sell short. See `Proposal`."""
    return Proposal("short", take_profit, stop_loss, price_open, minutes, cost, note, id, symbol)


class Entry(NamedTuple):
    """A purchase: the first one and each average buy.

    Attributes:
        cost: in the quote currency.
        at: ms.
    """

    price: float
    cost: float
    at: int


class Partial(NamedTuple):
    """A part of the position that was closed before the rest.

    Attributes:
        kind: "profit" or "loss".
        percent: of the basis that remained then.
        cost_basis: what remained before this close, in the quote currency.
        entry_count: how many entries there were then.
        at: ms.
    """

    kind: Literal["profit", "loss"]
    percent: float
    price: float
    cost_basis: float
    entry_count: int
    at: int


class Pnl(NamedTuple):
    """What a position has made at a price, with costs.

    Attributes:
        percent: of what was invested.
        cost: the same in the quote currency.
        invested: sum of the entries' costs.
        price_open, price_close: effective entry, and the price that this was reckoned at.
    """

    percent: float
    cost: float
    invested: float
    price_open: float
    price_close: float


class Extreme(NamedTuple):
    """The best or the worst moment of a position.

    Attributes:
        price: the market's, 0 as long as the signal is only scheduled.
        at: ms.
        percent: net PnL then.
    """

    price: float
    at: int
    percent: float
    cost: float = 0.0


class SignalView(NamedTuple):
    """A signal as it stood when an event reported it.

    Attributes:
        price_open, take_profit, stop_loss: in force now (after average buys and trailing).
        original_price_open, original_take_profit, original_stop_loss: as proposed.
        minutes: how long the position may live.
        cost: of the first entry.
        scheduled_at, pending_at: ms; pending_at is 0 before the position is open.
        partial_executed: percent of the basis that is closed.
    """

    id: str
    position: Position
    price_open: float
    take_profit: float
    stop_loss: float
    original_price_open: float
    original_take_profit: float
    original_stop_loss: float
    minutes: float
    cost: float
    note: str
    scheduled_at: int
    pending_at: int
    entries: tuple[Entry, ...]
    partials: tuple[Partial, ...]
    partial_executed: float
    peak: Extreme
    fall: Extreme
