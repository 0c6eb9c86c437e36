"""`bkm hosts`: cut hosts from one another, and see whether anybody reads what is no longer true."""

from __future__ import annotations

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
from backtest_kit_verify.hosts.network import HostsError
from backtest_kit_verify.hosts.run import Options, Result, run_hosts, summary
from backtest_kit_verify.hosts.scenarios import SCENARIOS

__all__ = ["hosts"]


def hosts(
    chosen: Annotated[
        list[str] | None, typer.Argument(metavar="[SCENARIO]...", help="By default all of them.", show_default=False)
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="How long each is played, at least.")] = 60.0,
    worker: Annotated[bool, typer.Option("--worker", help="Run a worker beside them.")] = False,
    seed: Annotated[str, typer.Option("--seed", show_default="a new one", help="Draws the same calls again.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write a report.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Say what scenarios there are, and end.")] = False,
) -> None:
    """Run servers, writers and readers on five hosts of one machine, and cut them from one another.

    The hosts are network namespaces: root and iproute2 are needed, and nothing else is touched. What each process got
    is recorded; a read that began after a newer revision had been returned to anybody is stale.

    [bold]Examples[/]

    [cyan]bkm hosts[/]                                  all scenarios, a minute each

    [cyan]bkm hosts writer-redis --seconds 12[/]        one turn of one

    Exit status: 0 when no promise was broken, 1 when one was or there can be no such hosts here, 2 if there is no such
    scenario.
    """
    out, messages = Console(highlight=False), Console(stderr=True)
    if listed:
        for scenario in SCENARIOS:
            out.print(f"{scenario.name:20} {scenario.says}")
        return
    unknown = sorted(set(chosen or ()) - {scenario.name for scenario in SCENARIOS})
    if unknown:
        messages.print(f"[red]Error:[/] no scenario {escape(', '.join(unknown))}; see bkm hosts --list")
        raise typer.Exit(ExitCode.WRONG_ARGUMENT)
    scenarios = [scenario for scenario in SCENARIOS if not chosen or scenario.name in chosen]
    options = Options(seconds, seed or secrets.token_hex(4), has_worker=worker)
    messages.print(f"Seed {options.seed}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        results = run_hosts(scenarios, options, lambda result: out.print(line(result), soft_wrap=True), messages.print)
    except (HostsError, ChaosError, EmbeddedError) as error:
        messages.print(f"[red]Error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(ExitCode.FAILED) from error
    if json_file is not None:
        json_file.write_text(summary(results), "utf-8")
    if not all(result.passed for result in results):
        raise typer.Exit(ExitCode.FAILED)


def line(result: Result) -> str:
    """A scenario's result for people."""
    said = f"{result.scenario:20} {result.reads:9,} reads ({result.hits:,} hits), {result.writes:7,} writes, "
    said += f"{result.failed:,} failed; longest write {result.longest_write_ms:,.0f} ms, "
    said += f"longest gap {result.longest_gap_ms:,.0f} ms; "
    said += f"stale {result.stale:,}" + (f", up to {result.longest_stale_ms:,.0f} ms" if result.stale else "")
    return said + "".join(f"\n    {escape(text)}" for text in result.other)
