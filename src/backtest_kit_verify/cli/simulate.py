"""`bkm simulate`: try the coherence protocol in every order, or in every order that a seed can produce."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.terminal import escape
from backtest_kit_verify.cli.simulate_near import NearSimulation
from backtest_kit_verify.cli.simulate_steps import simulate_steps
from backtest_kit_verify.cli.simulating import given, run_campaign
from backtest_kit_verify.simulation.campaign import Campaign
from backtest_kit_verify.simulation.exhaustive import Limits, TooMany, explore
from backtest_kit_verify.simulation.near_every import Limits as NearLimits
from backtest_kit_verify.simulation.near_planted import NEAR_PLANTED
from backtest_kit_verify.simulation.planted import Planted
from backtest_kit_verify.simulation.planted_deletions import EVERY_PLANTED as PLANTED
from backtest_kit_verify.simulation.report import as_table, narrate
from backtest_kit_verify.simulation.schedules import Counterexample, Schedule, parse_schedule
from backtest_kit_verify.simulation.shrink import shrink
from backtest_kit_verify.simulation.step_planted import STEP_PLANTED
from backtest_kit_verify.simulation.workload import KINDS, SHIPPED, Rig, Workload, parse_workload

__all__ = ["simulate"]


def simulate(
    schedules: Annotated[int, typer.Option("--schedules", "-n", min=1, help="How many random schedules.")] = 100_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same schedules.")] = 1,
    replay: Annotated[
        str, typer.Option("--replay", metavar="SCHEDULE", help="Play one schedule and tell what happens.")
    ] = "",
    every: Annotated[
        str, typer.Option("--every", metavar="WORKLOAD", help="Instead of random ones, every schedule of a workload.")
    ] = "",
    faults: Annotated[int, typer.Option("--faults", min=0, help="With --every: so many faults at most.")] = 1,
    ticks: Annotated[int, typer.Option("--ticks", min=0, help="With --every: time passes so often at most.")] = 1,
    planted: Annotated[
        str,
        typer.Option(
            "--planted",
            metavar="BUG",
            help=f"Drop one rule of the protocol, and see it found: {', '.join(PLANTED)}. "
            f"With --near: {', '.join(NEAR_PLANTED)}. With --steps: {', '.join(STEP_PLANTED)}.",
        ),
    ] = "",
    near: Annotated[
        bool, typer.Option("--near", help="The near cache instead: two processes with copies, and what each hears.")
    ] = False,
    steps: Annotated[
        bool, typer.Option("--steps", help="Steps instead: writes of two documents that happen together or not at all.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but a violation.")] = False,
) -> None:
    """Check the cache protocol: the shipped steps of readers and writers in any order, with crashes, lost replies,
    evictions, restarts of Redis that lose its last operations, and clients that are cut off.

    After every step the invariants are checked. Needs no server and writes nothing.

    [bold]Examples[/]

    [cyan]bkm simulate --schedules 1000000 --seed 7[/]

    [cyan]bkm simulate --every 'write@a write@b read@c' --faults 1[/]

    [cyan]bkm simulate --planted commit-first-draft[/]    see a bug found

    [cyan]bkm simulate --near --schedules 100000[/]

    [cyan]bkm simulate --steps --schedules 100000[/]

    [cyan]bkm simulate --replay 'write@a read@b | vouch 0 1 crash:a tick tick tick 1'[/]

    Exit status: 0 when nothing is broken, 1 when an invariant is, 2 when the command cannot be read.
    """
    out, messages = Console(quiet=quiet), Console(stderr=True, quiet=quiet)
    if near:
        simulation = NearSimulation(planted, out, messages)
        if replay:
            is_broken = simulation.replay(replay)
        elif every:
            is_broken = simulation.every(every, NearLimits(faults, ticks))
        else:
            is_broken = simulation.campaign(schedules, seed)
        raise typer.Exit(ExitCode.FAILED if is_broken else 0)
    if steps:
        if every:
            raise typer.BadParameter("steps are tried in random schedules only", param_hint="--every")
        raise typer.Exit(ExitCode.FAILED if simulate_steps(replay, schedules, seed, planted, out, messages) else 0)
    bug = _bug(planted)
    if replay:
        found = _replay(given(parse_schedule, replay, "--replay"), bug, out)
    elif every:
        found = _explore(given(parse_workload, every, "--every"), Limits(faults, ticks), bug, out, messages)
    else:
        found = _campaign(schedules, seed, bug, out, messages)
    if found is not None:
        if not replay:
            _print_shortest(found, bug, f"--planted {planted} " if planted else "")
        raise typer.Exit(ExitCode.FAILED)


def _bug(name: str) -> Planted | None:
    if name and name not in PLANTED:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(PLANTED)}", param_hint="--planted")
    return PLANTED[name] if name else None


def _rig(workload: Workload, bug: Planted | None) -> Rig:
    return Rig(KINDS[workload[0].kind], bug.variant if bug else SHIPPED)


def _campaign(schedules: int, seed: int, bug: Planted | None, out: Console, messages: Console) -> Counterexample | None:
    key, faults = (bug.key, bug.faults) if bug else (None, True)
    campaign = Campaign(seed, bug.variant if bug else SHIPPED, key=key, faults=faults)
    with _without_garbage_collection():
        found = run_campaign(campaign, schedules, seed, out, messages)
    if found is None:
        return None
    Console().print(f"[red bold]VIOLATION[/] in schedule {found.number:,} of seed {seed}", highlight=False)
    return found.violation


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """What a campaign remembers grows and is never garbage; looking for some in it costs a tenth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _explore(
    workload: Workload, limits: Limits, bug: Planted | None, out: Console, messages: Console
) -> Counterexample | None:
    with messages.status("exploring"):
        try:
            explored = explore(_rig(workload, bug), workload, limits)
        except TooMany as error:
            messages.print(f"[red]Error:[/] {error}")
            raise typer.Exit(ExitCode.FAILED) from error
    if explored.violation is None:
        out.print(
            f"every schedule with at most {limits.faults} faults and {limits.ticks} ticks: nothing is broken "
            f"({explored.situations:,} situations, {explored.actions:,} actions)"
        )
    return explored.violation


def _print_shortest(found: Counterexample, bug: Planted | None, option: str) -> None:
    console = Console()
    shortest = shrink(_rig(found.schedule.workload, bug), found)
    _replay(shortest.schedule, bug, console)
    command = f"bkm simulate {option}--replay '{shortest.schedule}'"
    console.print(f"\nAgain: {command}", soft_wrap=True, highlight=False, markup=False)


def _replay(schedule: Schedule, bug: Planted | None, out: Console) -> Counterexample | None:
    """Print what happens."""
    lines = list(narrate(_rig(schedule.workload, bug), schedule))
    out.print(as_table(lines))
    broken = next((line.broken for line in lines if line.broken), "")
    if not broken:
        out.print("\nNothing is broken.")
        return None
    out.print(f"\n[red bold]Broken:[/] {escape(broken)}", soft_wrap=True, highlight=False)
    return Counterexample(broken.split(" ", 1)[0], broken, schedule)
