"""The domain table. Everything per-domain that code needs is derived from these rows; one more domain is one more row.

Names of domains and columns are the npm package's, so both can share what is stored. How a backend keeps a domain
follows from its row (`layout.py` of the backend).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, overload

from backtest_kit_mongo.candles.intervals import INTERVALS
from backtest_kit_mongo.coherence.record import Column, Domain, OnConflict, Part, Shape
from backtest_kit_mongo.domains import payloads


class Table(Sequence[Domain]):
    """Rows in their order. A program may add rows of its own (`add`), so nobody keeps a copy of what is derived from
    them.

    Attributes:
        by_name: the same rows.
    """

    def __init__(self, *rows: Domain) -> None:
        self._rows: list[Domain] = []
        self._by_name: dict[str, Domain] = {}
        self.by_name: Final[Mapping[str, Domain]] = MappingProxyType(self._by_name)
        for row in rows:
            self.add(row)

    @overload
    def __getitem__(self, at: int) -> Domain: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Domain]: ...
    def __getitem__(self, at: int | slice) -> Domain | Sequence[Domain]:
        return self._rows[at]

    def __iter__(self) -> Iterator[Domain]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Domain) -> None:
        """One more domain; before stores are opened, for they prepare what the table has then.

        Raises:
            ValueError: its name is taken.
        """
        if row.name in self._by_name:
            raise ValueError(f"{row}: the name is taken")
        self._rows.append(row)
        self._by_name[row.name] = row


def _nothing() -> None:
    return None


def _columns(names: str) -> tuple[Column, ...]:
    """Key columns from their names: `backtest` is the only boolean, all others are text."""
    return tuple(Column(name, bool if name == "backtest" else str) for name in names.split())


_CONTEXT = "symbol strategyName exchangeName"
_SIGNAL_TIMES = ("timestamp", "scheduledAt", "pendingAt")

SIGNAL = Domain(
    name="signal", shape=Shape.SLOT, key=_columns(_CONTEXT), empty=_nothing,
    model=payloads.SignalRow | None, dated_by=_SIGNAL_TIMES,
)  # fmt: skip
SCHEDULE = Domain(
    name="schedule", shape=Shape.SLOT, key=_columns(_CONTEXT), empty=_nothing,
    model=payloads.ScheduledSignalRow | None, dated_by=_SIGNAL_TIMES,
)  # fmt: skip
STRATEGY = Domain(
    name="strategy", shape=Shape.SLOT, key=_columns(_CONTEXT), empty=_nothing,
    model=payloads.StrategyData | None,
)  # fmt: skip
RISK = Domain(
    name="risk", shape=Shape.SLOT, key=_columns("riskName exchangeName"), empty=list,
    model=payloads.RiskData, has_when=True,
)  # fmt: skip
PARTIAL = Domain(
    name="partial", shape=Shape.KEYED, key=_columns(f"{_CONTEXT} signalId"), empty=dict,
    model=payloads.PartialData, has_when=True,
)  # fmt: skip
BREAKEVEN = Domain(
    name="breakeven", shape=Shape.KEYED, key=_columns(f"{_CONTEXT} signalId"), empty=dict,
    model=payloads.BreakevenData, has_when=True,
)  # fmt: skip
CANDLE = Domain(
    name="candle", shape=Shape.SERIES, empty=_nothing,
    key=(
        Column("exchangeName"), Column("symbol"), Column("interval", choices=INTERVALS),
        Column("timestamp", int),
    ),
    model=payloads.CandleData, fields=("open", "high", "low", "close", "volume"), on_conflict=OnConflict.KEEP,
)  # fmt: skip
STORAGE = Domain(
    name="storage", shape=Shape.LIST, key=_columns("backtest signalId"), empty=list,
    model=payloads.StorageSignalRow, row_id="id", filters=("status", "symbol"), dated_by=(*_SIGNAL_TIMES, "updatedAt",
        "closeTimestamp"),
)  # fmt: skip
NOTIFICATION = Domain(
    name="notification", shape=Shape.LIST, key=_columns("backtest notificationId"),
    empty=list, model=payloads.NotificationModel, row_id="id", filters=("symbol",), dated_by=("timestamp", "createdAt"),
)  # fmt: skip
LOG = Domain(
    name="log", shape=Shape.LIST, key=_columns("entryId"), empty=list,
    model=payloads.LogEntry, row_id="id", dated_by=("timestamp",), on_conflict=OnConflict.KEEP,
    context_field="methodContext",
)  # fmt: skip
MEASURE = Domain(
    name="measure", shape=Shape.KEYED, key=_columns("bucket entryKey"), empty=_nothing,
    model=payloads.MeasureData, has_removed=True, memo=True,
)  # fmt: skip
INTERVAL = Domain(
    name="interval", shape=Shape.KEYED, key=_columns("bucket entryKey"), empty=_nothing,
    model=payloads.IntervalData, has_when=True, has_removed=True,
)  # fmt: skip
MEMORY = Domain(
    name="memory", shape=Shape.KEYED, key=_columns("signalId bucketName memoryId"),
    empty=_nothing, model=payloads.MemoryData, has_when=True, has_removed=True,
)  # fmt: skip
RECENT = Domain(
    name="recent", shape=Shape.SLOT, key=_columns(f"{_CONTEXT} frameName backtest"),
    empty=_nothing, model=payloads.PublicSignalRow | None, has_when=True,
)  # fmt: skip
STATE = Domain(
    name="state", shape=Shape.SLOT, key=_columns("signalId bucketName"), empty=_nothing,
    model=payloads.StateData | None, has_when=True,
)  # fmt: skip
DICTIONARY = Domain(
    name="dictionary", shape=Shape.SLOT, key=_columns("signalId dictionaryName"),
    empty=_nothing, model=payloads.DictionaryData | None, has_when=True,
)  # fmt: skip
SESSION = Domain(
    name="session", shape=Shape.SLOT,
    key=_columns("strategyName exchangeName frameName symbol backtest"), empty=_nothing,
    model=payloads.SessionData | None, has_when=True,
)  # fmt: skip

RUN = Domain(
    name="run", shape=Shape.SLOT, key=_columns("runId"), empty=_nothing,
    model=payloads.RunData | None, remade=True,
)  # fmt: skip

DOMAINS: Final = Table(
    CANDLE, SIGNAL, SCHEDULE, STRATEGY, RISK, PARTIAL, BREAKEVEN, STORAGE, NOTIFICATION, LOG, MEASURE, INTERVAL,
    MEMORY, RECENT, STATE,
    DICTIONARY, SESSION, RUN,
)  # fmt: skip
"""All domains: the original's in the order of its registration, then ours."""

BY_NAME: Final = DOMAINS.by_name


def context_names(domain: Domain) -> tuple[str, ...]:
    """The columns that name a context: all for a slot, all but the last otherwise."""
    return domain.columns if domain.shape is Shape.SLOT else domain.columns[:-1]


def describe(parts: Iterable[Part]) -> str:
    """Key parts for people, in messages."""
    return ", ".join(repr(part) for part in parts)
