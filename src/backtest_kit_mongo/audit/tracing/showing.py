"""A trace as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from bson import json_util

from backtest_kit_mongo.audit.export import row as record_row
from backtest_kit_mongo.audit.records import AuditRecord
from backtest_kit_mongo.audit.tracing.finding import key_text
from backtest_kit_mongo.audit.tracing.tree import UNSTAMPED, TraceChange, TraceStep
from backtest_kit_mongo.coherence.moments import iso

if TYPE_CHECKING:
    from backtest_kit_mongo.audit.tracing.marks import Mark
    from backtest_kit_mongo.audit.tracing.trace import Trace

TEXT_MAX: Final = 160
"""Characters of a value that are shown, unless all was asked for."""
CHANGES_MAX: Final = 4
"""Differences of a revision that are shown, unless all were asked for."""


def lines(one: Trace, *, is_whole: bool) -> Iterator[str]:
    yield heading(one)
    if one.candles:
        yield f"  candle seen {candle_text(one.candles[-1])}, and the {len(one.candles) - 1} before it"
    if prices := [mark_text(mark) for mark in one.marks if mark.kind != "level"]:
        yield f"  prices: {'; '.join(prices)}"
    yield f"  written by {', '.join(one.hosts) or 'nobody that is known'}"
    shown = [[step] for step in one.steps] if is_whole else grouped(one.steps)
    for number, steps in enumerate(shown):
        is_last = number == len(shown) - 1
        if len(steps) > 1:
            span = f"{_minute(steps[0])} .. {_minute(steps[-1])}"
            yield f"{'└─' if is_last else '├─'} {span} {len(steps)} minutes in which only time went on"
        else:
            yield from _step_lines(steps[0], "", is_last=is_last, is_whole=is_whole)
    for sentence in one.missing:
        yield f"  missing: {sentence}"


def grouped(steps: Sequence[TraceStep]) -> list[list[TraceStep]]:
    """Minutes that follow each other and changed nothing but the minute up to which the state is whole, together."""
    found: list[list[TraceStep]] = []
    for is_quiet, group in groupby(steps, _is_quiet):
        minutes = list(group)
        found += [minutes] if is_quiet else [[step] for step in minutes]
    return found


def _is_quiet(step: TraceStep) -> bool:
    texts = (text for change in step.changes for text in change.differences or ("nothing",))
    is_own = not step.detail and all(text.startswith("~ engine.asOf:") for text in texts)
    return is_own and step.what != "resumed" and all(map(_is_quiet, step.steps))


def _minute(step: TraceStep) -> str:
    return "?" if step.at is None else iso(step.at)


def heading(one: Trace) -> str:
    """The signal in one line."""
    row = one.row
    words = [f"signal {one.signal}:", str(row.get("position", "")), one.symbol, f"by {one.strategy}"]
    words += [f"at {one.exchange}", f"({one.mode or 'mode unknown'})"]
    text = " ".join(word for word in words if word)
    status = f", {one.status}" if one.status else ""
    if one.status == "closed":
        status += f" {row.get('closeReason')} at {row.get('currentPrice')}"
        pnl = row.get("pnl")
        if isinstance(pnl, Mapping) and isinstance(percent := pnl.get("pnlPercentage"), int | float):
            status += f", {percent:+.4f} %"
    return text + status


def mark_text(mark: Mark) -> str:
    """What a chart marks, in words."""
    said = f" {mark.text}" if mark.text else ""
    return f"{mark.kind} {mark.price:g}{said} {iso(mark.at)}"


def candle_text(candle: Mapping[str, Any]) -> str:
    values = ", ".join(f"{name} {candle[name]:g}" for name in ("open", "high", "low", "close", "volume"))
    return f"{iso(candle['timestamp'])}: {values}"


def _step_lines(step: TraceStep, before: str, *, is_last: bool, is_whole: bool) -> Iterator[str]:
    yield before + ("└─ " if is_last else "├─ ") + step_text(step)
    inner = before + ("   " if is_last else "│  ")
    bar = inner + ("│  " if step.steps else "   ")
    for change in step.changes:
        for text in _change_lines(change, is_whole=is_whole):
            yield bar + text
    for number, one in enumerate(step.steps):
        yield from _step_lines(one, inner, is_last=number == len(step.steps) - 1, is_whole=is_whole)


def step_text(step: TraceStep) -> str:
    """A step in one line: simulated time, what, by whom, and when by the writers' clocks."""
    is_minute = step.what in ("tick", "resumed", UNSTAMPED) and step.at is not None
    words = [iso(step.at), step.what] if is_minute and step.at is not None else [step.what.replace("_", " ")]
    if told := told_text(step.detail):
        words.append(told)
    if step.writers:
        words.append(f"[{', '.join(step.writers)} {span_text(step)}]")
    return " ".join(words)


