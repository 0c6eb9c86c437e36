"""Runs: studies, one with its table, heat map and curves, one run, and two side by side.

Rows are read without their trades, which are most of their bytes; those of the runs that are drawn are read by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from markupsafe import Markup

from backtest_kit.printing import STAT_NAMES
from backtest_kit.runs.ledger import Row
from backtest_kit.runs.packing import unpack
from backtest_kit.runs.page import BEST, SHOWN, Heat, curves_of, heat_of, params_text
from backtest_kit.runs.study import Study, first_difference, trades_of
from backtest_kit_console.sources import Sources
from backtest_kit_mongo.backends.mongo.layout import collection_of, payload_field
from backtest_kit_mongo.domains.table import RUN
from backtest_kit_mongo.errors import CallerError, NotFound

from .asking import Answer, Asked, Paged, paged

__all__ = ["compare", "show", "show_run", "show_study"]

RUNS_MAX: Final = 20_000
"""Of one study."""
TRADES_MAX: Final = 500
STUDY_S: Final = 10.0
FAILED_SHOWN: Final = 20
LEVELS: Final = 8
"""Shades of a heat map, each way."""
ID_MIN: Final = 4
DATA: Final = f"{payload_field(RUN)}.data"
LARGE: Final = {f"{DATA}.trades": 0, f"{DATA}.notes": 0}
GIVEN: Final = ("strategy", "code", "version", "symbol", "exchange", "frame", "candles", "status")


class Seen(NamedTuple):
    """A study as it was when all its rows were read. The rows themselves are not kept: there may be many.

    Attributes:
        counts: of runs by status.
        held: how many have a row.
        best: ids of those that have a result, the best first.
        names: of parameters.
        picture, drawn: curves of the best.
        digest: empty while a run has no result.
    """

    counts: Mapping[str, int]
    held: int
    best: Sequence[str]
    names: Sequence[str]
    heat: Any
    picture: Markup | None
    drawn: Sequence[tuple[Row, str]]
    failed: Sequence[Row]
    digest: str


class Line(NamedTuple):
    """A line of a comparison."""

    name: str
    values: Sequence[Any]
    is_same: bool


def show(asked: Asked) -> Answer:
    titles = _data(asked.sources, ["studies"]).get("studies", {}).get("titles", [])
    part = paged(list(reversed(titles)), asked)
    found = _data(asked.sources, [f"study:{title}" for title in part.rows], {f"{DATA}.runs": 0})
    studies = [found[name] for name in (f"study:{title}" for title in part.rows) if name in found]
    return Answer("runs.html", {"page": part, "studies": studies})


def show_study(asked: Asked) -> Answer:
    title, by = asked.exact("study"), asked.text("by") or "pnl"
    stored = _data(asked.sources, [f"study:{title}"]).get(f"study:{title}")
    if stored is None:
        raise NotFound(f"There is no study {title!r}. The page Runs has all.")
    if by not in STAT_NAMES:
        raise CallerError(f"There is no statistic {by!r}; there are {', '.join(STAT_NAMES)}.")
    ids = list(unpack(stored["runs"]))
    found = asked.sources.look(f"study {by} {title}", lambda: _seen(asked.sources, title, ids, by), STUDY_S)
    page = None
    if found.value is not None:
        part = paged(found.value.best, asked)
        page = Paged(_rows(asked.sources, part.rows), part.first, part.total)
    values = {
        "title": title, "stored": stored, "planned": len(ids), "found": found, "page": page,
        "shown": SHOWN, "stats": STAT_NAMES, "by": by,
    }  # fmt: skip
    return Answer("study.html", values)


def _seen(sources: Sources, title: str, ids: Sequence[str], by: str) -> Seen:
    study = Study(title, _rows(sources, ids[:RUNS_MAX]))
    best = study.best(by, RUNS_MAX)
    drawn = curves_of(_rows(sources, [row.run_id for row in best[:BEST]], whole=True))
    is_whole = len(ids) <= RUNS_MAX and all(row.result for row in study.rows) and len(study) == len(ids)
    return Seen(
        {status: sum(row.status == status for row in study.rows) for status in ("done", "failed", "claimed")},
        len(study),
        [row.run_id for row in best],
        study.param_names,
        _heat(study),
        None if drawn is None else Markup(drawn[0].svg()),
        [] if drawn is None else [(row, params_text(row)) for row in drawn[1]],
        study.failed[:FAILED_SHOWN],
        study.digest if is_whole else "",
    )


def show_run(asked: Asked) -> Answer:
    row = _run(asked.sources, asked.text("id"))
    drawn, trades = curves_of([row]), trades_of(row) if row.trades else ()
    values = {
        "row": row,
        "given": [(name, getattr(row, name)) for name in GIVEN if name != "status"],
        "stats": STAT_NAMES,
        "picture": None if drawn is None else Markup(drawn[0].svg()),
        "trades": trades[-TRADES_MAX:][::-1],
        "trades_count": len(trades),
    }
    return Answer("run.html", values)


def compare(asked: Asked) -> Answer:
    pair = [_run(asked.sources, asked.text(name)) for name in ("a", "b")]
    drawn = curves_of(pair)
    names = dict.fromkeys(name for row in pair for name in row.params)
    has_trades = all(row.trades for row in pair)
    values = {
        "pair": pair,
        "given": [_line(name, [getattr(row, name) for row in pair]) for name in GIVEN],
        "params": [_line(name, [row.params.get(name, "-") for row in pair]) for name in names],
        "stats": [_line(text, [row.stats.get(name) for row in pair]) for name, text in STAT_NAMES.items()],
        "picture": None if drawn is None else Markup(drawn[0].svg()),
        "drawn": [] if drawn is None else [(row, params_text(row)) for row in drawn[1]],
        "differs": first_difference(*pair) if has_trades else "",
    }
    return Answer("compare.html", values)


def _line(name: str, values: Sequence[Any]) -> Line:
    return Line(name, values, values[0] == values[1])


def _heat(study: Study) -> tuple[Heat, list[tuple[Any, list[tuple[float | None, str]]]]] | None:
    """A heat map with the class of each cell."""
    heat = heat_of(study)
    if heat is None:
        return None
    return heat, [
        (line, [_shade(heat.middle.get((line, column)), heat.most) for column in heat.columns]) for line in heat.lines
    ]


def _shade(value: float | None, most: float) -> tuple[float | None, str]:
    if value is None:
        return None, ""
    return value, f"{'win' if value > 0 else 'loss'}{round(abs(value) / most * LEVELS)}"


def _data(
    sources: Sources, ids: Iterable[str], left_out: Mapping[str, int] | None = None
) -> dict[str, Mapping[str, Any]]:
    """Rows of the list of runs by id."""
    kept = sources.database[collection_of(RUN)]
    found = kept.find({RUN.columns[0]: {"$in": list(ids)}}, {"_id": 0, **(left_out or {})})
    rows = ((one[RUN.columns[0]], one.get(payload_field(RUN))) for one in found)
    return {name: row["data"] for name, row in rows if isinstance(row, dict) and isinstance(row.get("data"), dict)}


def _rows(sources: Sources, ids: Sequence[str], *, whole: bool = False) -> list[Row]:
    """Runs in the order of their ids; those that nobody has begun have no row."""
    found = _data(sources, ids, None if whole else LARGE)
    return [Row.of(found[run_id]) for run_id in ids if run_id in found]


def _run(sources: Sources, beginning: str) -> Row:
    """One run by the beginning of its id, with its trades."""
    if len(beginning) < ID_MIN or not beginning.isalnum():
        raise CallerError("Name a run by its id, or by the first characters of it, four at least.")
    column = RUN.columns[0]
    kept = sources.database[collection_of(RUN)]
    near = kept.find({column: {"$gte": beginning, "$lt": f"{beginning}\uffff"}}, {"_id": 0, column: 1}).limit(2)
    ids = [str(one[column]) for one in near]
    if len(ids) != 1:
        raise NotFound(f"No run begins with {beginning!r}." if not ids else f"Several runs begin with {beginning!r}.")
    rows = _rows(sources, ids, whole=True)
    if not rows:
        raise NotFound(f"No run begins with {beginning!r}.")
    return rows[0]
