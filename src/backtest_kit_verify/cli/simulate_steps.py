"""`bkm simulate --steps`: the same for steps."""

from __future__ import annotations

import typer
from rich.console import Console

from backtest_kit_mongo.terminal import escape
from backtest_kit_verify.cli.simulating import given, run_campaign
from backtest_kit_verify.simulation.step_campaign import Campaign, Counterexample, parse_schedule, play, shrink
from backtest_kit_verify.simulation.step_parties import SHIPPED
from backtest_kit_verify.simulation.step_planted import STEP_PLANTED


def simulate_steps(replay: str, schedules: int, seed: int, planted: str, out: Console, messages: Console) -> bool:
    """True if something is broken, which is then printed.

    Raises:
        typer.BadParameter: there is no such bug.
    """
    if planted and planted not in STEP_PLANTED:
        raise typer.BadParameter(f"{planted!r} is none of {', '.join(STEP_PLANTED)}", param_hint="--planted")
    variant = STEP_PLANTED[planted].variant if planted else SHIPPED
    if replay:
        broken = play(given(parse_schedule, replay, "--replay"), variant)
        out.print("Nothing is broken." if broken is None else f"[red bold]Broken:[/] {escape(broken.detail)}")
        return broken is not None
    found = run_campaign(Campaign(seed, variant), schedules, seed, out, messages)
    if found is None:
        return False
    shortest: Counterexample = shrink(found.violation, variant)
    console = Console()
    console.print(f"[red bold]VIOLATION[/] in schedule {found.number:,} of seed {seed}: {escape(shortest.detail)}")
    command = f"bkm simulate --steps {f'--planted {planted} ' if planted else ''}--replay '{shortest.schedule}'"
    console.print(f"\nAgain: {command}", soft_wrap=True, highlight=False, markup=False)
    return True
