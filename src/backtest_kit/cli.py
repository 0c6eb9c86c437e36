"""`bkm run` and `bkm modes`."""

from __future__ import annotations

import json
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import backtest_kit_mongo as bk
from backtest_kit import running
from backtest_kit.errors import DeclarationError, StrategyFailed
from backtest_kit.loading import connect, load_strategy, run_config
from backtest_kit.moments import minute_text
from backtest_kit.results import Result
from backtest_kit.rules import DEFAULT, ORIGINAL
from backtest_kit.running import Job

__all__ = ["modes", "reported", "run"]

Mode = Literal["backtest", "paper", "live"]
FOREIGN: Final = (
    Path(__file__).resolve().parents[1],
    *(Path(sysconfig.get_paths()[kind]) for kind in ("stdlib", "purelib")),
)
"""Where this package, Python and its libraries are: a fault is reported by the strategy's line that led there."""


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", envvar="STRATEGY_FILE", help="The strategy's Python file.")],
    symbol: Annotated[str, typer.Option(envvar="SYMBOL", help="As the exchange or the store names it: BTC/USDT.")],
    backtest: Annotated[bool, typer.Option("--backtest", help="Replay stored candles.")] = False,
    paper: Annotated[bool, typer.Option("--paper", help="From now on, without orders.")] = False,
    live: Annotated[bool, typer.Option("--live", help="From now on, with orders.")] = False,
    mode: Annotated[
        str | None, typer.Option(envvar="MODE", help="The same as a word: backtest, paper or live.")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(envvar="STRATEGY", help="Needed if the file declares several.")
    ] = None,
    exchange: Annotated[
        str | None, typer.Option(envvar="EXCHANGE", help="Needed if the file declares several.")
    ] = None,
    frame: Annotated[
        str | None,
        typer.Option(
            envvar="FRAME",
            metavar="NAME|FROM..TO",
            help="A declared frame, or as 2024-01-01..2024-02-01. Default: the one declared, or all candles there are.",
        ),
    ] = None,
    rules: Annotated[
        Literal["default", "original"], typer.Option(help="original: as backtest-kit 19.5 replays.")
    ] = "default",
    fill_gaps: Annotated[bool, typer.Option("--fill-gaps", help="Missing minutes are minutes without trade.")] = False,
    trades: Annotated[int, typer.Option(min=0, help="Show so many trades, the newest.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as one JSON object.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with curves and trades.")
    ] = None,
) -> None:
    """Run a strategy: the same file as backtest, paper or live.

    A file [bold]setup_config.py[/] (here, beside the strategy, or in config/) is run first. Without one, and without
    CC_ variables, a backtest needs no server: what it keeps are files below ./dump.

    [bold]Examples[/]

    [cyan]bkm run ema.py --backtest --symbol BTCUSDT --frame 2024-01-01..2024-02-01 --report ema.html[/]

    [cyan]MODE=paper STRATEGY_FILE=ema.py SYMBOL=BTC/USDT bkm run[/]

    Exit status: 0 done; 1 candles, an exchange or a server are missing; 2 the file, a declaration or an option is
    wrong, nothing was run; 3 the strategy raised or looked ahead; 130 stopped by Ctrl-C.
    """
    with reported():
        chosen = _mode(mode, backtest=backtest, paper=paper, live=live)
        _require_place(report)
        is_configured = run_config(file) is not None
        load_strategy(file)
        choose = partial(
            running.choose, symbol, chosen, strategy=strategy, exchange=exchange, frame=frame,
            rules=ORIGINAL if rules == "original" else DEFAULT, fill_gaps=fill_gaps,
        )  # fmt: skip
        # What is declared wrongly is said before servers are waited for; a backtest may ask the store for its frame.
        job = None if chosen == "backtest" else choose()
        if not is_configured:
            connect(chosen)
        job = job or choose()
        result = _replayed(job) if chosen == "backtest" else running.run_job(job, _line)
        if report is not None:
            result.report(report)
        _show(result, trades, as_json=as_json)


