"""What a chart shows of a signal: entry, levels, moves of stop and take profit, exit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from backtest_kit_mongo.audit.records import AuditRecord
from backtest_kit_mongo.audit.tracing.tree import minute_of

__all__ = ["Mark", "marks_of"]


@dataclass(frozen=True, slots=True)
class Mark:
    """Attributes:
    at: simulated time, ms.
    kind: entry stop take level partial average exit.
    """

    at: int
    kind: str
    price: float
    text: str


_LEVELS: Final = ("partial_profit.available", "partial_loss.available", "breakeven.available")
_PARTS: Final = {
    "partial_profit.commit": "partial",
    "partial_loss.commit": "partial",
    "average_buy.commit": "average",
}
_STOP: Final = ("stop", "_trailingPriceStopLoss", "priceStopLoss")
_TAKE: Final = ("take", "_trailingPriceTakeProfit", "priceTakeProfit")


def marks_of(records: Iterable[AuditRecord]) -> tuple[Mark, ...]:
    """Oldest first; what was reported twice is there once."""
    found = dict.fromkeys(mark for record in records for mark in _marks(record))
    kept: list[Mark] = []
    prices: dict[str, float] = {}
    for mark in sorted(found, key=lambda one: one.at):
        if mark.kind in ("stop", "take"):
            if prices.get(mark.kind) == mark.price:
                continue
            prices[mark.kind] = mark.price
        kept.append(mark)
    return tuple(kept)


def _marks(record: AuditRecord) -> Iterator[Mark]:
    row = record.payload
    if not isinstance(row, Mapping):
        return
    if record.domain == "storage":
        yield from _of_history(row)
    elif record.domain == "notification":
        yield from _of_event(row)
    elif record.domain == "signal":
        yield from _of_position(record, row)


def _of_history(row: Mapping[str, Any]) -> Iterator[Mark]:
    opened, price = row.get("pendingAt"), row.get("originalPriceOpen", row.get("priceOpen"))
    if _is_price(opened) and _is_price(price):
        yield Mark(int(opened), "entry", float(price), str(row.get("position", "")))
    closed, price = row.get("closeTimestamp"), row.get("currentPrice")
    if row.get("status") == "closed" and _is_price(closed) and _is_price(price):
        yield Mark(int(closed), "exit", float(price), str(row.get("closeReason") or ""))


def _of_event(row: Mapping[str, Any]) -> Iterator[Mark]:
    kind, at, price = row.get("type"), row.get("timestamp"), row.get("currentPrice")
    if not isinstance(at, int | float) or not _is_price(price):
        return
    if kind in _LEVELS:
        level = row.get("level")
        name = str(kind).partition(".")[0].replace("_", " ")
        yield Mark(int(at), "level", float(price), name if level is None else f"{name} {level} %")
    elif kind in _PARTS:
        yield Mark(int(at), _PARTS[str(kind)], float(price), str(kind).partition(".")[0].replace("_", " "))


def _of_position(record: AuditRecord, row: Mapping[str, Any]) -> Iterator[Mark]:
    at = record.cause.at if record.cause is not None else minute_of(record)
    for kind, moved, original in (_STOP, _TAKE):
        price = row.get(moved, row.get(original))
        if at is not None and _is_price(price):
            yield Mark(at, kind, float(price), "moved" if moved in row else "as proposed")


def _is_price(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
