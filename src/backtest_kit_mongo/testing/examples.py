"""One realistic payload a domain, under stored names. Derived rows are derived here too, as in the payload models."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf
from typing import Any, Final

from backtest_kit_mongo.coherence.record import Domain, Part, Shape

BASE_MS: Final = 1_704_067_200_000
"""2024-01-01T00:00Z: an open time of every interval, and long closed."""

MINUTE_MS: Final = 60_000

_PNL: Final = {"pnlPercentage": -1.25, "priceOpen": 100.0, "priceClose": 98.75, "pnlCost": -1.25, "pnlEntries": 100.0}
_EXTREME: Final = {**_PNL, "price": 101.5, "timestamp": BASE_MS}

_SIGNAL_DTO: Final = {
    "id": "b7c1",
    "position": "long",
    "note": "перелом ✓",
    "priceOpen": 100.0,
    "priceTakeProfit": 110,
    "priceStopLoss": 95.5,
    "minuteEstimatedTime": inf,
    "cost": 100.0,
    "multiplier": 1,
    "isolated": True,
}
_SIGNAL: Final = {
    **_SIGNAL_DTO,
    "symbol": "BTC/USDT",
    "exchangeName": "binance",
    "strategyName": "trend",
    "frameName": "",
    "scheduledAt": BASE_MS,
    "pendingAt": BASE_MS + 1,
    "timestamp": BASE_MS,
    "_isScheduled": False,
    "_partial": [{"type": "profit", "percent": 50.0, "currentPrice": 105.0, "timestamp": BASE_MS}],
    "_entry": [{"price": 100.0, "cost": 100.0, "timestamp": BASE_MS}],
    "_peak": _EXTREME,
    "_fall": _EXTREME,
}
_CLOSING: Final = {**_SIGNAL, "closeId": "c1", "closeNote": "by hand"}
_PUBLIC: Final = {
    **_SIGNAL,
    "originalPriceOpen": 100.0,
    "originalPriceTakeProfit": 110.0,
    "originalPriceStopLoss": 95.5,
    "partialExecuted": 50.0,
    "totalEntries": 1,
    "totalPartials": 1,
    "pnl": _PNL,
    "peakProfit": _PNL,
    "maxDrawdown": _PNL,
}
_STORAGE: Final = {
    **_PUBLIC,
    "status": "closed",
    "currentPrice": 98.75,
    "closeReason": "time_expired",
    "closeTimestamp": BASE_MS + MINUTE_MS,
    "createdAt": BASE_MS,
    "updatedAt": BASE_MS,
    "priority": BASE_MS,
}
_POSITION: Final = {
    "strategyName": "trend",
    "exchangeName": "binance",
    "frameName": "",
    "symbol": "BTC/USDT",
    "position": "short",
    "priceOpen": 100.0,
    "priceStopLoss": 105.0,
    "priceTakeProfit": 90.0,
    "minuteEstimatedTime": inf,
    "openTimestamp": BASE_MS,
}

_EXAMPLES: Final[dict[str, Any]] = {
    "candle": {"timestamp": BASE_MS, "open": 100.0, "high": 101.5, "low": 99.25, "close": 101.0, "volume": 12.5},
    "signal": _SIGNAL,
    "schedule": {**_SIGNAL, "_isScheduled": True},
    "strategy": {
        "pendingSignalId": "b7c1",
        "lastPendingId": None,
        "createdSignal": _SIGNAL_DTO,
        "commitQueue": [
            {"action": "partial-profit", "symbol": "BTC/USDT", "backtest": False, "percentToClose": 50.0},
            {"action": "activate-scheduled", "symbol": "BTC/USDT", "backtest": False, "signalId": "b7c1"},
        ],
        "closedSignal": _CLOSING,
        "cancelledSignal": {**_SIGNAL, "cancelId": "x1"},
        "activatedSignal": {**_SIGNAL, "activateId": "a1"},
        "takeProfitSignal": _CLOSING,
        "stopLossSignal": _CLOSING,
        "retryOpenSignal": _SIGNAL,
        "retryOpenCount": 1,
        "retryCloseCount": 0,
        "isPaused": False,
    },
    "risk": [["trend_binance_BTC/USDT", _POSITION]],
    "partial": {"b7c1": {"profitLevels": [10, 20], "lossLevels": []}},
    "breakeven": {"b7c1": {"reached": True}},
    "storage": _STORAGE,
    "notification": {
        "type": "signal.closed",
        "timestamp": BASE_MS,
        "backtest": False,
        "symbol": "BTC/USDT",
        "priceClose": 98.75,
        "closeReason": "stop_loss",
        "duration": 90.0,
        "minuteEstimatedTime": inf,
        "pnl": _PNL,
        "createdAt": BASE_MS,
    },
    "log": {
        "type": "info",
        "priority": BASE_MS,
        "createdAt": "2024-01-01T00:00:00.000Z",
        "timestamp": BASE_MS,
        "methodContext": {"exchangeName": "binance", "strategyName": "trend", "frameName": ""},
        "executionContext": {"symbol": "BTC/USDT", "when": datetime(2024, 1, 1, tzinfo=UTC), "backtest": False},
        "topic": "opened",
        "args": [{"price": 100.0}, "text", 1, None],
    },
    "measure": {"id": "BTC/USDT_0", "data": {"sma": [1.0, 2.5]}, "removed": False},
    "interval": {"id": "BTC/USDT_0", "data": {"fired": 1}, "when": datetime(2024, 1, 1, tzinfo=UTC), "removed": False},
    "memory": {"priority": BASE_MS, "data": {"seen": "ETH"}, "removed": False, "index": "seen ETH", "when": BASE_MS},
    "recent": _PUBLIC,
    "state": {"id": "b7c1_main", "data": {"count": 3, "ratio": 1.0}, "when": BASE_MS},
    "dictionary": {"id": "b7c1_words", "data": {"a.b": {"value": {"$x": 1}, "when": BASE_MS}}, "when": BASE_MS},
    "session": {"id": "BTC/USDT:trend:binance:live", "data": None, "when": BASE_MS},
    "run": {"kind": "run", "data": {"status": "done", "params": {"fast": 9, "slow": 21.5}}},
}


def example(domain: Domain, item: Part = "") -> Any:
    """A fresh example payload; that of a list carries `item`, its key's last part, as its own id.

    A domain that is not the original's brings its own: the first of the `examples` in its model's `json_schema_extra`.
    """
    known = (
        _EXAMPLES[domain.name]
        if domain.name in _EXAMPLES
        else domain.model.model_config["json_schema_extra"]["examples"][0]
    )
    payload = _copy(known)
    if domain.shape is Shape.LIST:
        payload[domain.row_id] = item
    return payload


def _copy(value: Any) -> Any:
    """Unlike `deepcopy`, rows that the table shares become one object for each place."""
    if isinstance(value, dict):
        return {name: _copy(member) for name, member in value.items()}
    return [_copy(member) for member in value] if isinstance(value, list) else value


def free_object(domain: Domain, payload: Any) -> dict[str, Any]:
    """The object in an example that takes fields which no model knows: the payload itself, or the first object in
    it.
    """
    found: Any = payload
    if domain.name == "risk":
        found = payload[0][1]
    elif domain.name in ("partial", "breakeven"):
        found = next(iter(payload.values()))
    assert isinstance(found, dict)
    return found


def extended(domain: Domain, item: Part = "", **extra: Any) -> Any:
    """An example with more fields in its free object."""
    payload = example(domain, item)
    free_object(domain, payload).update(extra)
    return payload


def candles(count: int, since_ms: int = BASE_MS, step_ms: int = MINUTE_MS) -> list[dict[str, Any]]:
    """Neighbouring candles with a different price each."""
    return [
        {"timestamp": since_ms + i * step_ms, "open": 100.0 + i, "high": 102.0 + i, "low": 99.5 + i,
            "close": 101.0 + i, "volume": 0.5 * i}
        for i in range(count)
    ]  # fmt: skip
