"""Signals: the history, what happened around a moment, and the trace of one with its chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from markupsafe import Markup

from backtest_kit_console import words
from backtest_kit_console.pictures import signal_plot
from backtest_kit_console.sources import Sources
from backtest_kit_mongo.audit.keytext import format_key
from backtest_kit_mongo.audit.tracing import Trace, TraceStep, trace
from backtest_kit_mongo.audit.tracing.finding import PAPER
from backtest_kit_mongo.audit.tracing.showing import grouped, told_text
from backtest_kit_mongo.backends.mongo.decoding import TOLERANT
from backtest_kit_mongo.backends.mongo.layout import BY_CHANGE, collection_of, payload_field
from backtest_kit_mongo.candles.intervals import grid_of
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import BY_NAME, CANDLE, STORAGE

from .asking import ROWS, Answer, Asked, Paged
from .candles import RANGE_MAX, candles_of
from .lately import AROUND_MS, SEARCH_MS, Wanted, around, moment_of
from .reasons import reasons

__all__ = ["show", "show_one"]

COUNTED_MAX: Final = 10_000
"""Signals of the history that are paged through."""
MINUTE_MS: Final = 60_000
BEFORE: Final = 60
AFTER: Final = 30
"""Minutes that are drawn around a signal."""
STEPS_MAX: Final = 400
SYMBOLS_S: Final = 60.0
SYMBOLS_MAX: Final = 200


class Shown(NamedTuple):
    """A step of the tree, or several minutes in which only time went on.

    Attributes:
        told: what a question or an order tells.
        quiet: how many minutes it stands for; 1: it is a step.
    """

    step: TraceStep
    last: TraceStep
    told: str
    quiet: int


def show(asked: Asked) -> Answer:
    if asked.text("id"):
        return show_one(asked)
    symbol, strategy, at = asked.text("symbol"), asked.text("strategy"), asked.text("at")
    wanted = Wanted(asked.text("mode") == "backtest", _symbols(asked, symbol), strategy)
    moment = moment_of(at, words.now_ms()) if at else None
    values: dict[str, Any] = {
        "mode": asked.text("mode"), "symbol": symbol, "strategy": strategy, "at": at, "moment": moment,
        "most": COUNTED_MAX, "page": None, "events": (), "nearest": None, "hour": AROUND_MS,
    }  # fmt: skip
    if moment is not None:
        values["events"] = found = around(asked.sources, wanted, moment)
        values["nearest"] = min((abs(one.at - moment) for one in found), default=None)
    else:
        values["page"] = _history(asked, wanted)
    return Answer("signals.html", values)


def _history(asked: Asked, wanted: Wanted) -> Paged[Mapping[str, Any]]:
    """Those that changed last first. All are only counted where an index does it."""
    field, query = payload_field(STORAGE), wanted.query(STORAGE)
    kept = asked.sources.database.get_collection(collection_of(STORAGE), TOLERANT)
    first = asked.whole("from", 0, COUNTED_MAX)
    # No index has a part of a strategy's name, so it is looked for among those that changed last.
    stages: list[dict[str, Any]] = [{"$match": wanted._replace(strategy="").query(STORAGE)}, {"$sort": dict(BY_CHANGE)}]
    stages += [{"$limit": COUNTED_MAX}, {"$match": query}] if wanted.strategy else []
    stages += [{"$skip": first}, {"$limit": ROWS + 1}, {"$project": {field: 1}}]
    found = list(kept.aggregate(stages, maxTimeMS=SEARCH_MS))
    rows = [one[field] for one in found[:ROWS] if isinstance(one.get(field), dict)]
    is_all = first == 0 and len(found) <= ROWS
    total = len(found) if is_all else None if wanted.strategy else kept.count_documents(query, limit=COUNTED_MAX)
    return Paged(rows, first, total, has_more=len(found) > ROWS)


def _symbols(asked: Asked, text: str) -> list[str] | None:
    """The symbols that people mean by a text, however it is written: BTC means BTC/USDT; None: all."""
    if not text:
        return None
    known = asked.sources.look("symbols", lambda: _known_symbols(asked.sources), SYMBOLS_S, 0.5).value or ()
    meant = _plain(text)
    return [one for one in known if meant in _plain(one)][:SYMBOLS_MAX] or [text]


def _known_symbols(sources: Sources) -> list[str]:
    kept = sources.database[collection_of(STORAGE)]
    found = (
        one
        for is_backtest in (False, True)
        for one in kept.distinct(f"{payload_field(STORAGE)}.symbol", {"backtest": is_backtest})
    )
    return sorted({one for one in found if isinstance(one, str)})


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def show_one(asked: Asked) -> Answer:
    found = trace(asked.sources.log, asked.exact("id"))
    shown = grouped(found.steps)
    picture, interval = _picture(asked.sources, found)
    values = {
        "trace": found,
        "steps": [_shown(steps) for steps in shown[:STEPS_MAX]],
        "left": max(0, len(shown) - STEPS_MAX),
        "told": told_text,
        "reasons": reasons(found),
        "key": _key_text,
        "picture": picture,
        "interval": interval,
        "pnl": _percent(found.row),
    }
    return Answer("signal.html", values)


def _shown(steps: Sequence[TraceStep]) -> Shown:
    return Shown(steps[0], steps[-1], told_text(steps[0].detail), len(steps))


def _key_text(record: Any) -> str:
    """What a link to the key's timeline names; empty if the record does not know it."""
    return format_key(record.domain, record.key) if record.key and record.domain in BY_NAME else ""


def _percent(row: Mapping[str, Any]) -> Any:
    pnl = row.get("pnl")
    return pnl.get("pnlPercentage") if isinstance(pnl, Mapping) else None


def _picture(sources: Sources, found: Trace) -> tuple[Markup | None, str]:
    """The price around the signal, in minutes or as fine as a page may be; None where no candles are stored."""
    moments = [mark.at for mark in found.marks] or [step.at for step in found.steps if step.at is not None]
    if not moments:
        return None, ""
    since, until = min(moments) - BEFORE * MINUTE_MS, max(moments) + AFTER * MINUTE_MS
    exchange = found.exchange.removesuffix(PAPER)
    for interval in ("1m", "5m", "15m", "1h"):
        grid = grid_of(interval)
        if grid.count(since, until) > RANGE_MAX:
            continue
        candles = candles_of(sources, Key(CANDLE, (exchange, found.symbol, interval)), grid.floor(since), until)
        if len(candles):
            return Markup(signal_plot(candles, found.marks).svg()), interval
    return None, ""
