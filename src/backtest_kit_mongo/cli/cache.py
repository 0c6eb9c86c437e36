"""`bkm cache`: compare cached entries with MongoDB on a running system, or make them worthless."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from backtest_kit_mongo.backends.redis.cluster import link_over
from backtest_kit_mongo.backends.redis.identity import SharedIdentity
from backtest_kit_mongo.caches import identity_of
from backtest_kit_mongo.coherence.eras import REPLACED
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.operate.cache_check import Auditor, Report, open_auditor, summary
from backtest_kit_mongo.servers import Servers
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.terminal import echo

from .opening import opened

__all__ = ["cache"]

cache = typer.Typer(name="cache", help="Look at the cache of a running system, or begin anew.", no_args_is_help=True)


@cache.callback()
def _group() -> None:
    """Look at the cache of a running system, or begin anew."""


@cache.command()
def check(
    sample: Annotated[int, typer.Option(min=1, help="How many cached keys to compare in a round.")] = 1_000,
    follow: Annotated[bool, typer.Option("--follow", help="Go on, round after round, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare cached entries with MongoDB and count violations of "an entry equals MongoDB".

    It reads only. Servers come from the CC_ variables. Each violation is looked at again after 1 s, and with --follow
    after 1 min and 5 min. `nines` is -log10 of the share of violations. Exit status: 0 without violations, 4 with,
    1 when a server cannot be asked, 2 for wrong settings.
    """
    console = Console(stderr=True)
    report = Report()
    with opened(open_auditor) as auditor:
        _run(auditor, report, sample, console, follow=follow)
    data = summary(report)
    if as_json:
        echo(json.dumps(data, indent=2))
    else:
        for name, value in data.items():
            if name != "offenders":
                echo(f"{name.replace('_', ' ')}: {'none were wrong' if value is None else value}")
        for offender in data["offenders"]:
            echo(f"violation: {json.dumps(offender)}")
    if report.violations:
        raise typer.Exit(ExitCode.DIFFERS)


@cache.command()
def renew(
    restored: Annotated[
        bool,
        typer.Option("--restored", help="Documents were set back: let a worker record it and compare all of them."),
    ] = False,
) -> None:
    """Make everything worthless that Redis holds of this database's documents; nothing is deleted, and strategies go
    on.

    For after documents were changed past this package in a way that it cannot notice: restored into collections that
    stayed, say. Entries are not served from the moment that this ends, and cached again after one CC_LEASE_MS.
    """
    with opened(_identity) as identity:
        identity.end(REPLACED if restored else "asked")
    echo("another era has begun: no entry from before is served any more")


@contextmanager
def _identity(settings: Settings) -> Iterator[SharedIdentity]:
    """The identity of the database, with its connections."""
    with Servers(settings) as servers:
        yield identity_of(settings, lambda: servers.mongo, link_over(servers.redis))


def _run(auditor: Auditor, report: Report, sample: int, console: Console, *, follow: bool) -> None:
    try:
        while True:
            keys = auditor.keys(sample)
            with Progress(console=console, transient=True) as progress:
                task = progress.add_task("comparing", total=len(keys))
                auditor.check(keys, report, partial(progress.advance, task))
            if follow or report.violations:
                time.sleep(1)
                auditor.recheck(report)
            if not follow:
                return
            console.print(f"checked {report.checked:,}, violations {len(report.violations)}")
    except KeyboardInterrupt:
        return
