"""One host's loop: read what is remembered, decide, write, and the state last, so that a killed host just goes on."""

from collections.abc import Callable, Sequence
from typing import Any

from backtest_kit_mongo.coherence.record import Key
from backtest_kit_verify.demo.book import Book, Event, Host, Row
from backtest_kit_verify.demo.desk import Desk
from backtest_kit_verify.demo.rows import Slots, Write, moment, public, session, state, writes
from backtest_kit_verify.demo.strategy import ATR_BARS, advance, average_range, progress_percent

__all__ = ["replay"]

LEVEL_STEP_PERCENT = 10


def replay(desk: Desk, host: Host, candles: Sequence[Row], on_bar: Callable[[Book], None]) -> Book:
    """Replay from wherever the state says on to the last candle, and return the final book.

    `on_bar` is called with the book at the start and after each bar. Every step begins by reading the state, so nothing
    but the store connects two bars.
    """
    slots = Slots(host)
    last_ms = candles[-1]["timestamp"]
    while True:
        stored = desk.read(slots.state, last_ms)
        book = Book.of(stored["data"] if stored else None)
        on_bar(book)
        if book.bars >= len(candles):
            return book
        _step(desk, slots, host, book, candles)


def _step(desk: Desk, slots: Slots, host: Host, book: Book, candles: Sequence[Row]) -> None:
    candle = candles[book.bars]
    time_ms = candle["timestamp"]
    for key in (slots.signal, slots.schedule):
        desk.read(key, time_ms)
    atr = _average_range(desk, slots, candles[max(0, book.bars + 1 - ATR_BARS) : book.bars + 1], time_ms)
    after, events = advance(book, candle, atr, host)
    for slot, before, now in (
        (slots.schedule, book.scheduled, after.scheduled),
        (slots.signal, book.position, after.position),
    ):
        if now != before:
            desk.write(Write(slot, now, time_ms))
    for event in events:
        _record(desk, slots, host, event)
    if after.position is not None:
        _watch(desk, slots, after.position, candle)
    _once_a_day(desk, slots, host, after, time_ms)
    if after.bars == len(candles):
        desk.write(session(slots, host, after, time_ms))
    desk.write(state(slots, after, time_ms))


def _average_range(desk: Desk, slots: Slots, candles: Sequence[Row], time_ms: int) -> float:
    """Computed by the first host that needs it, found by the others."""
    key = slots.measure(time_ms)
    found = desk.read(key, time_ms)
    if found is not None:
        return float(found["data"])
    value = average_range(candles)
    desk.write(Write(key, {"id": key.item, "data": value, "removed": False}, time_ms))
    return value


def _record(desk: Desk, slots: Slots, host: Host, event: Event) -> None:
    asked: dict[str, tuple[Key, ...]] = {
        "opened": (slots.strategy, slots.risk),
        "closed": (slots.memory(event.row["id"], "opened"), slots.dictionary(event.row["id"]), slots.risk),
    }
    for key in asked.get(event.kind, ()):
        desk.read(key, event.time_ms)
    for write in writes(slots, host, event):
        desk.write(write)


def _watch(desk: Desk, slots: Slots, row: Row, candle: Row) -> None:
    """What is looked at and reported on every bar of an open position."""
    signal_id, price, time_ms = row["id"], candle["close"], candle["timestamp"]
    desk.read(slots.breakeven(signal_id), time_ms)
    desk.read(slots.recent, time_ms)
    key = slots.partial(signal_id)
    levels: dict[str, Any] = desk.read(key, time_ms)[signal_id]
    progress = progress_percent(row, price)
    name = "profitLevels" if progress > 0 else "lossLevels"
    reached = range(LEVEL_STEP_PERCENT, int(abs(progress)) + 1, LEVEL_STEP_PERCENT)
    new = [level for level in reached if level not in levels[name]]
    if new:
        desk.write(Write(key, {signal_id: {**levels, name: levels[name] + new}}, time_ms))
    desk.write(Write(slots.recent, public(row, price), time_ms))


def _once_a_day(desk: Desk, slots: Slots, host: Host, book: Book, time_ms: int) -> None:
    """The marker is written after the work it stands for: a crash between them repeats the work and loses nothing."""
    key = slots.day(time_ms)
    if desk.read(key, time_ms) is not None:
        return
    desk.read(slots.session, time_ms)
    desk.write(session(slots, host, book, time_ms))
    marker = {"id": key.item, "data": {"trades": book.trades}, "when": moment(time_ms), "removed": False}
    desk.write(Write(key, marker, time_ms))
