"""A campaign of `bkm simulate` with a progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

UPDATE_S = 0.1
"""How often the progress bar moves."""

FoundT_co = TypeVar("FoundT_co", covariant=True)
T = TypeVar("T")


class Blocks(Protocol[FoundT_co]):
    """A campaign: what it has done, and the next part of it."""

    @property
    def done(self) -> int: ...

    def run_block(self, at_most: int) -> FoundT_co | None: ...


def given(parse: Callable[[str], T], text: str, option: str) -> T:
    """What an option says; an error of `parse` becomes one of the command line that names the option."""
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def run_campaign(
    campaign: Blocks[FoundT_co], schedules: int, seed: int, out: Console, messages: Console
) -> FoundT_co | None:
    """Play so many schedules, or up to the first violation, which is returned. Says how fast it was if there is
    none.
    """
    began_s = time.perf_counter()
    found = _watched(campaign, schedules, messages)
    if found is None:
        rate = campaign.done / (time.perf_counter() - began_s)
        out.print(f"{campaign.done:,} schedules of seed {seed}: nothing is broken ({rate:,.0f} schedules/s)")
    return found


def _watched(campaign: Blocks[FoundT_co], schedules: int, messages: Console) -> FoundT_co | None:
    columns = (
        TextColumn("simulating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=messages, transient=True, disable=messages.quiet, auto_refresh=False) as progress:
        task = progress.add_task("", total=schedules, rate="")
        began_s = shown_s = time.perf_counter()
        while campaign.done < schedules:
            found = campaign.run_block(schedules - campaign.done)
            if found is not None:
                return found
            now_s = time.perf_counter()
            if now_s - shown_s >= UPDATE_S:
                shown_s = now_s
                rate = f"{campaign.done / (now_s - began_s):,.0f} schedules/s"
                progress.update(task, completed=campaign.done, rate=rate, refresh=True)
    return None
