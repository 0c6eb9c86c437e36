"""What is written when something happens to a signal: one function from an event to the writes of ten domains."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains import table
from backtest_kit_mongo.domains.checks import make_key
from backtest_kit_verify.demo.book import BACKTEST, FRAME, Book, Event, Host, Row
from backtest_kit_verify.demo.strategy import pnl

__all__ = ["Slots", "Write", "moment", "session", "state", "writes"]

NOTICES: Final = {
    "scheduled": "signal.scheduled",
    "cancelled": "signal.cancelled",
    "opened": "signal.opened",
    "partial": "partial_profit.commit",
    "breakeven": "breakeven.commit",
    "closed": "signal.closed",
}
"""Notification type of each kind of event."""

STATUS: Final = {"scheduled": "scheduled", "cancelled": "cancelled", "closed": "closed"}
"""Status of the signal in the history after an event; otherwise it is opened."""


class Write(NamedTuple):
    """One call of an adapter."""

    key: Key
    payload: Any
    when_ms: int


class Slots:
    """The keys that a host reads and writes on every bar."""

    def __init__(self, host: Host) -> None:
        context = (host.symbol, host.strategy, host.exchange)
        self._host = host
        self.signal = make_key(table.SIGNAL, context)
        self.schedule = make_key(table.SCHEDULE, context)
        self.strategy = make_key(table.STRATEGY, context)
        self.risk = make_key(table.RISK, (host.account, host.exchange))
        self.recent = make_key(table.RECENT, (*context, FRAME, BACKTEST))
        self.state = make_key(table.STATE, (host.account, "book"))
        self.session = make_key(table.SESSION, (host.strategy, host.exchange, FRAME, host.symbol, BACKTEST))

    def measure(self, time_ms: int) -> Key:
        """Of all hosts of a symbol, so that one computes the value and the others find it."""
        host = self._host
        return make_key(table.MEASURE, (f"{host.run}.range", f"{host.symbol}_{host.interval}_{time_ms}"))

    def day(self, time_ms: int) -> Key:
        host = self._host
        return make_key(table.INTERVAL, (f"{host.run}.daily", f"{host.account}_{moment(time_ms):%Y-%m-%d}"))

    def partial(self, signal_id: str) -> Key:
        return make_key(table.PARTIAL, (*self.signal.parts, signal_id))

    def breakeven(self, signal_id: str) -> Key:
        return make_key(table.BREAKEVEN, (*self.signal.parts, signal_id))

    def memory(self, signal_id: str, kind: str) -> Key:
        return make_key(table.MEMORY, (signal_id, "events", kind))

    def dictionary(self, signal_id: str) -> Key:
        return make_key(table.DICTIONARY, (signal_id, "prices"))


def moment(time_ms: int) -> datetime:
    """Simulation time as a date."""
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def state(slots: Slots, book: Book, time_ms: int) -> Write:
    """The last write of a step: whatever of the step was written before it is written again, alike, after a crash."""
    signal_id, bucket = slots.state.parts
    return Write(slots.state, {"id": f"{signal_id}_{bucket}", "data": book.data(), "when": time_ms}, time_ms)


def session(slots: Slots, host: Host, book: Book, time_ms: int) -> Write:
    """How the run stands."""
    data = {"bars": book.bars, "trades": book.trades, "wins": book.wins, "pnlPercent": book.pnl_percent}
    name = f"{host.symbol}:{host.strategy}:{host.exchange}:{FRAME}:backtest"
    return Write(slots.session, {"id": name, "data": data, "when": time_ms}, time_ms)


def writes(slots: Slots, host: Host, event: Event) -> Iterator[Write]:
    """Everything that one event writes, in the order of a real engine: intent, position, history, intent done."""
    time_ms = event.time_ms
    yield Write(slots.strategy, _intent(event), time_ms)
    yield from _position(slots, host, event)
    yield from _history(slots, host, event)
    yield Write(slots.strategy, _intent_done(event), time_ms)


def _intent(event: Event) -> Row:
    row = event.row
    plan: Row = {"pendingSignalId": row["id"], "lastPendingId": None, "commitQueue": [], "isPaused": False}
    commit = {"symbol": row["symbol"], "backtest": BACKTEST, "currentPrice": event.price}
    match event.kind:
        case "scheduled":
            plan["createdSignal"] = {name: row[name] for name in ("id", "symbol", "position", "note", "priceOpen")}
        case "cancelled":
            plan["cancelledSignal"] = {**row, "cancelId": row["id"], "cancelNote": event.reason}
        case "opened":
            plan["activatedSignal"] = {**row, "activateId": row["id"], "activateNote": "price reached"}
        case "partial":
            plan["commitQueue"] = [
                {"action": "partial-profit", **commit, "percentToClose": row["_partial"][0]["percent"]}
            ]
        case "breakeven":
            plan["commitQueue"] = [{"action": "breakeven", **commit}]
        case "closed":
            plan["closedSignal"] = {**row, "closeId": row["id"], "closeNote": event.reason}
    return plan


def _intent_done(event: Event) -> Row:
    ended = event.kind in ("cancelled", "closed")
    signal_id = event.row["id"]
    return {
        "pendingSignalId": None if ended else signal_id,
        "lastPendingId": signal_id,
        "commitQueue": [],
        "isPaused": False,
    }


def _position(slots: Slots, host: Host, event: Event) -> Iterator[Write]:
    signal_id, time_ms = event.row["id"], event.time_ms
    if event.kind == "opened":
        yield Write(slots.risk, [[f"{host.strategy}_{host.exchange}_{host.symbol}", _exposure(event.row)]], time_ms)
        yield Write(slots.partial(signal_id), {signal_id: {"profitLevels": [], "lossLevels": []}}, time_ms)
    if event.kind in ("opened", "breakeven"):
        reached = event.kind == "breakeven"
        yield Write(slots.breakeven(signal_id), {signal_id: {"reached": reached}}, time_ms)
    if event.kind == "closed":
        yield Write(slots.risk, [], time_ms)
        yield Write(slots.recent, public(event.row, event.price), time_ms)


def _exposure(row: Row) -> Row:
    names = ("strategyName", "exchangeName", "frameName", "symbol", "position", "priceOpen", "priceStopLoss")
    more = ("priceTakeProfit", "minuteEstimatedTime")
    return {**{name: row[name] for name in (*names, *more)}, "openTimestamp": row["pendingAt"]}


def _history(slots: Slots, host: Host, event: Event) -> Iterator[Write]:
    kind, row, price, time_ms, reason = event.kind, event.row, event.price, event.time_ms, event.reason
    stored = {**public(row, price), "status": STATUS.get(kind, "opened"), "currentPrice": price}
    stored |= {"createdAt": row["scheduledAt"], "updatedAt": time_ms, "priority": time_ms}
    if kind == "closed":
        stored |= {"closeReason": reason, "closeTimestamp": time_ms}
    yield _list_row(table.STORAGE, (BACKTEST,), stored, time_ms)
    yield _list_row(table.NOTIFICATION, (BACKTEST,), _notice(event), time_ms)
    yield _list_row(table.LOG, (), _log_line(host, event), time_ms)
    note = {"kind": kind, "price": price, "reason": reason}
    memory = {"priority": time_ms, "data": note, "removed": False, "index": f"{kind} {reason}".strip(), "when": time_ms}
    yield Write(slots.memory(row["id"], kind), memory, time_ms)
    key = slots.dictionary(row["id"])
    yield Write(key, {"id": "_".join(map(str, key.parts)), "data": _prices(event), "when": time_ms}, time_ms)


def _list_row(domain: Any, scope: tuple[bool, ...], row: Row, time_ms: int) -> Write:
    return Write(make_key(domain, (*scope, row["id"])), row, time_ms)


def public(row: Row, price: float) -> Row:
    """The row as users see it, with results at the price."""
    now = pnl(row, price)
    best, worst = ({name: row[extreme][name] for name in now} for extreme in ("_peak", "_fall"))
    return {
        **row,
        "originalPriceOpen": row["priceOpen"],
        "originalPriceTakeProfit": row["priceTakeProfit"],
        "originalPriceStopLoss": row["priceStopLoss"],
        "partialExecuted": sum(part["percent"] for part in row["_partial"]),
        "totalEntries": 1,
        "totalPartials": len(row["_partial"]),
        "pnl": now,
        "peakProfit": best,
        "maxDrawdown": worst,
    }


def _notice(event: Event) -> Row:
    row = event.row
    names = (
        "symbol",
        "strategyName",
        "exchangeName",
        "position",
        "note",
        "priceOpen",
        "priceTakeProfit",
        "priceStopLoss",
    )
    more = ("minuteEstimatedTime", "cost", "scheduledAt", "pendingAt")
    notice = {"id": f"{row['id']}.{event.kind}", "type": NOTICES[event.kind], "timestamp": event.time_ms}
    notice |= {"backtest": BACKTEST, "signalId": row["id"], "currentPrice": event.price, "createdAt": event.time_ms}
    notice |= {name: row[name] for name in (*names, *more)} | {"pnl": pnl(row, event.price)}
    if event.kind == "closed":
        minutes = (event.time_ms - row["pendingAt"]) / 60_000
        notice |= {"priceClose": event.price, "closeReason": event.reason, "duration": minutes}
    elif event.kind == "cancelled":
        minutes = (event.time_ms - row["scheduledAt"]) / 60_000
        notice |= {"cancelReason": event.reason, "cancelId": row["id"], "duration": minutes}
    return notice


def _log_line(host: Host, event: Event) -> Row:
    when = moment(event.time_ms)
    return {
        "id": f"{event.row['id']}.{event.kind}",
        "type": "info",
        "priority": event.time_ms,
        "createdAt": f"{when:%Y-%m-%dT%H:%M:%S}.000Z",
        "timestamp": event.time_ms,
        "methodContext": {"exchangeName": host.exchange, "strategyName": host.strategy, "frameName": FRAME},
        "executionContext": {"symbol": host.symbol, "when": when, "backtest": BACKTEST},
        "topic": f"signal {event.kind}",
        "args": [event.row["id"], event.price, event.reason],
    }


def _prices(event: Event) -> Row:
    """The signal's own dictionary: at which price each thing happened, and when."""
    row = event.row
    entry = "scheduled" if row["_isScheduled"] else "opened"
    data = {entry: {"value": row["priceOpen"], "when": row["pendingAt"]}}
    for part in row["_partial"]:
        data["partial"] = {"value": part["currentPrice"], "when": part["timestamp"]}
    return data | {event.kind: {"value": event.price, "when": event.time_ms}}