def told_text(detail: Mapping[str, Any]) -> str:
    """What a question or an order tells, in words."""
    if detail.get("kind") == "asked":
        given = detail.get("proposal")
        proposal = given if isinstance(given, Mapping) else {}
        names = {"priceOpen": "at", "priceTakeProfit": "take", "priceStopLoss": "stop", "note": "note"}
        said = [f"{word} {proposal[name]}" for name, word in names.items() if proposal.get(name)]
        return f"at price {detail.get('price')}: answered {proposal.get('position')}, {', '.join(said)}"
    if detail.get("kind") == "order":
        is_done = detail.get("isDone")
        answer = "done" if is_done is True else "refused" if is_done is False else "no answer"
        replies = detail.get("replies")
        parts = [_reply_text(one) for one in replies if isinstance(one, Mapping)] if isinstance(replies, list) else []
        return f"{detail.get('side')} for {detail.get('cost')} at {detail.get('price')}: {answer} ({'; '.join(parts)})"
    return ""


def _reply_text(reply: Mapping[str, Any]) -> str:
    reason = f", {reply['reason']}" if reply.get("reason") else ""
    return (
        f"order {reply.get('clientOrderId')} {reply.get('status')}, filled {reply.get('filled')} at "
        f"{reply.get('average')}{reason}"
    )


def _change_lines(change: TraceChange, *, is_whole: bool) -> Iterator[str]:
    record = change.record
    if change.is_read:
        text = f"read {key_text(record)} = {record.payload!r}"
        yield f"{_cut(text, is_whole=is_whole)} ({record.host}:{record.process} {time_text(record.written_at)})"
        return
    reason = f": {record.reason}" if record.reason else ""
    yield f"{key_text(record)} rev {record.rev} {record.operation}{reason}"
    shown = change.differences if is_whole else change.differences[:CHANGES_MAX]
    if not is_whole and all(text.startswith("+ payload: {") for text in shown):
        return  # A new row is told by its step.
    for text in shown:
        yield "    " + _cut(text, is_whole=is_whole)
    if len(shown) < len(change.differences):
        yield f"    and {len(change.differences) - len(shown)} more fields"


def _cut(text: str, *, is_whole: bool) -> str:
    return text if is_whole or len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 2]} .."


def span_text(step: TraceStep) -> str:
    first, last = time_text(step.first_written), time_text(step.last_written)
    return first if first == last else f"{first} .. {last}"


def time_text(moment: datetime | None) -> str:
    if moment is None:
        return "at an unknown time"
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_dict(one: Trace) -> dict[str, Any]:
    return {
        "signal": one.signal,
        "symbol": one.symbol,
        "strategy": one.strategy,
        "exchange": one.exchange,
        "mode": one.mode,
        "status": one.status,
        "row": _plain(one.row),
        "hosts": list(one.hosts),
        "candles": [dict(candle) for candle in one.candles],
        "marks": [{"at": mark.at, "kind": mark.kind, "price": mark.price, "text": mark.text} for mark in one.marks],
        "steps": [_step_dict(step) for step in one.steps],
        "missing": list(one.missing),
    }


def _step_dict(step: TraceStep) -> dict[str, Any]:
    return {
        "id": step.id,
        "what": step.what,
        "at": step.at,
        "writers": list(step.writers),
        "firstWritten": None if step.first_written is None else time_text(step.first_written),
        "lastWritten": None if step.last_written is None else time_text(step.last_written),
        "detail": _plain(step.detail),
        "changes": [_change_dict(change) for change in step.changes],
        "steps": [_step_dict(inner) for inner in step.steps],
    }


def _change_dict(change: TraceChange) -> dict[str, Any]:
    return {**record_dict(change.record), "isRead": change.is_read, "differences": list(change.differences)}


def record_dict(record: AuditRecord) -> dict[str, Any]:
    fields = record_row(record)
    dates = {name: None if fields[name] is None else time_text(fields[name]) for name in ("written_at", "recorded_at")}
    return {**fields, **dates, "payload": _plain(fields["payload"])}


def _plain(payload: Any) -> Any:
    """What JSON has no word for as Extended JSON."""
    return json.loads(json_util.dumps(payload, json_options=json_util.RELAXED_JSON_OPTIONS))
