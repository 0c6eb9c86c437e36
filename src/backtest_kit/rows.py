"""Signals in the stored layout of the original (names in camelCase, bookkeeping with a leading underscore)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from backtest_kit.held import NO_EXTREME, Held
from backtest_kit.identity import ContextId
from backtest_kit.rules import Rules
from backtest_kit.signals import Entry, Extreme, Partial, Pnl, Proposal, SignalView

Row: TypeAlias = dict[str, Any]

_PROPOSAL = {
    "id": "id",
    "symbol": "symbol",
    "position": "position",
    "note": "note",
    "priceOpen": "price_open",
    "priceTakeProfit": "take_profit",
    "priceStopLoss": "stop_loss",
    "minuteEstimatedTime": "minutes",
    "cost": "cost",
}


def proposal_row(proposal: Proposal) -> Row:
    values = {stored: getattr(proposal, name) for stored, name in _PROPOSAL.items()}
    return {stored: value for stored, value in values.items() if value is not None}


def proposal_from(row: Mapping[str, Any]) -> Proposal:
    return Proposal(**{name: row[stored] for stored, name in _PROPOSAL.items() if row.get(stored) is not None})


def signal_row(held: Held, context: ContextId) -> Row:
    """The payload of Signal and Schedule."""
    row: Row = {
        "id": held.id,
        "symbol": context.symbol,
        "exchangeName": context.exchange,
        "strategyName": context.strategy,
        "frameName": context.frame,
        "position": held.position,
        "note": held.note,
        "priceOpen": held.price_open,
        "priceTakeProfit": held.take_profit,
        "priceStopLoss": held.stop_loss,
        "minuteEstimatedTime": held.minutes,
        "cost": held.cost,
        "multiplier": 1,
        "isolated": True,
        "scheduledAt": held.scheduled_at,
        "pendingAt": held.pending_at,
        "timestamp": held.scheduled_at,
        "_isScheduled": held.was_scheduled,
        "_entry": [{"price": entry.price, "cost": entry.cost, "timestamp": entry.at} for entry in held.entries],
        "_partial": [_partial_row(partial) for partial in held.partials],
        "_peak": _extreme_row(held.peak),
        "_fall": _extreme_row(held.fall),
    }
    if held.trailing_stop is not None:
        row["_trailingPriceStopLoss"] = held.trailing_stop
    if held.trailing_take is not None:
        row["_trailingPriceTakeProfit"] = held.trailing_take
    return row


def held_from(row: Mapping[str, Any], rules: Rules) -> Held:
    """A signal from its stored row, also from one that the original wrote."""
    minutes = row.get("minuteEstimatedTime")
    held = Held(
        row["id"],
        row["position"],
        row["priceOpen"],
        row["priceTakeProfit"],
        row["priceStopLoss"],
        rules.default_minutes if minutes is None else minutes,
        row.get("cost") or rules.default_cost,
        row.get("note") or "",
        int(row["scheduledAt"]),
        int(row.get("pendingAt") or 0),
        bool(row.get("_isScheduled")),
        [Entry(entry["price"], entry["cost"], int(entry["timestamp"])) for entry in row.get("_entry") or ()],
        [_partial_from(partial) for partial in row.get("_partial") or ()],
        row.get("_trailingPriceStopLoss"),
        row.get("_trailingPriceTakeProfit"),
    )
    held.peak, held.fall = _extreme_from(row.get("_peak")), _extreme_from(row.get("_fall"))
    return held


def list_row(
    view: SignalView, context: ContextId, status: str, at: int, price: float, reason: str | None, pnl: Pnl | None
) -> Row:
    """The payload of Storage: a signal of the history.

    Args:
        at: the minute of the event (ms); nothing here reads a clock.
        reason, pnl: of a close.
    """
    row = public_row(view, context) | {
        "status": status,
        "createdAt": view.scheduled_at,
        "updatedAt": at,
        "priority": at,
    }
    if status != "cancelled":
        row["currentPrice"] = price
    if status == "closed":
        row |= {"closeReason": reason, "closeTimestamp": at, "pnl": pnl_row(pnl) if pnl else None}
    return row


def public_row(view: SignalView, context: ContextId) -> Row:
    """The payload of Recent: a signal as shown to users."""
    return {
        "id": view.id,
        "symbol": context.symbol,
        "exchangeName": context.exchange,
        "strategyName": context.strategy,
        "frameName": context.frame,
        "position": view.position,
        "note": view.note,
        "priceOpen": view.price_open,
        "priceTakeProfit": view.take_profit,
        "priceStopLoss": view.stop_loss,
        "originalPriceOpen": view.original_price_open,
        "originalPriceTakeProfit": view.original_take_profit,
        "originalPriceStopLoss": view.original_stop_loss,
        "minuteEstimatedTime": view.minutes,
        "cost": view.cost,
        "multiplier": 1,
        "isolated": True,
        "scheduledAt": view.scheduled_at,
        "pendingAt": view.pending_at,
        "timestamp": view.scheduled_at,
        "totalEntries": len(view.entries),
        "totalPartials": len(view.partials),
        "partialExecuted": view.partial_executed,
        "peakProfit": _extreme_row(view.peak),
        "maxDrawdown": _extreme_row(view.fall),
    }


def pnl_row(pnl: Pnl) -> Row:
    return {
        "pnlPercentage": pnl.percent,
        "priceOpen": pnl.price_open,
        "priceClose": pnl.price_close,
        "pnlCost": pnl.cost,
        "pnlEntries": pnl.invested,
    }


def _partial_row(partial: Partial) -> Row:
    return {
        "type": partial.kind,
        "percent": partial.percent,
        "currentPrice": partial.price,
        "costBasisAtClose": partial.cost_basis,
        "entryCountAtClose": partial.entry_count,
        "timestamp": partial.at,
    }


def _partial_from(row: Mapping[str, Any]) -> Partial:
    price, basis, count = row["currentPrice"], row["costBasisAtClose"], int(row["entryCountAtClose"])
    return Partial(row["type"], row["percent"], price, basis, count, int(row["timestamp"]))


def _extreme_row(extreme: Extreme) -> Row:
    return {
        "price": extreme.price,
        "timestamp": extreme.at,
        "pnlPercentage": extreme.percent,
        "pnlCost": extreme.cost,
    }


def _extreme_from(row: Mapping[str, Any] | None) -> Extreme:
    if not row or not row.get("timestamp"):
        return NO_EXTREME
    return Extreme(row["price"], int(row["timestamp"]), row["pnlPercentage"], row.get("pnlCost", 0.0))
