"""Open positions of all strategies and hosts, in memory: the documents as they are, and events over them.

A key's events are in order in the feed, but one that a process kept while Redis was away comes late. So each is judged
by (document, revision), and of what was closed lately the revision is remembered. What is wrong all the same is right
when the documents are read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from backtest_kit_mongo.audit.keytext import format_key
from backtest_kit_mongo.coherence.events import Event, UnknownEvent
from backtest_kit_mongo.coherence.record import Part

__all__ = ["DOMAINS", "Board", "Changed", "Name", "Position"]

DOMAINS: Final = ("signal", "schedule")
"""Positions, and orders that wait for their price."""
CLOSED_MAX: Final = 20_000
"""Closed positions of which the revision is remembered."""
Name = tuple[str, tuple[Part, ...]]
Changed = tuple[Name, "Position | None"]
"""What became of a position; None: it is open no more."""


class Position(NamedTuple):
    """An open position, or an order that waits.

    Attributes:
        parts: symbol, strategy, exchange.
        document, rev: of the stored document.
        changed_ms: of the last write, by its writer's clock.
        host, process: who wrote last; empty if only the document was read.
    """

    domain: str
    parts: tuple[Part, ...]
    document: str
    rev: int
    payload: Mapping[str, Any]
    changed_ms: int | None = None
    host: str = ""
    process: int = 0

    @property
    def name(self) -> Name:
        return self.domain, self.parts

    @property
    def key(self) -> str:
        """The text that `bkm audit show` takes."""
        return format_key(self.domain, self.parts)

    @property
    def element(self) -> str:
        """Its id on a page."""
        return f"p{blake2b(self.key.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"

    @property
    def is_waiting(self) -> bool:
        return self.domain == DOMAINS[1]

    @property
    def symbol(self) -> str:
        return str(self.parts[0])

    @property
    def strategy(self) -> str:
        return str(self.parts[1])

    @property
    def exchange(self) -> str:
        return str(self.parts[2])

    @property
    def entry(self) -> Any:
        return self.payload.get("priceOpen")

    @property
    def take_profit(self) -> Any:
        return self.payload.get("_trailingPriceTakeProfit") or self.payload.get("priceTakeProfit")

    @property
    def stop_loss(self) -> Any:
        return self.payload.get("_trailingPriceStopLoss") or self.payload.get("priceStopLoss")

    @property
    def since(self) -> Any:
        """Simulated time of the opening; of an order that waits, of its placing."""
        return self.payload.get("scheduledAt" if self.is_waiting else "pendingAt") or self.payload.get("timestamp")

    @property
    def closed_percent(self) -> float:
        """How much of it partial closes have taken, as a sum of what each took."""
        taken = self.payload.get("_partial")
        percents = [one.get("percent") for one in taken if isinstance(one, dict)] if isinstance(taken, list) else []
        return float(sum(each for each in percents if isinstance(each, int | float)))


class Board:
    """Not thread-safe: who changes it is alone."""

    def __init__(self) -> None:
        self._open: dict[Name, Position] = {}
        self._sorted: list[Position] | None = None
        self._closed: dict[Name, tuple[str, int]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Position]:
        """The most recently opened first."""
        if self._sorted is None:
            self._sorted = sorted(self._open.values(), key=_order)
        return iter(self._sorted)

    def counts(self) -> tuple[int, int]:
        """How many positions are open, and how many orders wait."""
        waiting = sum(one.is_waiting for one in self._open.values())
        return len(self._open) - waiting, waiting

    def replace(self, found: Iterable[Position]) -> list[Changed]:
        """What the documents are now; returns what that changed."""
        before, self._open = self._open, {one.name: one for one in found}
        self._sorted = None
        for name, one in self._open.items():
            old = before.get(name)
            if old is not None and (old.document, old.rev) == (one.document, one.rev):
                self._open[name] = old  # It knows who wrote it.
        gone: list[Changed] = [(name, None) for name in before if name not in self._open]
        return gone + [(name, one) for name, one in self._open.items() if before.get(name) != one]

    def apply(self, event: Event) -> Changed | None:
        """What a change makes of a position; None if it is older than what is known, or none of a position."""
        name = event.domain, event.key
        if event.domain not in DOMAINS or len(event.key) != 3 or self._is_known(name, event):
            return None
        payload, self._sorted = _payload(event), None
        if isinstance(payload, dict) and event.operation == "upsert":
            self._closed.pop(name, None)
            self._open[name] = one = Position(
                event.domain, event.key, event.document, event.rev, payload, event.written_ms,
                event.origin.host, event.origin.process,
            )  # fmt: skip
            return name, one
        self._closed.pop(name, None)
        self._closed[name] = event.document, event.rev
        if len(self._closed) > CLOSED_MAX:
            del self._closed[next(iter(self._closed))]
        return (name, None) if self._open.pop(name, None) is not None else None

    def _is_known(self, name: Name, event: Event) -> bool:
        one = self._open.get(name)
        document, rev = self._closed.get(name, ("", 0)) if one is None else (one.document, one.rev)
        return document == event.document and event.rev <= rev


def _payload(event: Event) -> Any:
    try:
        return event.payload
    except UnknownEvent:
        return {}  # It is there, though nobody can say what it is.


def _order(one: Position) -> tuple[bool, float, str, str]:
    since = one.since
    moment = since if isinstance(since, int | float) and not isinstance(since, bool) and since == since else 0.0
    return one.is_waiting, -moment, one.symbol, one.strategy
