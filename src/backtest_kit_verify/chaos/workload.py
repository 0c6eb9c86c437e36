"""The documents that all clients contend for, and the mark by which a value names the call that wrote it."""

from dataclasses import dataclass
from typing import Any

from backtest_kit_mongo.coherence.record import Domain, Key, Part, Shape
from backtest_kit_mongo.domains import table
from backtest_kit_mongo.testing.examples import extended, free_object
from backtest_kit_mongo.testing.handles import parts

__all__ = ["DOMAINS", "Workload", "mark_of", "payload_of", "row_of"]

DOMAINS = (
    table.STATE, table.MEASURE, table.SIGNAL, table.MEMORY, table.RISK, table.INTERVAL, table.PARTIAL, table.SESSION,
)  # fmt: skip
"""Slots and keyed documents, some removed softly, some with a simulation time, one whose payload is a list."""

LIST = table.STORAGE
OWN_ROWS = 2
SHARED_ROWS = 2
MARK = "chaosMark"


@dataclass(frozen=True, slots=True)
class Workload:
    """What exists in a run.

    Attributes:
        document_count: documents, spread over `DOMAINS`; there are two lists besides.
        writer_count: each writer has rows of its own in a list, and shares some with all others.
    """

    document_count: int
    writer_count: int

    @property
    def documents(self) -> tuple[Key, ...]:
        spread = (divmod(index, len(DOMAINS)) for index in range(self.document_count))
        return tuple(Key(DOMAINS[which], parts(DOMAINS[which], f"chaos{turn}")) for turn, which in spread)

    @property
    def ledgers(self) -> tuple[Key, ...]:
        return tuple(Key(LIST, (backtest,)) for backtest in (True, False))

    @property
    def rows(self) -> tuple[Key, ...]:
        """Every row that any writer writes."""
        owners = [f"w{number}" for number in range(self.writer_count)]
        items = dict.fromkeys(item for owner in owners for item in self.items(owner))
        return tuple(scope.child(item) for scope in self.ledgers for item in items)

    def items(self, slot: str) -> tuple[str, ...]:
        """The rows that one writer gives: its own, and those of all."""
        own = (f"{slot}-{number}" for number in range(OWN_ROWS))
        return (*own, *(f"shared-{number}" for number in range(SHARED_ROWS)))


def payload_of(key: Key, mark: str, **more: Any) -> Any:
    """A realistic payload of the key's domain that carries the mark."""
    return extended(key.domain, **{MARK: mark}, **more)


def row_of(item: Part, mark: str) -> dict[str, Any]:
    """A list row that carries the mark."""
    return {LIST.row_id: item, MARK: mark}


def mark_of(domain: Domain, payload: Any) -> str | None:
    """The mark that a value carries; None if it has none, which no client ever writes."""
    if not payload:
        return None
    try:
        holder = payload if domain.shape is Shape.LIST else free_object(domain, payload)
        mark = holder.get(MARK)
    except (AssertionError, AttributeError, LookupError, TypeError):
        return None  # A stranger's.
    return mark if isinstance(mark, str) else None
