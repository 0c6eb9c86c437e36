"""A result as one HTML page that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np

from backtest_kit.drawing import Marker, Plot, thinned
from backtest_kit.moments import minute_text
from backtest_kit.printing import STAT_NAMES, stat_text
from backtest_kit.results import Result, Trade

__all__ = ["STYLE", "page_of", "write_report", "write_whole"]

MARKERS_MAX: Final = 1500
STYLE: Final = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2330;--dim:#667085;--line:#e4e7ec;--card:#f7f8fa;--price:#475467;
--equity:#2563eb;--win:#0f8a4f;--loss:#d03030}
@media(prefers-color-scheme:dark){:root{--bg:#11151c;--fg:#e6e9ef;--dim:#98a2b3;--line:#2a313d;
--card:#191f29;--price:#98a2b3;
--equity:#6ea8fe;--win:#3ecf8e;--loss:#ff6b6b}}
body{margin:0 auto;max-width:1080px;padding:24px;background:var(--bg);color:var(--fg);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:22px;margin:0}h2{font-size:15px;margin:28px 0 4px;color:var(--dim);font-weight:600}
p{margin:4px 0;color:var(--dim)}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(158px,1fr));gap:8px;margin:20px 0}
dl div{background:var(--card);border-radius:8px;padding:8px 12px}dt{color:var(--dim);font-size:12px}
dd{margin:0;font-size:18px;font-variant-numeric:tabular-nums}
svg{width:100%;height:auto;display:block}svg text{fill:var(--dim);font-size:11px;font-family:system-ui,sans-serif}
.grid{stroke:var(--line);fill:none}.price{stroke:var(--price);fill:none;stroke-width:1}
.equity{stroke:var(--equity);fill:none;stroke-width:1.8}.drawdown{fill:var(--loss);opacity:.35}
g.win path{stroke:var(--win)}g.loss path{stroke:var(--loss)}g path{stroke-dasharray:3 2;fill:none}
g.win polygon,g.win circle{fill:var(--win)}g.loss polygon,g.loss circle{fill:var(--loss)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th{color:var(--dim);font-weight:600;text-align:left}
th,td{padding:5px 8px;border-bottom:1px solid var(--line);white-space:nowrap}
td.n,th.n{text-align:right}td.win{color:var(--win)}td.loss{color:var(--loss)}td.note{white-space:normal;min-width:120px}
.notes li{color:var(--dim)}
"""


def write_report(result: Result, path: Path | str) -> None:
    """Write the page of a result, as `write_whole`."""
    write_whole(path, page_of(result))


def write_whole(path: Path | str, page: str) -> None:
    """Write a page; it appears only when it is complete.

    Raises:
        OSError: it cannot be written.
    """
    target = Path(path)
    unfinished = target.with_name(f".{target.name}.unfinished")
    unfinished.write_text(page, "utf-8")
    unfinished.replace(target)


def page_of(result: Result) -> str:
    one = result.identity
    title = f"{one.strategy} {one.symbol}"
    span = f"{minute_text(result.start)} to {minute_text(result.end)}"
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
            f"<h1>{escape(one.strategy)} · {escape(one.symbol)}</h1>",
            f"<p>{escape(one.mode)} at {escape(one.exchange)}, {span}; get_signal was asked {result.asked:,} times</p>",
            _tiles(result),
            *_curves(result),
            *_notes(result),
            _table(result),
            "</body></html>",
        ]
    )


def _tiles(result: Result) -> str:
    tiles = (
        f"<div><dt>{escape(text)}</dt><dd>{stat_text(result.stats, name)}</dd></div>"
        for name, text in STAT_NAMES.items()
    )
    return f"<dl>{''.join(tiles)}</dl>"


def _curves(result: Result) -> Iterator[str]:
    span = (result.start, max(result.end, result.start + 60_000))
    if result.prices is not None and len(result.prices.at):
        yield f"<h2>Price and trades</h2>{_price(result, span)}"
    if not result.trades:
        return
    equity = result.equity
    at, value = _reaching(equity.at, equity.value, span[1])
    plot = Plot("equity", 200, span, float(value.min()), float(value.max()))
    plot.line(*thinned(at, value), "equity", is_stepped=True)
    yield f"<h2>Equity: profit of closed trades, quote currency</h2>{plot.svg()}"
    at, drawdown = _reaching(equity.at, equity.drawdown, span[1])
    plot = Plot("drawdown", 110, span, float(drawdown.min()), 0.0)
    plot.area(*thinned(at, drawdown), "drawdown")
    yield f"<h2>Drawdown</h2>{plot.svg()}"


def _reaching(at: Any, value: Any, end: int) -> tuple[Any, Any]:
    """The last value holds until the end of the run."""
    return np.append(at, max(end, at[-1])), np.append(value, value[-1])


def _price(result: Result, span: tuple[int, int]) -> str:
    prices = result.prices
    assert prices is not None
    at, close = thinned(prices.at, prices.close)
    shown = result.trades[-MARKERS_MAX:]
    levels = [level for trade in shown for level in (trade.price_open, trade.price_close)]
    plot = Plot("price", 340, span, min([float(close.min()), *levels]), max([float(close.max()), *levels]))
    inside = (at >= span[0]) & (at <= span[1])
    if inside.any():
        plot.line(at[inside], close[inside], "price")
    plot.marks([_marker(trade) for trade in shown])
    return plot.svg()


def _marker(trade: Trade) -> Marker:
    text = (
        f"{trade.position} {minute_text(trade.opened_at)} at {trade.price_open:.8g}, {trade.reason} "
        f"{minute_text(trade.closed_at)} at {trade.price_close:.8g}: {trade.pnl_percent:+.2f} %"
    )
    return Marker(
        trade.opened_at,
        trade.price_open,
        trade.closed_at,
        trade.price_close,
        _kind(trade),
        trade.position == "long",
        text,
    )


def _kind(trade: Trade) -> str:
    return "win" if trade.pnl > 0 else "loss"


def _notes(result: Result) -> Iterator[str]:
    lines = [*(f"refused: {one}" for one in result.refusals), *result.notes]
    if len(result.trades) > MARKERS_MAX:
        lines.append(f"only the newest {MARKERS_MAX:,} of {len(result.trades):,} trades are drawn; the table has all")
    if lines:
        yield f'<h2>Notes</h2><ul class="notes">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def _table(result: Result) -> str:
    if not result.trades:
        return "<h2>Trades</h2><p>There was none.</p>"
    numbers = ("entry", "exit", "minutes", "%", "profit", "best %", "worst %")
    titles = ("opened", "", "entry", "exit", "reason", "minutes", "%", "profit", "best %", "worst %", "note")
    head = "".join(f"<th{' class=n' if title in numbers else ''}>{title}</th>" for title in titles)
    body = "".join(map(_row, result.trades))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<h2>Trades</h2><div class="scroll">{table}</div>'


def _row(trade: Trade) -> str:
    kind = _kind(trade)
    return (
        f"<tr><td>{minute_text(trade.opened_at)}</td><td>{trade.position}</td><td class=n>{trade.price_open:.8g}</td>"
        f"<td class=n>{trade.price_close:.8g}</td><td>{escape(trade.reason)}</td><td class=n>{trade.minutes:,}</td>"
        f'<td class="n {kind}">{trade.pnl_percent:+.2f}</td><td class="n {kind}">{trade.pnl:+.2f}</td>'
        f"<td class=n>{trade.best_percent:+.2f}</td><td class=n>{trade.worst_percent:+.2f}</td><td "
        f"class=note>{escape(trade.note)}</td></tr>"
    )
