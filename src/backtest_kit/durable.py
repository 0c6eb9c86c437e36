"""Rows of a live or paper context: read at its start, written by `Save`. Every domain through its adapter.

Paper and live never share a row: what paper keeps stands under the exchange's name with `~paper` behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import backtest_kit_mongo as bk
from backtest_kit.effects import Candidate, Save
from backtest_kit.events import Event
from backtest_kit.identity import ContextId, digest, names_joined, signal_id
from backtest_kit.leases import Leases, taking_turns
from backtest_kit.risk import RiskBook, Risks
from backtest_kit.rows import Row, pnl_row, public_row
from backtest_kit.rules import Rules
from backtest_kit.signals import SignalView
from backtest_kit.state import State

RESERVED: Final = "~reserved"


class Rows:
    """The rows of one context."""

    def __init__(self, context: ContextId) -> None:
        self.context = context
        self.exchange = context.kept_exchange
        self._key = (context.symbol, context.strategy, self.exchange)

    # Rows carry the minute that they report, and a context that catches up lags behind others: no time is in force
    # here.

    def _keyed(self, signal_id: str) -> tuple[str, str, str, str]:
        symbol, strategy, exchange = self._key
        return symbol, strategy, signal_id, exchange

    def _kept(self, row: Mapping[str, Any] | None) -> Row | None:
        return None if row is None else {**row, "exchangeName": self.exchange}

    def _apart(self, row: Row) -> Row:
        """A row of a list is found by its id alone; one that the strategy chose is the same on paper and live."""
        if self.context.mode != "paper" or row["id"] == signal_id(self.context, int(row["scheduledAt"])):
            return row
        return {**row, "id": f"{row['id']}~paper"}

    def load(self, rules: Rules) -> State:
        """The state that the last process left; a new one if there was none.

        Raises:
            bk.EnvironmentFault: it cannot be read now.
        """
        with bk.simulation_time(None):
            return State.from_rows(self.context, self._read(), rules)

    def _read(self) -> dict[str, Any]:
        rows: dict[str, Any] = {
            "strategy": bk.PersistStrategyAdapter.read_strategy_data(*self._key),
            "signal": bk.PersistSignalAdapter.read_signal_data(*self._key),
            "schedule": bk.PersistScheduleAdapter.read_schedule_data(*self._key),
        }
        if signal := rows["signal"]:
            rows["partial"] = bk.PersistPartialAdapter.read_partial_data(*self._keyed(signal["id"]))
            rows["breakeven"] = bk.PersistBreakevenAdapter.read_breakeven_data(*self._keyed(signal["id"]))
        return rows

    def save(self, effect: Save) -> None:
        with bk.simulation_time(None):
            self._write(effect)

    def _write(self, effect: Save) -> None:
        row, at = effect.row, effect.at
        match effect.domain:
            case "strategy":
                bk.PersistStrategyAdapter.write_strategy_data(row, *self._key)
            case "signal":
                bk.PersistSignalAdapter.write_signal_data(self._kept(row), *self._key)
            case "schedule":
                bk.PersistScheduleAdapter.write_schedule_data(self._kept(row), *self._key)
            case "partial":
                bk.PersistPartialAdapter.write_partial_data(row or {}, *self._keyed(effect.key), at)
            case "breakeven":
                bk.PersistBreakevenAdapter.write_breakeven_data(row or {}, *self._keyed(effect.key), at)
            case "storage":
                bk.PersistStorageAdapter.upsert_storage_data(self._apart(self._kept(row) or {}), False)
            case other:
                raise AssertionError(f"no rows of {other}")

    def keep_event(self, event: Event) -> None:
        """The rows that events leave for readers: one notification each, and the newest opened signal."""
        with bk.simulation_time(None):
            self._report(event)

    def _report(self, event: Event) -> None:
        if event.action == "opened" and event.signal is not None:
            row = self._kept(public_row(event.signal, self.context))
            one = self.context
            bk.PersistRecentAdapter.write_recent_data(
                row, one.symbol, one.strategy, self.exchange, one.frame, False, event.at
            )
        if (notification := notification_row(event, self.context)) is not None:
            bk.PersistNotificationAdapter.append_notification_data(self._kept(notification) or {}, False)


class SharedRisks:
    """All risks of one context, with the books that its processes share: read, judged and written in turns.

    Reservations of contexts that are about to open stand in a row of their own, so that the row of a risk is exactly
    the open positions.
    """

    def __init__(
        self, context: ContextId, books: Sequence[RiskBook], leases: Leases, now_ms: Callable[[], int]
    ) -> None:
        self.risks = Risks(context, books)
        self.context, self._leases, self._now_ms = context, leases, now_ms
        self._exchange = context.kept_exchange

    def reserve(self, candidate: Candidate) -> str | None:
        if not self.risks.books:
            return None
        with self._turn(candidate.at):
            return self.risks.reserve(candidate)

    def hold(self, candidate: Candidate, *, is_open: bool) -> None:
        if self.risks.books:
            with self._turn(candidate.at):
                self.risks.hold(candidate, is_open=is_open)

    def release(self, at: int) -> None:
        if self.risks.books:
            with self._turn(at):
                self.risks.release()

    @contextmanager
    def _turn(self, at: int) -> Iterator[None]:
        names = sorted(names_joined("/", "risk", book.name, self._exchange) for book in self.risks.books)
        with ExitStack() as stack, bk.simulation_time(None):
            for name in names:
                stack.enter_context(taking_turns(self._leases, name))
            before = [self._load(book) for book in self.risks.books]
            yield
            for book, rows in zip(self.risks.books, before, strict=True):
                self._save(book, rows, at)

    def _load(self, book: RiskBook) -> tuple[list[Any], list[Any]]:
        """What is stored, those whose time is over too: the next write takes them out."""
        moment = self._now_ms()
        read = bk.PersistRiskAdapter.read_position_data
        opened = read(book.name, self._exchange, moment)
        reserved = read(book.name + RESERVED, self._exchange, moment)
        book.restore(opened, moment, reserved)
        return opened, reserved

    def _save(self, book: RiskBook, before: tuple[list[Any], list[Any]], at: int) -> None:
        write = bk.PersistRiskAdapter.write_position_data
        for suffix, was, rows in zip(("", RESERVED), before, (book.to_rows(), book.reserved_rows()), strict=True):
            if rows != was:
                write(rows, book.name + suffix, self._exchange, at)


_TYPES: Mapping[str, str] = {
    "scheduled": "signal.scheduled",
    "opened": "signal.opened",
    "closed": "signal.closed",
    "cancelled": "signal.cancelled",
    "partial_profit": "partial_profit.available",
    "partial_loss": "partial_loss.available",
    "breakeven": "breakeven.available",
}


def notification_row(event: Event, context: ContextId) -> Row | None:
    """The event as a row of the notification domain; None: it leaves none. Its id is the event's: reported twice, kept
    once.
    """
    kind = f"{(event.commit or '').replace('-', '_')}.commit" if event.action == "commit" else _TYPES.get(event.action)
    if kind is None or event.signal is None:
        return None
    view = event.signal
    row: Row = {
        **public_row(view, context),
        "id": _notification_id(event, view, context),
        "type": kind,
        "signalId": view.id,
        "backtest": False,
        "timestamp": event.at,
        "createdAt": event.at,
        "currentPrice": event.price,
        **_ADDED.get(kind, lambda _: {})(event),
    }
    if event.pnl is not None:
        pnl = pnl_row(event.pnl)
        row |= {
            "pnl": pnl,
            "pnlPercentage": pnl["pnlPercentage"],
            "pnlPriceOpen": pnl["priceOpen"],
            "pnlPriceClose": pnl["priceClose"],
            "pnlCost": pnl["pnlCost"],
            "pnlEntries": pnl["pnlEntries"],
        }
    return row


def _notification_id(event: Event, view: SignalView, context: ContextId) -> str:
    """The event's; if the strategy chose the signal's id, with the context, for others may have chosen it as well."""
    if view.id == signal_id(context, view.scheduled_at):
        return event.event_id
    return digest(event.event_id, context.symbol, context.strategy, context.exchange, context.mode, view.scheduled_at)


def _duration(event: Event) -> float:
    assert event.signal is not None
    return (event.at - (event.signal.pending_at or event.signal.scheduled_at)) / 60_000


_ADDED: Mapping[str, Any] = {
    "signal.closed": lambda event: {
        "priceClose": event.price, "closeReason": event.reason, "duration": _duration(event),
    },
    "signal.cancelled": lambda event: {"cancelReason": event.reason, "duration": _duration(event)},
    "partial_profit.available": lambda event: {"level": event.level},
    "partial_loss.available": lambda event: {"level": event.level},
    "partial_profit.commit": lambda event: {"percentToClose": event.amount},
    "partial_loss.commit": lambda event: {"percentToClose": event.amount},
    "average_buy.commit": lambda event: {"effectivePriceOpen": event.signal.price_open},
    "trailing_stop.commit": lambda event: {"percentShift": event.amount},
    "trailing_take.commit": lambda event: {"percentShift": event.amount},
}  # fmt: skip
