"""`bkm demo`: see the promises kept on your own machine.

The report goes to standard output, everything said meanwhile to standard error.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backtest_kit_mongo.embedded import EmbeddedError
from backtest_kit_mongo.errors import BacktestKitError
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.terminal import escape
from backtest_kit_verify.demo import DemoError
from backtest_kit_verify.demo.checks import run_checks
from backtest_kit_verify.demo.report import as_json, show
from backtest_kit_verify.demo.run import DATABASE, LAST_MINUTES, Options, run_demo

__all__ = ["demo"]


def demo(
    candles: Annotated[
        Path | None,
        typer.Option(
            "--candles",
            metavar="DIR",
            show_default="a sample of BTCUSDT",
            help=(
                "Directory of SYMBOL-1m files (.csv, .csv.gz, .parquet) with columns timestamp "
                "(ms),open,high,low,close,volume."
            ),
        ),
    ] = None,
    last_minutes: Annotated[
        int, typer.Option("--minutes", min=0, help="Trade so many minutes at the end of each file; 0: all.")
    ] = LAST_MINUTES,
    kill: Annotated[
        bool, typer.Option("--kill", help="Send SIGKILL to each process once, and start it again.")
    ] = False,
    run: Annotated[
        str, typer.Option("--run", show_default="a new one", help="Name of the run; that of a broken run resumes it.")
    ] = "",
    database: Annotated[str, typer.Option("--database", help="MongoDB database of the demo.")] = DATABASE,
    worker: Annotated[
        bool, typer.Option("--worker/--no-worker", help="Run a worker, or leave the feed to the database's own.")
    ] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the report as JSON.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Trade real candles on paper: several processes, one database, one worker. Then check everything.

    It uses the servers that CC_MONGO_CONNECTION_STRING, CC_REDIS_HOST, CC_REDIS_PORT and CC_REDIS_SENTINEL name; if
    none is set it starts private ones and stops them at the end. A second run finds its candles in the store.

    [bold]Examples[/]

    [cyan]bkm demo[/]                    the sample, three processes

    [cyan]bkm demo --kill[/]             each process is killed once

    [cyan]bkm demo --candles ./csv[/]    your own candles, a process per symbol

    Exit status: 0 when every check passed, 1 when not.
    """
    messages = Console(stderr=True, quiet=quiet, highlight=False)
    options = Options(candles, last_minutes or None, kill, run, database, worker)
    try:
        outcome = run_demo(options, messages)
    except (DemoError, EmbeddedError, BacktestKitError) as error:
        Console(stderr=True).print(f"[red]Error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(ExitCode.FAILED) from error
    report = as_json(outcome, run_checks(outcome))
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    show(Console(quiet=quiet, highlight=False), report)
    if not report["passed"]:
        raise typer.Exit(ExitCode.FAILED)
