"""How far a sweep is, on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["Reported", "telling"]

Reported: TypeAlias = Callable[[int, int, int], None]
"""Reported how many runs are at hand, how many there are, and how many of them have failed."""


@contextmanager
def telling(progress: Reported | bool | None) -> Iterator[Reported]:
    """A function that shows it. None or True: a bar, if standard error is a terminal."""
    if callable(progress):
        yield progress
        return
    console = Console(stderr=True)
    columns = (
        TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
        TextColumn("[red]{task.fields[failed]}[/]"),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=progress is False or not console.is_terminal) as shown:
        task = shown.add_task("runs", total=None, rate="", failed="")

        def reported(done: int, total: int, failed: int) -> None:
            speed = shown.tasks[0].speed
            rate, lost = f"{speed:,.1f}/s" if speed else "", f"{failed:,} failed" if failed else ""
            shown.update(task, completed=done, total=total, rate=rate, failed=lost)

        yield reported