def _mode(word: str | None, **flags: bool) -> Mode:
    named = [name for name, is_set in flags.items() if is_set] or ([word] if word else [])
    if len(named) != 1 or named[0] not in flags:
        raise DeclarationError(f"say one of --backtest, --paper and --live (or MODE), not {', '.join(named) or 'none'}")
    found: Mode = named[0]  # type: ignore[assignment]
    return found


def _require_place(report: Path | None) -> None:
    if report is not None and (report.is_dir() or not report.resolve().parent.is_dir()):
        raise DeclarationError(f"--report {report}: there is no such directory, or it is one. Nothing was run.")


def _line(text: str) -> None:
    """One line of paper or live, as it happens. Names come from outside: nothing in them reaches the terminal raw."""
    typer.echo("".join(letter if letter.isprintable() else "?" for letter in text), err=True)


def _replayed(job: Job) -> Result:
    console = Console(stderr=True)
    assert job.frame is not None
    first, last = job.frame.start, job.frame.end
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[at]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(escape(job.symbol), total=max(1, last - first), at="reading candles")

        def moved(now_ms: int) -> None:
            progress.update(task, completed=now_ms - first, at=minute_text(now_ms))

        return running.run_backtest(job, moved)


def _show(result: Result, trades: int, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(result.to_dict(), ensure_ascii=False))
        return
    from backtest_kit.printing import print_result

    print_result(result, Console(), trades)


@contextmanager
def reported() -> Iterator[None]:
    """Whatever goes wrong is a message and an exit status."""
    try:
        yield
    except KeyboardInterrupt:
        _say("stopped by Ctrl-C; what the run had stored before stays stored")
        raise typer.Exit(bk.ExitCode.STOPPED) from None
    except (StrategyFailed, bk.LookAhead) as error:
        _say(str(error), error.__cause__)
        is_ours = not isinstance(error.__cause__, bk.EnvironmentFault)
        raise typer.Exit(bk.ExitCode.NOT_WELL if is_ours else bk.ExitCode.FAILED) from error
    except bk.CallerError as error:
        _say(str(error))
        is_wrong = not isinstance(error, bk.NotFound)
        raise typer.Exit(bk.ExitCode.WRONG_ARGUMENT if is_wrong else bk.ExitCode.FAILED) from error
    except (bk.BacktestKitError, OSError) as error:
        _say(str(error))
        raise typer.Exit(bk.ExitCode.FAILED) from error


def _say(text: str, cause: BaseException | None = None) -> None:
    console = Console(stderr=True)
    printable = "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
    console.print(f"[red]Error:[/] {escape(printable)}", soft_wrap=True)
    if cause is not None and cause.__traceback__ is not None:
        frames = traceback.extract_tb(cause.__traceback__)
        own = [one for one in frames if not _is_foreign(one.filename)]
        last = (own or frames)[-1]
        console.print(f"in {escape(last.filename)}, line {last.lineno}", soft_wrap=True)


def _is_foreign(file: str) -> bool:
    """Also what was compiled from no file."""
    return file.startswith("<") or any(Path(file).is_relative_to(root) for root in FOREIGN)


def modes(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A strategy: its setup_config.py is run first, as `bkm run` does."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Show which domain is kept where in which mode, and what serves the adapters.

    Change it in setup_config.py: [cyan]bk.setup(modes={"backtest": {"state": "memory"}})[/]
    """
    if file is not None:
        with reported():
            run_config(file)
    table, serving = bk.get_modes(), bk.backends()
    if as_json:
        typer.echo(json.dumps({**table, "adapters": serving}))
        return
    shown = Table(box=None, header_style="bold")
    for title in ("domain", *table):
        shown.add_column(title)
    for domain in next(iter(table.values())):
        shown.add_row(domain, *(places[domain] for places in table.values()))
    Console().print(shown)
    typer.echo(
        "mongo: what serves the adapter, see below; files: ./dump/runs, per run; memory: this process; "
        "jsonl: ./dump/log/log.jsonl. Dumps (bt.dump) are Markdown files below ./dump/agent in every mode."
    )
    for served in dict.fromkeys(serving.values()):
        domains = [domain for domain, by in serving.items() if by == served]
        typer.echo(f"adapters of {'all domains' if len(domains) == len(serving) else ', '.join(domains)}: {served}")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command()(run)
    app.command()(modes)
    sys.exit(app())
