"""Who may hold a position: one book of positions per risk, exchange, frame and mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from backtest_kit.effects import Candidate
from backtest_kit.errors import ENDS
from backtest_kit.identity import MINUTE_MS, ContextId
from backtest_kit.signals import Position, SignalView


class ActivePosition(NamedTuple):
    """As it was opened.

    Attributes:
        minutes: how long it may live.
        opened_at: ms.
    """

    strategy: str
    exchange: str
    frame: str
    symbol: str
    position: Position
    price_open: float
    stop_loss: float
    take_profit: float
    minutes: float
    opened_at: int


@dataclass(frozen=True, slots=True)
class RiskRequest:
    """What a validation sees.

    Attributes:
        signal: the candidate, its price_open filled in.
        price: the market's.
        at: ms.
        positions: of the other contexts of this risk, open or about to be.
    """

    risk: str
    context: ContextId
    signal: SignalView
    price: float
    at: int
    positions: tuple[ActivePosition, ...]

    @property
    def count(self) -> int:
        return len(self.positions)


Holder: TypeAlias = tuple[str, str, str]
"""Strategy, exchange and symbol of a position."""
Validation: TypeAlias = Callable[[RiskRequest], object]
"""Falsy passes; a text rejects and says why, so does a raise."""


class RiskBook:
    """The positions of one risk. Not for several threads at once."""

    def __init__(self, name: str, validations: Sequence[Validation]) -> None:
        self.name, self.validations = name, tuple(validations)
        self._open: dict[Holder, ActivePosition] = {}
        self._reserved: dict[Holder, ActivePosition] = {}

    def reserve(self, context: ContextId, candidate: Candidate) -> str | None:
        """Reserve a place, unless a validation rejects: then the answer is why."""
        key = _holder(context)
        others = {**self._reserved, **self._open}
        others.pop(key, None)
        view = candidate.signal
        request = RiskRequest(self.name, context, view, candidate.price, candidate.at, tuple(others.values()))
        for validation in self.validations:
            rejection = _rejection(validation, request)
            if rejection is not None:
                return rejection
        self._reserved[key] = _position(context, candidate)
        return None

    def hold(self, context: ContextId, candidate: Candidate, *, is_open: bool) -> None:
        """The place is taken: by an open position, which is stored, or by a signal that waits for its price."""
        key = _holder(context)
        (self._open if is_open else self._reserved)[key] = _position(context, candidate)
        if is_open:
            self._reserved.pop(key, None)

    def release(self, context: ContextId) -> None:
        key = _holder(context)
        self._reserved.pop(key, None)
        self._open.pop(key, None)

    def to_rows(self) -> list[list[Any]]:
        """The stored form: pairs of key and position. Reservations are not stored."""
        return _rows(self._open)

    def reserved_rows(self) -> list[list[Any]]:
        """Reservations, for books that several processes share."""
        return _rows(self._reserved)

    def restore(self, rows: Iterable[Sequence[Any]], now_ms: int, reserved: Iterable[Sequence[Any]] = ()) -> None:
        """Take stored rows; those whose time is over are dropped."""
        self._open, self._reserved = _alive(rows, now_ms), _alive(reserved, now_ms)


class Risks:
    """All risks of one context; a place is reserved in every one or in none."""

    def __init__(self, context: ContextId, books: Sequence[RiskBook]) -> None:
        self.context, self.books = context, tuple(books)

    def reserve(self, candidate: Candidate) -> str | None:
        for index, book in enumerate(self.books):
            rejection = book.reserve(self.context, candidate)
            if rejection is not None:
                for earlier in self.books[:index]:
                    earlier.release(self.context)
                return rejection
        return None

    def hold(self, candidate: Candidate, *, is_open: bool) -> None:
        for book in self.books:
            book.hold(self.context, candidate, is_open=is_open)

    def release(self) -> None:
        for book in self.books:
            book.release(self.context)


def _alive(rows: Iterable[Sequence[Any]], now_ms: int) -> dict[Holder, ActivePosition]:
    found = [_from_row(row) for _, row in rows]
    return {_holder(one): one for one in found if one.opened_at + one.minutes * MINUTE_MS > now_ms}


def _holder(of: ContextId | ActivePosition) -> Holder:
    return of.strategy, of.exchange, of.symbol


def _rows(positions: Mapping[Holder, ActivePosition]) -> list[list[Any]]:
    """The key is the original's; names of which two make one key stay apart by what stands in their rows."""
    return [["_".join(holder), _row(position)] for holder, position in positions.items()]


def _rejection(validation: Validation, request: RiskRequest) -> str | None:
    try:
        answer = validation(request)
    except ENDS as error:
        return str(error) or type(error).__name__
    return str(answer) if answer else None


def _position(context: ContextId, candidate: Candidate) -> ActivePosition:
    view = candidate.signal
    return ActivePosition(
        context.strategy,
        context.exchange,
        context.frame,
        context.symbol,
        view.position,
        view.original_price_open,
        view.original_stop_loss,
        view.original_take_profit,
        view.minutes,
        candidate.at,
    )


_FIELDS = {
    "strategyName": "strategy",
    "exchangeName": "exchange",
    "frameName": "frame",
    "symbol": "symbol",
    "position": "position",
    "priceOpen": "price_open",
    "priceStopLoss": "stop_loss",
    "priceTakeProfit": "take_profit",
    "minuteEstimatedTime": "minutes",
    "openTimestamp": "opened_at",
}


def _row(position: ActivePosition) -> dict[str, Any]:
    values = position._asdict()
    return {stored: values[name] for stored, name in _FIELDS.items()}


def _from_row(row: Mapping[str, Any]) -> ActivePosition:
    values = {name: row[stored] for stored, name in _FIELDS.items()}
    return ActivePosition(**{**values, "opened_at": int(values["opened_at"])})
