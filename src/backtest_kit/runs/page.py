"""A study as one HTML page that needs nothing else: the runs as a table that sorts, a heat map of two parameters, the
best curves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import numpy as np

from backtest_kit.drawing import Plot, thinned
from backtest_kit.moments import minute_text
from backtest_kit.printing import STAT_NAMES, number_text
from backtest_kit.report import STYLE, write_whole
from backtest_kit.runs.ledger import Row
from backtest_kit.runs.study import Study, equity_of

__all__ = ["BEST", "SHOWN", "Heat", "curves_of", "heat_of", "page_of", "params_text", "write_page"]

BEST: Final = 5
LINES_MAX: Final = 2000
HEAT_MAX: Final = 40
SHOWN: Final = (
    "trades",
    "win_rate_percent",
    "pnl",
    "profit_factor",
    "sharpe_per_trade",
    "max_drawdown",
    "exposure_percent",
)
MORE_STYLE: Final = """
.heat{border-collapse:separate;border-spacing:2px;width:auto}
.heat td{padding:6px 8px;border:0;border-radius:4px;text-align:right;min-width:44px}.heat th{border:0}
th button{all:unset;cursor:pointer}th button:focus-visible{outline:2px solid var(--equity)}
.curve0{stroke:#2563eb}.curve1{stroke:#d97706}.curve2{stroke:#0f8a4f}.curve3{stroke:#9333ea}.curve4{stroke:#d03030}
path[class^=curve]{fill:none;stroke-width:1.6}.key span{display:inline-block;margin-right:18px;font-size:13px}
code{font-size:12px}
"""
SCRIPT: Final = """
for(const t of document.querySelectorAll('table.sorts')){t.querySelectorAll('th button').forEach((b,i)=>b.onclick=()=>{
const rows=[...t.tBodies[0].rows],th=b.parentElement,up=th.getAttribute('aria-sort')==='descending';
t.querySelectorAll('th').forEach(h=>h.removeAttribute('aria-sort'));
th.setAttribute('aria-sort',up?'ascending':'descending');
const key=r=>r.cells[i].dataset.v??r.cells[i].textContent,num=v=>v===''?NaN:Number(v);
rows.sort((a,c)=>{const x=num(key(a)),y=num(key(c)),d=isNaN(x)||isNaN(y)?
(isNaN(x)&&isNaN(y)?key(a).localeCompare(key(c)):
isNaN(x)?1:-1):x-y;return up?d:(isNaN(x)!==isNaN(y)?d:-d)});t.tBodies[0].append(...rows)})}
"""


def write_page(study: Study, path: Path | str) -> None:
    """Write the page of a study, as `write_whole`."""
    write_whole(path, page_of(study))


def page_of(study: Study) -> str:
    head = f"<title>{escape(study.title)}</title><style>{STYLE}{MORE_STYLE}</style>"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta name="viewport" content="width=device-width,initial-scale=1">{head}</head><body>',
        f"<h1>{escape(study.title)}</h1><p>{escape(_summary(study))}</p>",
        *_curves(study.best("pnl", BEST)),
        *_heat(study),
        *_failures(study.failed),
        *_table(study),
        *(f"<p>{escape(note)}</p>" for note in study.notes),
        f"<script>{SCRIPT}</script></body></html>",
    ]
    return "".join(parts)


def _summary(study: Study) -> str:
    symbols = list(dict.fromkeys(row.symbol for row in study.rows))
    first = study.rows[0]
    span = f"{minute_text(min(row.start for row in study.rows))} to {minute_text(max(row.end for row in study.rows))}"
    named = ", ".join(symbols[:8]) + (f" and {len(symbols) - 8} more" if len(symbols) > 8 else "")
    ended = f", digest {study.digest}" if all(row.result for row in study.rows) else ""
    return (
        f"{len(study.rows):,} runs of {first.strategy} (code {first.code[:8]}) on {named} at {first.exchange}, "
        f"{span}{ended}"
    )


def params_text(row: Row) -> str:
    """Its parameters in a line."""
    return ", ".join(f"{name}={value}" for name, value in row.params.items()) or "defaults"


def curves_of(rows: Sequence[Row]) -> tuple[Plot, list[Row]] | None:
    """Equity of runs in one picture, with classes `curve0`, `curve1` ..; and those of them that have trades, in that
    order. None if none has.
    """
    curves = [(row, equity_of(row)) for row in rows if row.stats.get("trades")]
    if not curves:
        return None
    span = (min(row.start for row, _ in curves), max(row.end for row, _ in curves))
    low = min(float(equity.value.min()) for _, equity in curves)
    high = max(float(equity.value.max()) for _, equity in curves)
    plot = Plot("equity of runs, quote currency", 240, (span[0], max(span[1], span[0] + 60_000)), low, high)
    for index, (row, equity) in enumerate(curves):
        at, value = np.append(equity.at, max(row.end, equity.at[-1])), np.append(equity.value, equity.value[-1])
        plot.line(*thinned(at, value), f"curve{index}", is_stepped=True)
    return plot, [row for row, _ in curves]


def _curves(best: Sequence[Row]) -> Iterator[str]:
    if (drawn := curves_of(best)) is None:
        return
    plot, rows = drawn
    keys = []
    for index, row in enumerate(rows):
        text = escape(f"{row.symbol} {params_text(row)}: {row.stats['pnl']:+,.2f}")
        keys.append(
            f'<span><svg style="width:18px;display:inline" viewBox="0 0 18 6"><path class="curve{index}" d="M0 '
            f'3H18"/></svg> {text}</span>'
        )
    yield f'<h2>The best by profit, quote currency</h2>{plot.svg()}<p class="key">{"".join(keys)}</p>'


class Heat(NamedTuple):
    """Median profit by two parameters; of symbols and other parameters all together.

    Attributes:
        across, down: the parameters.
        columns, lines: their values.
        middle: by (line, column).
        most: the largest of them, without its sign.
    """

    across: str
    down: str
    columns: Sequence[Any]
    lines: Sequence[Any]
    middle: Mapping[tuple[Any, Any], float]
    most: float


def heat_of(study: Study) -> Heat | None:
    """By the two parameters with the most values; None if there are no two."""
    done = [row for row in study.rows if row.status == "done"]
    values = {name: _sorted({row.params[name] for row in done if name in row.params}) for name in study.param_names}
    names = sorted(
        (name for name in values if 2 <= len(values[name]) <= HEAT_MAX), key=lambda name: -len(values[name])
    )[:2]
    if len(names) < 2:
        return None
    across, down = names
    cells: dict[tuple[Any, Any], list[float]] = {}
    for row in done:
        if across in row.params and down in row.params:
            cells.setdefault((row.params[down], row.params[across]), []).append(row.stats["pnl"])
    middle = {key: median(found) for key, found in cells.items()}
    most = max((abs(value) for value in middle.values()), default=0.0) or 1.0
    return Heat(across, down, values[across], values[down], middle, most)


def _heat(study: Study) -> Iterator[str]:
    if (heat := heat_of(study)) is None:
        return
    head = "".join(f"<th class=n scope=col>{escape(str(value))}</th>" for value in heat.columns)
    lines = (
        f"<tr><th class=n scope=row>{escape(str(below))}</th>"
        + "".join(_cell(heat.middle.get((below, beside)), heat.most) for beside in heat.columns)
        + "</tr>"
        for below in heat.lines
    )
    yield (
        f"<h2>Median profit by {escape(heat.down)} (down) and {escape(heat.across)} (across)</h2>"
        '<div class="scroll"><table '
        f'class="heat"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def _sorted(values: set[Any]) -> list[Any]:
    return sorted(values, key=lambda value: (isinstance(value, str), value is None, value if value is not None else 0))


def _cell(value: float | None, most: float) -> str:
    if value is None:
        return "<td></td>"
    colour = "var(--win)" if value > 0 else "var(--loss)"
    share = round(abs(value) / most * 70)
    return f'<td style="background:color-mix(in srgb,{colour} {share}%,var(--card))">{value:,.1f}</td>'


def _failures(failed: Sequence[Row]) -> Iterator[str]:
    if failed:
        lines = (
            (
                f"<li>{escape(row.symbol)} {escape(params_text(row))}: "
                f"{escape(row.error.strip().splitlines()[-1] if row.error else '')}</li>"
            )
            for row in failed[:20]
        )
        more = f"<li>and {len(failed) - 20:,} more</li>" if len(failed) > 20 else ""
        yield f'<h2>Failed: {len(failed):,}</h2><ul class="notes">{"".join(lines)}{more}</ul>'


def _table(study: Study) -> Iterator[str]:
    done = study.best("pnl", LINES_MAX)
    if len(done) < len(study.rows) - len(study.failed):
        yield f"<p>The {len(done):,} best of {len(study.rows):,} runs are shown.</p>"
    names = study.param_names
    titles = [
        "symbol",
        *(["frame"] if len({row.frame for row in done}) > 1 else []),
        *names,
        *(STAT_NAMES[name] for name in SHOWN),
        "run",
    ]
    head = "".join(f'<th scope="col"><button type="button">{escape(title)}</button></th>' for title in titles)
    has_frame = "frame" in titles
    body = "".join(_line(row, names, has_frame=has_frame) for row in done)
    yield (
        '<h2>Runs</h2><div class="scroll"><table '
        f'class="sorts"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _line(row: Row, names: Sequence[str], *, has_frame: bool) -> str:
    cells = [f"<td>{escape(row.symbol)}</td>", *([f"<td>{escape(row.frame)}</td>"] if has_frame else [])]
    cells += [f"<td class=n>{escape(str(row.params.get(name, '')))}</td>" for name in names]
    for name in SHOWN:
        value = row.stats[name]
        kind = ' class="n win"' if name == "pnl" and value > 0 else ' class="n loss"' if name == "pnl" else " class=n"
        cells.append(f'<td{kind} data-v="{"" if value is None else value}">{number_text(value)}</td>')
    cells.append(f"<td><code>{row.run_id[:12]}</code></td>")
    return f"<tr>{''.join(cells)}</tr>"
