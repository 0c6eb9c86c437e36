"""`bkm top`: a live view of what is written, read and worked on."""

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.operate.top import Sample, draw, take

from .opening import connected

__all__ = ["top"]


def top(
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    interval_s: Annotated[float, typer.Option("--interval", min=0.1, metavar="SECONDS", help="Between frames.")] = 2.0,
) -> None:
    """Watch rates of writes, the hit ratio, groups and their lag, dead letters, hosts and workers. Ctrl-C ends it.

    Rates are of the last ten seconds of the feed. It reads only, at most some thousand headers of entries a frame.

    [bold]Examples[/]

    [cyan]bkm top[/]

    [cyan]bkm top --once[/]     one frame, for a script or a ticket

    Exit status: 0; 1 with --once when a server did not answer; 2 for wrong settings.
    """
    console = Console()
    with connected() as servers:
        if once:
            sample = take(servers)
            console.print(draw(sample))
            if sample.trouble:
                raise typer.Exit(ExitCode.FAILED)
            return
        try:
            _watch(servers, console, interval_s)
        except KeyboardInterrupt:
            return


def _watch(servers: FeedServers, console: Console, interval_s: float) -> None:
    before: Sample | None = None
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            sample = take(servers)
            live.update(draw(sample, before), refresh=True)
            before = sample
            time.sleep(interval_s)
