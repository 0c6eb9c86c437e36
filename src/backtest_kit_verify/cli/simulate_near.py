"""`bkm simulate --near`: the same for the near cache."""

from __future__ import annotations

import typer
from rich.console import Console

from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.terminal import escape
from backtest_kit_verify.cli.simulating import given, run_campaign
from backtest_kit_verify.simulation.exhaustive import TooMany
from backtest_kit_verify.simulation.near_campaign import (
    FAULTS,
    Campaign,
    Counterexample,
    Schedule,
    parse_schedule,
    parse_workload,
)
from backtest_kit_verify.simulation.near_every import Limits, explore
from backtest_kit_verify.simulation.near_planted import NEAR_PLANTED, NearPlanted
from backtest_kit_verify.simulation.near_process import SHIPPED, Variant
from backtest_kit_verify.simulation.near_report import narrate, shrink
from backtest_kit_verify.simulation.report import as_table


class NearSimulation:
    """One command with its options.

    Args:
        planted: the name of a bug, or empty.

    Raises:
        typer.BadParameter: there is no such bug.
    """

    def __init__(self, planted: str, out: Console, messages: Console) -> None:
        if planted and planted not in NEAR_PLANTED:
            raise typer.BadParameter(f"{planted!r} is none of {', '.join(NEAR_PLANTED)}", param_hint="--planted")
        self._bug: NearPlanted | None = NEAR_PLANTED.get(planted)
        self._variant = self._bug.variant if self._bug else SHIPPED
        self._option = f"--planted {planted} " if planted else ""
        self._out, self._messages = out, messages

    def campaign(self, schedules: int, seed: int) -> bool:
        """Random schedules; True, as from the others, if something is broken, which is then printed."""
        campaign = Campaign(seed, self._variant, self._bug.faults if self._bug else FAULTS)
        found = run_campaign(campaign, schedules, seed, self._out, self._messages)
        if found is None:
            return False
        Console().print(f"[red bold]VIOLATION[/] in schedule {found.number:,} of seed {seed}", highlight=False)
        return self._print_shortest(found.violation)

    def every(self, text: str, limits: Limits) -> bool:
        """Every schedule of a workload."""
        with self._messages.status("exploring"):
            try:
                explored = explore(given(parse_workload, text, "--every"), limits, self._variant)
            except TooMany as error:
                self._messages.print(f"[red]Error:[/] {error}")
                raise typer.Exit(ExitCode.FAILED) from error
        if explored.violation is not None:
            return self._print_shortest(explored.violation)
        self._out.print(
            f"every schedule with at most {limits.faults} faults, {limits.ticks} ticks and {limits.heartbeats} "
            "heartbeats: "
            f"nothing is broken ({explored.situations:,} situations)"
        )
        return False

    def replay(self, text: str) -> bool:
        """One schedule, reported."""
        return _report(given(parse_schedule, text, "--replay"), self._variant, self._out)

    def _print_shortest(self, found: Counterexample) -> bool:
        console = Console()
        shortest = shrink(found, self._variant)
        _report(shortest.schedule, self._variant, console)
        command = f"bkm simulate --near {self._option}--replay '{shortest.schedule}'"
        console.print(f"\nAgain: {command}", soft_wrap=True, highlight=False, markup=False)
        return True


def _report(schedule: Schedule, variant: Variant, out: Console) -> bool:
    lines = list(narrate(schedule, variant))
    out.print(as_table(lines))
    broken = next((line.broken for line in lines if line.broken), "")
    if broken:
        out.print(f"\n[red bold]Broken:[/] {escape(broken)}", soft_wrap=True, highlight=False)
    else:
        out.print("\nNothing is broken.")
    return bool(broken)
