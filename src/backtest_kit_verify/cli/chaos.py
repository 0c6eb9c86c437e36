"""`bkm chaos`: kill everything, and see what the promises are worth.

The report goes to standard output, everything said meanwhile to standard error.
"""

import json
import secrets
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backtest_kit_mongo.embedded import EmbeddedError
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.terminal import escape
from backtest_kit_verify.chaos import ChaosError
from backtest_kit_verify.chaos.report import as_json, show
from backtest_kit_verify.chaos.run import Options, run_chaos

__all__ = ["chaos"]


def chaos(
    minutes: Annotated[float, typer.Option("--minutes", min=0.05, help="How long there are faults.")] = 1.0,
    seed: Annotated[
        str, typer.Option("--seed", show_default="a new one", help="Draws the same faults and calls again.")
    ] = "",
    writers: Annotated[int, typer.Option("--writers", min=1, help="Processes that write.")] = 3,
    readers: Annotated[int, typer.Option("--readers", min=1, help="Processes that read.")] = 3,
    keys: Annotated[int, typer.Option("--keys", min=1, help="Documents that they contend for.")] = 24,
    workers: Annotated[
        int,
        typer.Option(
            "--workers", min=0, help="Worker processes that audit, replicate and recover, and are killed too."
        ),
    ] = 0,
    pause_ms: Annotated[
        float, typer.Option("--pause-ms", min=0, help="Mean pause between two calls of a process.")
    ] = 8.0,
    memory_mb: Annotated[
        int, typer.Option("--maxmemory-mb", min=0, help="Memory that Redis has all the time; 0: any amount.")
    ] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the report as JSON.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Use the store from many processes while they, MongoDB and Redis are killed. Then check every promise.

    It starts a private mongod and redis-server and takes them away again; no other server is touched. What each process
    got is recorded and compared with what the others got and with what is stored.

    [bold]Examples[/]

    [cyan]bkm chaos[/]                   one minute

    [cyan]bkm chaos --workers 2[/]       with workers: every revision must have one audit record, every replica equal
    its source

    [cyan]bkm chaos --minutes 30[/]      about 600 SIGKILLs, 60 restarts of Redis, 20 of MongoDB

    Exit status: 0 when no promise was broken, 1 when one was or the run could not be finished.
    """
    messages = Console(stderr=True, quiet=quiet)
    options = Options(
        minutes,
        seed or secrets.token_hex(4),
        writers,
        readers,
        keys,
        pause_ms,
        workers=workers,
        memory_max=memory_mb * 2**20,
    )
    messages.print(f"Seed {options.seed}")
    # SIGTERM cleans up as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcome = run_chaos(options, messages)
    except (ChaosError, EmbeddedError) as error:
        Console(stderr=True).print(f"[red]Error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(ExitCode.FAILED) from error
    report = as_json(outcome)
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    show(Console(quiet=quiet), report)
    if not report["passed"]:
        raise typer.Exit(ExitCode.FAILED)
