"""Candles: which series there are, and one of them with its gaps."""

from __future__ import annotations

from typing import Final, NamedTuple

from markupsafe import Markup

from backtest_kit_console import words
from backtest_kit_console.pictures import BODIES_MAX, candle_plot
from backtest_kit_console.sources import Sources
from backtest_kit_mongo.adapters.candle_instance import CandleInstance
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.candles.frame import Candles
from backtest_kit_mongo.candles.intervals import grid_of
from backtest_kit_mongo.coherence.moments import written_ms
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import CANDLE
from backtest_kit_mongo.errors import InvalidKey, NotFound
from backtest_kit_mongo.operate.compaction import find_series

from .asking import Answer, Asked, paged

__all__ = ["candles_of", "show", "show_series"]

LIST_S: Final = 60.0
FIRST_SHOWN: Final = 180
"""Candles of a page that names no range."""
RANGE_MAX: Final = 10_000
"""Candles of one page."""
GAPS_SHOWN: Final = 100
SPANS: Final = ((180, "180"), (1_000, "1,000"), (5_000, "5,000"), (RANGE_MAX, f"{RANGE_MAX:,}"))


class Series(NamedTuple):
    """A stored series; `missing` candles are between the first and the last."""

    exchange: str
    symbol: str
    interval: str
    first: int
    last: int
    candles: int
    missing: int


def show(asked: Asked) -> Answer:
    sources = asked.sources
    found = sources.look("series", lambda: _series(sources), LIST_S)
    chosen = asked.text("text").casefold()
    rows = [one for one in found.value or () if chosen in f"{one.exchange} {one.symbol} {one.interval}".casefold()]
    return Answer("candles.html", {"found": found, "page": paged(rows, asked), "text": asked.text("text")})


def _series(sources: Sources) -> list[Series]:
    """Counted by the index, none is read."""
    found = []
    for key in find_series(sources.database):
        if (span := _span(sources, key)) is not None:
            first, last = span
            count = sources.database[collection_of(CANDLE)].count_documents(key.query())
            missing = max(0, grid_of(str(key.item)).count(first, last + 1) - count)
            exchange, symbol, interval = map(str, key.parts)
            found.append(Series(exchange, symbol, interval, first, last, count, missing))
    return found


def _span(sources: Sources, series: Key) -> tuple[int, int] | None:
    """Open times of the first and the last candle."""
    query = {**series.query(), "timestamp": {"$type": "number"}}
    kept = sources.database[collection_of(CANDLE)]
    ends = [kept.find_one(query, {"_id": 0, "timestamp": 1}, sort=[("timestamp", order)]) for order in (1, -1)]
    return None if ends[0] is None or ends[1] is None else (int(ends[0]["timestamp"]), int(ends[1]["timestamp"]))


def show_series(asked: Asked) -> Answer:
    names = {name: asked.exact(name) for name in ("exchange", "symbol", "interval")}
    key = Key(CANDLE, tuple(names.values()))
    grid = grid_of(names["interval"])
    span = _span(asked.sources, key)
    if span is None:
        raise NotFound(f"There are no candles of {' '.join(names.values())}. The page Candles has all series.")
    end = grid.after(span[1])
    if asked.text("until"):
        end = min(end, grid.ceil(written_ms(asked.text("until"), "until")))
    count = max(1, asked.whole("count", FIRST_SHOWN, RANGE_MAX))
    since = max(span[0], grid.shift(end, -count))
    if since >= end:
        raise InvalidKey(f"until: the first candle opens at {words.iso(span[0])}")
    found = candles_of(asked.sources, key, since, end)
    gaps = found.gaps
    picture = Markup(candle_plot(found).svg()) if len(found) else None
    values = {
        "names": names, "span": span, "found": found, "count": count, "spans": SPANS, "since": since, "end": end,
        "picture": picture, "is_line": len(found) > BODIES_MAX, "missing": sum(gap.count for gap in gaps),
        "gaps": gaps[-GAPS_SHOWN:][::-1], "gaps_count": len(gaps),
        "older": since if since > span[0] else None,
        "newer": min(grid.shift(end, count), grid.after(span[1])) if end <= span[1] else None,
    }  # fmt: skip
    return Answer("series.html", values)


def candles_of(sources: Sources, series: Key, since: int, until: int) -> Candles:
    """The candles of a range (ms)."""
    exchange, symbol, interval = map(str, series.parts)
    return CandleInstance(sources.reader, symbol, interval, exchange).between(since, until)
