"""Everything a lifecycle asks for. `ask` holds the only bare `yield`."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

from backtest_kit.events import Event
from backtest_kit.signals import Proposal, SignalView

if TYPE_CHECKING:
    from backtest_kit.operations import Operations

R = TypeVar("R")
Plan: TypeAlias = Generator["Effect[Any]", Any, R]


class Effect(Generic[R]):
    """A frozen request; R is the type of its answer."""

    __slots__ = ()


def ask(effect: Effect[R]) -> Plan[R]:
    """Yield one effect and return its answer."""
    reply: R = yield effect
    return reply


class Skipped(NamedTuple):
    """The extremes of the average price over the minutes that a driver did not tell, each with its first minute."""

    high: float
    high_at: int
    low: float
    low_at: int


class Tick(NamedTuple):
    """One minute.

    Attributes:
        at: ms.
        price: the average price that a live tick sees: of the candles before this minute.
        mark: the average price by which a position is judged; the rules say whether it is `price`.
        low, high: of the newest candle that the rules let this minute see.
        is_over: the frame has ended before this minute.
        skipped: None: the minute before was reported as well.
        was_asked: the driver asked the strategy for this minute already, and `proposal` is the answer.
    """

    at: int
    price: float
    mark: float
    low: float
    high: float
    is_over: bool = False
    skipped: Skipped | None = None
    was_asked: bool = False
    proposal: Proposal | None = None


class Watch(NamedTuple):
    """What the next minute is waited for. Minutes in which none of it happens need not be reported.

    It is a hint: a driver that tells every minute is right as well, and a minute reported for nothing does no harm.

    Attributes:
        until: reported at the latest (ms); 0: every minute is reported.
        mark_low, mark_high: reported when the mark is at or beyond one of them.
        touch_low, touch_high: reported when a candle's low or high is at or beyond.
        served_slot: with `may_ask`: the newest slot for which the strategy was asked.
        may_ask: the context is idle and nothing need be stored before the strategy is asked: the driver may ask it
            itself, minute by minute, and tell the first one with an answer.
    """

    until: float = inf
    mark_low: float = -inf
    mark_high: float = inf
    touch_low: float = -inf
    touch_high: float = inf
    served_slot: int = -1
    may_ask: bool = False


class Candidate(NamedTuple):
    """A signal that asks for a place in its risks.

    Attributes:
        at, price: of the minute.
    """

    signal: SignalView
    at: int
    price: float


class Order(NamedTuple):
    """What a broker is asked to do.

    Attributes:
        action: open close partial average.
        number: of the signal's orders, from 0 on; with the id and the action it makes the client order id.
        price: at which the engine reckons it.
        cost: to be bought or sold, in the quote currency at the effective entry.
    """

    action: str
    signal: SignalView
    number: int
    at: int
    price: float
    cost: float


@dataclass(frozen=True, slots=True)
class Next(Effect["Tick | None"]):
    """The next minute; None: there is none."""

    watch: Watch


@dataclass(frozen=True, slots=True)
class AskSignal(Effect["Proposal | None"]):
    """Ask the strategy."""

    at: int
    price: float


@dataclass(frozen=True, slots=True)
class AskRisk(Effect["str | None"]):
    """Reserve a place in every risk. The answer is None, or why one of them rejects; then nothing is reserved."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class HoldRisk(Effect[None]):
    """The reserved places are taken.

    Attributes:
        is_open: by an open position, which is stored; else by a signal that waits for its price.
    """

    candidate: Candidate
    is_open: bool


@dataclass(frozen=True, slots=True)
class ReleaseRisk(Effect[None]):
    """Give the context's places back."""

    at: int


@dataclass(frozen=True, slots=True)
class Gate(Effect[bool]):
    """Have an order executed, at most once however often it is asked for. False: the broker refuses it for good."""

    order: Order


@dataclass(frozen=True, slots=True)
class Save(Effect[None]):
    """Store the row of one domain; returns when it is durable.

    Attributes:
        key: the signal's id in partial, breakeven and storage, else "".
    """

    domain: str
    key: str
    row: Mapping[str, Any] | None
    at: int


@dataclass(frozen=True, slots=True)
class Emit(Effect[None]):
    """Tell callbacks and listeners. What they did with `operations` is part of the state when this returns."""

    event: Event
    operations: Operations
