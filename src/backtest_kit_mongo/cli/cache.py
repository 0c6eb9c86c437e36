"""`bkm cache check`: compare cached entries with MongoDB on a running system."""

import json
import time
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from backtest_kit_mongo.auditor import Auditor, Report, summary
from backtest_kit_mongo.backends.mongo import MongoTruth
from backtest_kit_mongo.backends.redis_link import RedisLink
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.errors import BacktestKitError
from backtest_kit_mongo.settings import Settings, load
from backtest_kit_mongo.setup import redis_client, resolve

from .servers import ExitCode

__all__ = ["cache"]

cache = typer.Typer(name="cache", help="Look at the cache of a running system.", no_args_is_help=True)


@cache.callback()
def _group() -> None:
    """Look at the cache of a running system."""


@cache.command()
def check(
    sample: Annotated[int, typer.Option(min=1, help="How many cached keys to compare in a round.")] = 1_000,
    follow: Annotated[bool, typer.Option("--follow", help="Go on, round after round, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare cached entries with MongoDB and count violations of "an entry equals MongoDB".

    It reads only. Servers come from the CC_ variables. Each violation is looked at again after 1 s, and with --follow after
    1 min and 5 min. Exit status: 0 without violations, 1 with, 2 for wrong settings.
    """
    console = Console(stderr=True)
    report = Report()
    try:
        settings = resolve(load())
        with _auditor(settings) as auditor:
            _run(auditor, report, sample, console, follow=follow)
    except BacktestKitError as error:
        console.print(f"[red]Error:[/] {error}", soft_wrap=True)
        raise typer.Exit(ExitCode.FAILED) from error
    data = summary(report)
    if as_json:
        typer.echo(json.dumps(data, indent=2))
    else:
        for name, value in data.items():
            if name != "offenders":
                typer.echo(f"{name.replace('_', ' ')}: {'none were wrong' if value is None else value}")
        for offender in data["offenders"]:
            typer.echo(f"violation: {json.dumps(offender)}")
    if report.violations:
        raise typer.Exit(ExitCode.FAILED)


class _auditor:  # noqa: N801 - used as a context manager only
    """An auditor with its connections."""

    def __init__(self, settings: Settings) -> None:
        uri = settings.mongo_connection_string.get_secret_value()
        self._truth = MongoTruth(uri, settings.database, DOMAINS, settings.mongo_bound_ms)
        self._link = RedisLink(redis_client(settings))
        self._auditor = Auditor(settings, self._truth, self._link)

    def __enter__(self) -> Auditor:
        self._truth.open()
        return self._auditor

    def __exit__(self, *_: object) -> None:
        self._link.drop_idle()
        self._truth.close()


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
