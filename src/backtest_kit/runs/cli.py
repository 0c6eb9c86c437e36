"""`bkm sweep` and `bkm runs`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import backtest_kit_mongo as bk
from backtest_kit.cli import reported
from backtest_kit.errors import DeclarationError
from backtest_kit.loading import load_strategy, prepare_store
from backtest_kit.moments import minute_text
from backtest_kit.printing import STAT_NAMES, number_text
from backtest_kit.rules import DEFAULT, ORIGINAL
from backtest_kit.runs.ledger import Row
from backtest_kit.runs.params import parse_param
from backtest_kit.runs.rows import StoredRows
from backtest_kit.runs.studies import Studies, load
from backtest_kit.runs.study import Study, first_difference, trades_of
from backtest_kit.runs.sweep import sweep as run_sweep

__all__ = ["runs", "sweep"]

BEST_SHOWN: Final = 10
COLUMNS: Final = ("trades", "win_rate_percent", "pnl", "profit_factor", "sharpe_per_trade", "max_drawdown")
DAY_S: Final = 86_400
Json = Annotated[bool, typer.Option("--json", help="As one JSON object.")]
By = Annotated[str, typer.Option("--by", help="The statistic that decides: pnl, sharpe_per_trade, profit_factor, ..")]


def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The strategy's Python file.")],
    symbol: Annotated[list[str], typer.Option(help="Give it once for each symbol.")],
    param: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=VALUES", help="fast=5..20:5, fast=5,10,20 or side=long,short. Give it once for each."
        ),
    ] = [],  # noqa: B006 # typer copies it
    strategy: Annotated[str | None, typer.Option(help="Needed if the file declares several.")] = None,
    exchange: Annotated[str | None, typer.Option(help="Needed if the file declares several.")] = None,
    frame: Annotated[str | None, typer.Option(metavar="NAME|FROM..TO", help="Default: all candles there are.")] = None,
    study: Annotated[
        str | None, typer.Option(help="What it is called; default: the strategy and the hash of its code.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: as many as there are cores.")] = None,
    dask: Annotated[str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler: tcp://host:8786.")] = None,
    rules: Annotated[
        Literal["default", "original"], typer.Option(help="original: as backtest-kit 19.5 replays.")
    ] = "default",
    fill_gaps: Annotated[bool, typer.Option("--fill-gaps", help="Missing minutes are minutes without trade.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Do runs that have a result already once more.")] = False,
    by: By = "pnl",
    as_json: Json = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with table, heat map and curves.")
    ] = None,
) -> None:
    """Backtest a strategy with every combination of parameters on every symbol.

    Parameters are arguments of get_signal after ctx: [cyan]def ema(ctx, fast=9, slow=21)[/]. Called again it goes on:
    what has a result is not run again, whichever host ran it. Kill it, move it, start it on five hosts at once: there
    is one answer, and one digest.

    [bold]Example[/]

    [cyan]bkm sweep ema.py --symbol BTCUSDT --symbol ETHUSDT --param fast=5..20:5 --param slow=30,60 --report
    ema.html[/]

    Exit status: 0 done; 1 candles, a server or the executor are missing; 2 the file, a declaration or an option is
    wrong, nothing was run; 3 runs failed, the others are done; 130 stopped by Ctrl-C.
    """
    with reported():
        if report is not None and not report.resolve().parent.is_dir():
            raise DeclarationError(f"--report {report}: there is no such directory. Nothing was run.")
        values = _grid(param)
        prepare_store(file, "backtest")
        load_strategy(file)
        found = run_sweep(
            strategy, params=values, symbols=symbol, frame=frame, exchange=exchange, study=study, workers=workers,
            executor=_dask(dask) if dask else None, rules=ORIGINAL if rules == "original" else DEFAULT,
            fill_gaps=fill_gaps,
            again=again,
        )  # fmt: skip
        if report is not None:
            found.report(report)
        _show(found, by, as_json=as_json)
    if found.failed:
        raise typer.Exit(bk.ExitCode.NOT_WELL)


def _grid(param: Sequence[str]) -> dict[str, Sequence[Any]] | None:
    found: dict[str, Sequence[Any]] = {}
    for text in param:
        name, values = parse_param(text)
        if name in found:
            raise DeclarationError(f"--param {name} is given twice; write its values in one, with commas")
        found[name] = values
    return found or None


def _dask(address: str) -> Any:
    try:
        from distributed import Client
    except ModuleNotFoundError as cause:
        raise DeclarationError("--dask needs Dask: pip install 'backtest-kit-mongo[dask]'. Nothing was run.") from cause
    try:
        client: Any = Client  # It has no types.
        return client(address, timeout=10).get_executor()
    except (OSError, ValueError, TimeoutError) as cause:
        raise DeclarationError(f"--dask {address}: there is no scheduler ({cause}). Nothing was run.") from cause


def _show(study: Study, by: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_dict(study), ensure_ascii=False))
        return
    console = Console()
    console.print(f"[bold]{escape(study.title)}[/] {_counts(study)}", soft_wrap=True)
    if best := study.best(by, BEST_SHOWN):
        console.print(_table(best, study.param_names))
    for row in study.failed[:5]:
        last = row.error.strip().splitlines()[-1:] or [""]
        console.print(
            f"[red]failed[/] {escape(row.symbol)} {escape(_params(row))}: {escape(_printable(last[0]))}", soft_wrap=True
        )
    for note in study.notes:
        console.print(f"[yellow]note[/] {escape(_printable(note))}", soft_wrap=True)
    if all(row.result for row in study.rows):
        console.print(f"digest {study.digest}; run again, in other order, on other hosts: the same", soft_wrap=True)


def _counts(study: Study) -> str:
    rate = (
        f" in {study.elapsed_s:.1f} s ({study.executed / study.elapsed_s:,.1f}/s)"
        if study.elapsed_s and study.executed
        else ""
    )
    kinds = {kind: sum(row.status == kind for row in study.rows) for kind in ("done", "failed", "claimed")}
    counted = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
    return f"{len(study.rows):,} runs: {counted}; {study.executed:,} were run now{rate}"


def _dict(study: Study) -> dict[str, Any]:
    rows = [{name: value for name, value in row.to_dict().items() if name != "trades"} for row in study.rows]
    is_whole = all(row.result for row in study.rows)
    return {
        "study": study.title,
        "digest": study.digest if is_whole else None,
        "executed": study.executed,
        "runs": rows,
    }


def _table(rows: Sequence[Row], names: Sequence[str]) -> Table:
    shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("run", "symbol", *names, *(STAT_NAMES[name] for name in COLUMNS)):
        shown.add_column(
            title, justify="left" if title in ("run", "symbol") else "right", no_wrap=title in ("run", "symbol")
        )
    for row in rows:
        stats = (number_text(row.stats.get(name)) for name in COLUMNS)
        shown.add_row(
            row.run_id[:10], escape(row.symbol), *(escape(str(row.params.get(name, ""))) for name in names), *stats
        )
    return shown


def _params(row: Row) -> str:
    return ", ".join(f"{name}={value}" for name, value in row.params.items()) or "defaults"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


runs = typer.Typer(help="Look at studies and their runs.", no_args_is_help=True, rich_markup_mode="rich")


def _open() -> Studies:
    prepare_store(Path("runs"), "backtest")
    return Studies(StoredRows())


@runs.command("list")
def list_studies(as_json: Json = False) -> None:
    """All studies."""
    with reported():
        found = _open().list()
        if as_json:
            typer.echo(json.dumps(found, ensure_ascii=False))
            return
        if not found:
            typer.echo("there is no study yet; bkm sweep FILE makes one")
            return
        shown = Table(box=None, header_style="bold")
        for title in ("study", "strategy", "code", "runs", "since"):
            shown.add_column(title, justify="right" if title == "runs" else "left")
        for one in found:
            shown.add_row(
                escape(one["study"]),
                escape(one["strategy"]),
                one["code"][:8],
                f"{one['count']:,}",
                minute_text(one["created_at"]),
            )
        Console().print(shown)


@runs.command()
def show(
    study: Annotated[str, typer.Argument(help="A study, or the beginning of a run's id.")],
    by: By = "pnl",
    as_json: Json = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page.")] = None,
) -> None:
    """A study with its best runs, or one run with its trades."""
    with reported():
        studies = _open()
        if studies.get(study) is None and (row := _found(studies, study)) is not None:
            _show_run(row, as_json=as_json)
            return
        found = load(study)
        if report is not None:
            found.report(report)
        _show(found, by, as_json=as_json)


@runs.command()
def best(
    study: str, by: By = "pnl", count: Annotated[int, typer.Option(min=1)] = BEST_SHOWN, as_json: Json = False
) -> None:
    """The best runs of a study."""
    with reported():
        _open()
        found = load(study)
        rows = found.best(by, count)
        if as_json:
            typer.echo(json.dumps([row.to_dict() for row in rows], ensure_ascii=False))
        else:
            Console().print(_table(rows, found.param_names))


@runs.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="The beginning of a run's id.")],
    second: Annotated[str, typer.Argument(metavar="B")],
) -> None:
    """Two runs side by side: what they were given, what came of it, and the first trade that differs."""
    with reported():
        studies = _open()
        pair = [_required(studies, one) for one in (first, second)]
        shown = Table("", *(row.run_id[:10] for row in pair), box=None, header_style="bold")
        for name in ("strategy", "code", "version", "symbol", "exchange", "frame", "candles", "status"):
            values = [str(getattr(row, name)) for row in pair]
            shown.add_row(name, *map(escape, values), style=None if values[0] == values[1] else "yellow")
        for name in dict.fromkeys([*pair[0].params, *pair[1].params]):
            values = [str(row.params.get(name, "-")) for row in pair]
            shown.add_row(name, *map(escape, values), style=None if values[0] == values[1] else "yellow")
        for name, title in STAT_NAMES.items():
            shown.add_row(title, *(number_text(row.stats.get(name)) for row in pair))
        Console().print(shown)
        typer.echo(first_difference(*pair))


Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@runs.command()
def delete(study: str, yes: Yes = False) -> None:
    """Forget a study and those of its runs that no other study has. Says what that is, and asks."""
    with reported():
        studies = _open()
        claimed = [row for row in load(study) if row.status == "claimed"]
        if claimed:
            last = max(claimed, key=lambda row: row.claimed_at)
            typer.echo(
                f"{len(claimed):,} runs are claimed, the last at {minute_text(last.claimed_at)} by {last.holder}. If a "
                "sweep is running, stop it first: it would do its runs again."
            )
        _forget(studies, [study], yes=yes)


@runs.command()
def prune(
    older: Annotated[str, typer.Option(metavar="30d", help="Studies whose first call is longer ago.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which.")] = False,
    yes: Yes = False,
) -> None:
    """Forget old studies. Says which, and asks."""
    with reported():
        if not older.endswith("d") or not older[:-1].isdecimal():
            raise DeclarationError(f"--older {older!r}: write days, as 30d. Nothing was deleted.")
        studies, before = _open(), (time.time() - int(older[:-1]) * DAY_S) * 1000
        found = [one for one in studies.list() if one["created_at"] < before]
        for one in found:
            typer.echo(f"{one['study']}: {one['count']:,} runs, since {minute_text(one['created_at'])}")
        if not found:
            typer.echo(f"no study is older than {older}")
        elif dry_run:
            typer.echo(f"{len(studies.only_of([one['study'] for one in found])):,} runs would be gone")
        else:
            _forget(studies, [one["study"] for one in found], yes=yes)


def _forget(studies: Studies, titles: Sequence[str], *, yes: bool) -> None:
    if not yes:
        runs = len(studies.only_of(titles))
        named = f"study {titles[0]!r}" if len(titles) == 1 else f"these {len(titles)} studies"
        typer.confirm(f"forget {named} and {runs:,} runs that no other study has?", abort=True)
    typer.echo(f"{sum(map(studies.delete, titles)):,} runs are gone")


def _found(studies: Studies, beginning: str) -> Row | None:
    from backtest_kit.runs.ledger import Ledger

    ids = {run_id for one in studies.list() for run_id in (studies.get(one["study"]) or {"runs": []})["runs"]}
    near = sorted(run_id for run_id in ids if run_id.startswith(beginning)) if len(beginning) >= 4 else []
    if len(near) > 1:
        raise DeclarationError(f"{len(near)} runs begin with {beginning!r}; write more of it")
    return Ledger(StoredRows()).read(near[0]) if near else None


def _required(studies: Studies, beginning: str) -> Row:
    found = _found(studies, beginning)
    if found is None:
        raise DeclarationError(f"there is no run that begins with {beginning!r}; `bkm runs best STUDY` names some")
    return found


def _show_run(row: Row, *, as_json: bool) -> None:
    if as_json:
        typer.echo(
            json.dumps({**row.to_dict(), "trades": [_plain(trade) for trade in trades_of(row)]}, ensure_ascii=False)
        )
        return
    console = Console()
    console.print(
        f"[bold]{escape(row.strategy)}[/] {escape(row.symbol)} {escape(_params(row))}: {row.status}", soft_wrap=True
    )
    shown = Table(box=None, show_header=False)
    for name in (
        "run_id",
        "code",
        "version",
        "exchange",
        "frame",
        "candles",
        "attempt",
        "holder",
        "asked",
        "elapsed_s",
    ):
        shown.add_row(name.replace("_", " "), escape(str(getattr(row, name))))
    for name, title in STAT_NAMES.items():
        shown.add_row(title, number_text(row.stats.get(name)))
    console.print(shown)
    if row.error:
        console.print(
            escape("".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in row.error))
        )


def _plain(trade: Any) -> dict[str, Any]:
    return {name: getattr(trade, name) for name in type(trade).__slots__}
