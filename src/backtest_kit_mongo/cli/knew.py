"""`bkm knew`: the whole state of a strategy as it was at a moment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Annotated, Any

import typer
from bson import json_util

from backtest_kit_mongo.audit.as_of import AsOf
from backtest_kit_mongo.audit.keytext import format_key
from backtest_kit_mongo.audit.known_sessions import known_sessions
from backtest_kit_mongo.audit.log import AuditLog
from backtest_kit_mongo.audit.market import CANDLE_FIELDS, Market
from backtest_kit_mongo.audit.past import PastDocument
from backtest_kit_mongo.coherence.moments import iso
from backtest_kit_mongo.domains.table import CANDLE
from backtest_kit_mongo.terminal import echo

from .audit_opening import open_audit_log
from .moments import past_ms

__all__ = ["knew"]

VALUE_MAX = 300
PAPER = "~paper"


def knew(
    strategy: Annotated[str, typer.Argument(metavar="STRATEGY", help="Its name.")],
    at: Annotated[str, typer.Option("--at", metavar="TIME", help="Milliseconds, or a date and time; UTC.")],
    symbol: Annotated[str | None, typer.Option("--symbol", help="Only what belongs to this symbol.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")] = False,
) -> None:
    """Show everything that a strategy had stored at a moment, in all domains, and the last candles that it could see.

    Out of the audit log: each document with the newest revision of which the minute of the step that wrote it, or else
    its simulation time, or else its writer's clock is not later. What the log no longer has is said on standard error.
    In Python: [cyan]with bk.as_of(moment): ..[/] reads with the adapters.

    [bold]Examples[/]

    [cyan]bkm knew trend --at 2026-11-29T14:03[/]

    [cyan]bkm knew trend --at 2026-11-29T14:03 --json | jq 'select(.domain == "state")'[/]

    Exit status: 0; 1 when a server failed, 2 when an argument is wrong.
    """
    with open_audit_log() as log:
        moment = past_ms(at, "--at")
        with AsOf(moment, lambda: nullcontext(log)) as then:
            found = list(then.documents(strategy=strategy, symbol=symbol))
            candles = list(_candles(log, then, _series(found)))
        known = "" if found else known_sessions(log, strategy, "live")
    for one in found:
        echo(json.dumps(_described(one)) if as_json else _line(one))
    for candle in candles:
        echo(json.dumps(candle) if as_json else _candle_line(candle))
    if not found:
        echo(f"The audit log knows nothing of a strategy {strategy!r} at {iso(moment)}. {known}.", err=True)
    for sentence in then.missing:
        echo(f"missing: {sentence}", err=True)


def _line(one: PastDocument) -> str:
    payload = json_util.dumps(one.record.payload, json_options=json_util.RELAXED_JSON_OPTIONS)
    shown = payload if len(payload) <= VALUE_MAX else f"{payload[:VALUE_MAX]} .. ({len(payload)} characters)"
    by = f"{one.change.host}:{one.change.process}" if one.change.host else "an unknown writer"
    return f"{format_key(one.record.key.domain.name, one.record.key.parts)} rev {one.record.rev} by {by}: {shown}"


def _described(one: PastDocument) -> dict[str, Any]:
    record, change = one.record, one.change
    payload = json_util.dumps(record.payload, json_options=json_util.RELAXED_JSON_OPTIONS)
    return {
        "domain": record.key.domain.name,
        "key": format_key(record.key.domain.name, record.key.parts),
        "rev": record.rev,
        "when": record.when,
        "writtenAt": None if change.written_at is None else change.written_at.isoformat(),
        "host": change.host,
        "process": change.process,
        "payload": json.loads(payload),
    }


def _series(found: Iterable[PastDocument]) -> set[tuple[str, str]]:
    """Exchange and symbol of its contexts."""
    named = (one.record.key.query() for one in found)
    return {
        (str(one["exchangeName"]).removesuffix(PAPER), str(one["symbol"]))
        for one in named
        if "exchangeName" in one and "symbol" in one
    }


def _candles(log: AuditLog, then: AsOf, series: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """The last closed one of each interval."""
    for exchange, symbol in sorted(series):
        market = Market(log.database, exchange, symbol, then.missing.append)
        for interval in market.intervals():
            if (last := market.last_before(interval, then.moment)) is not None:
                named = {"exchangeName": exchange, "symbol": symbol, "interval": interval}
                yield {"domain": CANDLE.name, **named, **dict(zip(CANDLE_FIELDS, last, strict=True))}


def _candle_line(candle: dict[str, Any]) -> str:
    values = ", ".join(f"{name} {candle[name]:g}" for name in CANDLE.fields)
    name = f"{candle['exchangeName']} {candle['symbol']} {candle['interval']}"
    return f"last candle of {name}: {iso(candle['timestamp'])} {values}"
