"""Progress bars: on a terminal only, gone when they are done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from backtest_kit_mongo.terminal import escape

__all__ = ["bar"]


@contextmanager
def bar(messages: Console, title: str, total: int | None) -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # A file or pipe would get an empty line for each bar.
    with Progress(*columns, console=messages, transient=True, disable=not messages.is_terminal) as progress:
        yield progress, progress.add_task(escape(title), total=total)
