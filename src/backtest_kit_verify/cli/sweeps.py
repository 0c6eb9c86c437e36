"""`bkm sweeps`: ten thousand runs in many ways, and whether the answer is one."""

import os
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from backtest_kit_mongo.embedded import EmbeddedError
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.testing.servers import UnavailableError, private_servers
from backtest_kit_verify.runs.campaign import made, run_campaign, run_hosts, ways

__all__ = ["sweeps"]


def sweeps(
    runs: Annotated[int, typer.Option("--runs", min=50, help="Of each study.")] = 10_000,
    minutes: Annotated[int, typer.Option("--minutes", min=30, help="Simulated by each run.")] = 60,
    kill: Annotated[float, typer.Option("--kill", min=0.0, max=0.9, help="Share of the workers to kill.")] = 0.3,
    hosts: Annotated[int, typer.Option("--hosts", min=0, help="With directories of their own, at once.")] = 3,
    directory: Annotated[Path | None, typer.Option("--directory", help="For everything; it is emptied.")] = None,
) -> None:
    """Do one study on 1, 2 and 4 processes, on a Dask cluster, with workers killed at random, in MongoDB and in files,
    and on several hosts at once.

    There must be one digest; no run may be lost, or have more than one result; the same call again must do nothing;
    and several hosts must ask the exchange for each candle once.

    Exit status: 0 when all of it holds, 1 when not.
    """
    console, messages = Console(), Console(stderr=True)
    has_dask = find_spec("distributed") is not None
    if not has_dask:
        messages.print("Dask is not installed, so it is left out: pip install 'backtest-kit-mongo[dask]'", markup=False)
    since_s = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="bkm-sweeps-", dir=directory) as name:
            base = Path(name)
            with private_servers(base / "servers") as servers:
                study = made(base / "study", runs, minutes)
                say = lambda line: console.print(escape(line), soft_wrap=True)  # noqa: E731
                problems = run_campaign(study, ways(kill, has_dask=has_dask), servers, say)
                problems += run_hosts(study, servers, say, hosts) if hosts else []
    except (EmbeddedError, UnavailableError, RuntimeError) as error:
        messages.print(f"[red]Error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(ExitCode.FAILED) from error
    for one in problems:
        console.print(f"[red]{escape(one)}[/]", soft_wrap=True)
    took_s, load = time.monotonic() - since_s, os.getloadavg()[0]
    console.print(f"{'Something does not hold' if problems else 'One answer'}, after {took_s:.0f} s; load {load:.1f}")
    if problems:
        raise typer.Exit(ExitCode.FAILED)
