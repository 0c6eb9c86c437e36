"""The domain table. Everything per-domain that code needs is derived from these rows; one more domain is one more row.

Stored names are the npm package's, so both can share a database. Key columns stand in the order of its unique indexes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, overload

from backtest_kit_mongo import stored
from backtest_kit_mongo.candles.intervals import INTERVAL_MS as INTERVAL_MS
from backtest_kit_mongo.candles.intervals import interval_ms as interval_ms
from backtest_kit_mongo.coherence.record import Column, Domain, Index, Level, OnConflict, Part, Shape
from backtest_kit_mongo.domains import payloads


class Table(Sequence[Domain]):
    """Rows in their order. A program may add rows of its own (`add`), so nobody keeps a copy of what is derived from
    them.

    Attributes:
        by_name, by_collection: the same rows.
    """

    def __init__(self, *rows: Domain) -> None:
        self._rows: list[Domain] = []
        self._by_name: dict[str, Domain] = {}
        self._by_collection: dict[str, Domain] = {}
        self.by_name: Final[Mapping[str, Domain]] = MappingProxyType(self._by_name)
        self.by_collection: Final[Mapping[str, Domain]] = MappingProxyType(self._by_collection)
        for row in rows:
            self.add(row)

    @overload
    def __getitem__(self, index: int) -> Domain: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Domain]: ...
    def __getitem__(self, index: int | slice) -> Domain | Sequence[Domain]:
        return self._rows[index]

    def __iter__(self) -> Iterator[Domain]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Domain) -> None:
        """One more domain; before stores are opened, for they prepare what the table has then.

        Raises:
            ValueError: its name or collection is taken.
        """
        taken = self._by_name.get(row.name) or self._by_collection.get(row.collection)
        if taken is not None or row.collection in stored.ALL:
            raise ValueError(
                f"{row}: the name, or the collection {row.collection}, is taken{f' by {taken}' if taken else ''}"
            )
        self._rows.append(row)
        self._by_name[row.name] = self._by_collection[row.collection] = row


def _nothing() -> None:
    return None


def _columns(names: str) -> tuple[Column, ...]:
    """Key columns from their names: `backtest` is the only boolean, all others are text."""
    return tuple(Column(name, bool if name == "backtest" else str) for name in names.split())


def _joined(names: str, optional: str = "") -> Level:
    return Level(columns=tuple(names.split()), optional=frozenset(optional.split()))


def _path(root: str, *levels: str) -> tuple[Level, ...]:
    return (*(Level(literal=part) for part in root.split("/")), *(_joined(level) for level in levels))


_CONTEXT = "symbol strategyName exchangeName"
_LISTED = (("removed", 1),)
_SIGNAL_TIMES = ("timestamp", "scheduledAt", "pendingAt")

SIGNAL = Domain(
    name="signal", collection="signal-items", shape=Shape.SLOT, key=_columns(_CONTEXT), empty=_nothing,
    model=payloads.SignalRow | None, dated_by=_SIGNAL_TIMES,
    id_cache="signal_cache:{exchangeName}:{strategyName}:{symbol}",
    path=_path("data/signal", _CONTEXT), file=_joined("symbol"),
)  # fmt: skip
SCHEDULE = Domain(
    name="schedule", collection="schedule-items", shape=Shape.SLOT, key=_columns(_CONTEXT), empty=_nothing,
    model=payloads.ScheduledSignalRow | None, dated_by=_SIGNAL_TIMES,
    id_cache="schedule_cache:{exchangeName}:{strategyName}:{symbol}",
    path=_path("data/schedule", _CONTEXT), file=_joined("symbol"),
)  # fmt: skip
STRATEGY = Domain(
    name="strategy", collection="strategy-items", shape=Shape.SLOT, key=_columns(_CONTEXT), empty=_nothing,
    model=payloads.StrategyData | None,
    id_cache="strategy_cache:{exchangeName}:{strategyName}:{symbol}",
    path=_path("data/strategy", _CONTEXT), file=Level(literal="strategy"),
)  # fmt: skip
RISK = Domain(
    name="risk", collection="risk-items", shape=Shape.SLOT, key=_columns("riskName exchangeName"), empty=list,
    model=payloads.RiskData, payload="positions", has_when=True,
    id_cache="risk_cache:{exchangeName}:{riskName}",
    path=_path("data/risk", "riskName exchangeName"), file=Level(literal="positions"),
)  # fmt: skip
PARTIAL = Domain(
    name="partial", collection="partial-items", shape=Shape.KEYED, key=_columns(f"{_CONTEXT} signalId"), empty=dict,
    model=payloads.PartialData, has_when=True,
    id_cache="partial_cache:{exchangeName}:{strategyName}:{symbol}:{signalId}",
    path=_path("data/partial", _CONTEXT), file=_joined("signalId"),
)  # fmt: skip
BREAKEVEN = Domain(
    name="breakeven", collection="breakeven-items", shape=Shape.KEYED, key=_columns(f"{_CONTEXT} signalId"), empty=dict,
    model=payloads.BreakevenData, has_when=True,
    id_cache="breakeven_cache:{exchangeName}:{strategyName}:{symbol}:{signalId}",
    path=_path("data/breakeven", _CONTEXT), file=_joined("signalId"),
)  # fmt: skip
CANDLE = Domain(
    name="candle", collection="candle-items", shape=Shape.SERIES, empty=_nothing,
    key=(
        Column("exchangeName"), Column("symbol"), Column("interval", choices=frozenset(INTERVAL_MS)),
        Column("timestamp", int),
    ),
    model=payloads.CandleData, fields=("open", "high", "low", "close", "volume"), on_conflict=OnConflict.KEEP,
    id_cache="candle_cache:{exchangeName}:{symbol}:{interval}:{timestamp}",
    path=_path("data/candle", "exchangeName", "symbol", "interval"), file=_joined("timestamp"),
    legacy_unique=(("symbol", "interval", "timestamp"),),
)  # fmt: skip
STORAGE = Domain(
    name="storage", collection="storage-items", shape=Shape.LIST, key=_columns("backtest signalId"), empty=list,
    model=payloads.StorageSignalRow, row_id="id", filters=("status", "symbol"), dated_by=(*_SIGNAL_TIMES, "updatedAt",
        "closeTimestamp"),
    id_cache="storage_cache:{backtest}:{signalId}",
    path=_path("data/storage", "backtest"), file=_joined("signalId"),
)  # fmt: skip
NOTIFICATION = Domain(
    name="notification", collection="notification-items", shape=Shape.LIST, key=_columns("backtest notificationId"),
    empty=list, model=payloads.NotificationModel, row_id="id", filters=("symbol",), dated_by=("timestamp", "createdAt"),
    id_cache="notification_cache:{backtest}:{notificationId}",
    path=_path("data/notification", "backtest"), file=_joined("notificationId"),
    indexes=(Index((("backtest", 1), ("createDate", -1))),),
)  # fmt: skip
LOG = Domain(
    name="log", collection="log-items", shape=Shape.LIST, key=_columns("entryId"), empty=list,
    model=payloads.LogEntry, row_id="id", dated_by=("timestamp",), on_conflict=OnConflict.KEEP,
    id_cache="log_cache:{entryId}",
    path=_path("data/log/log"), file=_joined("entryId"),
    indexes=(Index((("createDate", -1),)),),
)  # fmt: skip
MEASURE = Domain(
    name="measure", collection="measure-items", shape=Shape.KEYED, key=_columns("bucket entryKey"), empty=_nothing,
    model=payloads.MeasureData, has_removed=True, memo=True,
    id_cache="measure_cache:{bucket}:{entryKey}",
    path=_path("data/measure", "bucket"), file=_joined("entryKey"),
    indexes=(Index((("bucket", 1), *_LISTED)),),
)  # fmt: skip
INTERVAL = Domain(
    name="interval", collection="interval-items", shape=Shape.KEYED, key=_columns("bucket entryKey"), empty=_nothing,
    model=payloads.IntervalData, has_when=True, has_removed=True,
    id_cache="interval_cache:{bucket}:{entryKey}",
    path=_path("data/interval", "bucket"), file=_joined("entryKey"),
    indexes=(Index((("bucket", 1), *_LISTED)),),
)  # fmt: skip
MEMORY = Domain(
    name="memory", collection="memory-items", shape=Shape.KEYED, key=_columns("signalId bucketName memoryId"),
    empty=_nothing, model=payloads.MemoryData, has_when=True, has_removed=True,
    id_cache="memory_cache:{signalId}:{bucketName}:{memoryId}",
    path=_path("memory", "signalId", "bucketName"), file=_joined("memoryId"),
    indexes=(Index((("signalId", 1), ("bucketName", 1), *_LISTED)),),
)  # fmt: skip
RECENT = Domain(
    name="recent", collection="recent-items", shape=Shape.SLOT, key=_columns(f"{_CONTEXT} frameName backtest"),
    empty=_nothing, model=payloads.PublicSignalRow | None, has_when=True,
    id_cache="recent_cache:{backtest}:{exchangeName}:{strategyName}:{frameName}:{symbol}",
    path=(*_path("data/recent"), _joined(f"{_CONTEXT} frameName backtest", optional="frameName")),
    file=_joined("symbol"),
)  # fmt: skip
STATE = Domain(
    name="state", collection="state-items", shape=Shape.SLOT, key=_columns("signalId bucketName"), empty=_nothing,
    model=payloads.StateData | None, has_when=True,
    id_cache="state_cache:{signalId}:{bucketName}",
    path=_path("state", "signalId", "bucketName"), file=_joined("bucketName"),
)  # fmt: skip
DICTIONARY = Domain(
    name="dictionary", collection="dictionary-items", shape=Shape.SLOT, key=_columns("signalId dictionaryName"),
    empty=_nothing, model=payloads.DictionaryData | None, has_when=True,
    id_cache="dictionary_cache:{signalId}:{dictionaryName}",
    path=_path("dictionary", "signalId"), file=_joined("dictionaryName"),
)  # fmt: skip
SESSION = Domain(
    name="session", collection="session-items", shape=Shape.SLOT,
    key=_columns("strategyName exchangeName frameName symbol backtest"), empty=_nothing,
    model=payloads.SessionData | None, has_when=True,
    id_cache="session_cache:{exchangeName}:{strategyName}:{frameName}:{symbol}:{backtest}",
    path=(*_path("session", "strategyName", "exchangeName"), _joined("frameName", optional="frameName")),
    file=_joined("symbol backtest"),
    legacy_unique=(("strategyName", "exchangeName", "frameName"),),
)  # fmt: skip

RUN = Domain(
    name="run", collection="run-items", shape=Shape.SLOT, key=_columns("runId"), empty=_nothing,
    model=payloads.RunData | None,
    id_cache="run_cache:{runId}",
    path=_path("run"), file=_joined("runId"),
)  # fmt: skip

DOMAINS: Final = Table(
    CANDLE, SIGNAL, SCHEDULE, STRATEGY, RISK, PARTIAL, BREAKEVEN, STORAGE, NOTIFICATION, LOG, MEASURE, INTERVAL,
    MEMORY, RECENT, STATE,
    DICTIONARY, SESSION, RUN,
)  # fmt: skip
"""All domains: the original's in the order of its registration, then ours."""

BY_NAME: Final = DOMAINS.by_name


def own_collections() -> frozenset[str]:
    """Every collection that this package and its worker keep: nobody else's to write to."""
    return stored.ALL.union(domain.collection for domain in DOMAINS)


def context_names(domain: Domain) -> tuple[str, ...]:
    """The columns that name a context: all for a slot, all but the last otherwise."""
    return domain.columns if domain.shape is Shape.SLOT else domain.columns[:-1]


def describe(parts: Iterable[Part]) -> str:
    """Key parts for people, in messages."""
    return ", ".join(repr(part) for part in parts)
