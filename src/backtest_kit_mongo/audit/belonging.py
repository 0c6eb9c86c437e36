"""Which signal a record belongs to: the one that its writer said, else the one that its key or payload names.

So changes of other programs, and those that recovery found, are found by `bkm trace` as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from backtest_kit_mongo.domains.table import BY_NAME

__all__ = ["SIGNAL_COLUMN", "naming", "signal_of"]

SIGNAL_COLUMN: Final = "signalId"
"""Of keys, and of payloads that tell of a signal."""
_STATES: Final = ("pendingSignalId",)
_HELD: Final = ("retryOpenSignal", "closedSignal", "cancelledSignal", "activatedSignal")
"""Fields of the strategy row: the id of the open signal, and signals that something is being done with."""


def signal_of(record: Mapping[str, Any]) -> str:
    """Its id; empty: it belongs to none that is known."""
    cause = record.get("cause")
    if isinstance(cause, Mapping) and isinstance(said := cause.get("signal"), str):
        return said
    domain = BY_NAME.get(str(record.get("domain")))
    if domain is None:
        return ""
    if SIGNAL_COLUMN in domain.columns:
        key = record.get("key") or ()
        place = domain.columns.index(SIGNAL_COLUMN)
        return str(key[place]) if place < len(key) else ""
    payload = record.get("payload")
    return _named(payload) if isinstance(payload, Mapping) else ""


def naming(signal: str) -> list[dict[str, str]]:
    """Conditions of which one holds for every record whose payload names the signal; it may hold for others too."""
    names = (SIGNAL_COLUMN, "id", *_STATES, *(f"{name}.id" for name in _HELD))
    return [{f"payload.{name}": signal} for name in names]


def _named(payload: Mapping[str, Any]) -> str:
    found = payload.get(SIGNAL_COLUMN)
    if found is None and "position" in payload:
        found = payload.get("id")
    if found is None:
        found = next((payload[name] for name in _STATES if payload.get(name)), None)
    if found is None:
        held = (payload.get(name) for name in _HELD)
        found = next((row.get("id") for row in held if isinstance(row, Mapping)), None)
    return found if isinstance(found, str) else ""
