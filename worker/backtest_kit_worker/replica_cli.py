"""`replica status|rebuild|compare`: an application to mount under the worker's command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import redis
import typer
from pymongo.errors import PyMongoError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.errors import BacktestKitError, InvalidSetting
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.settings import load
from backtest_kit_mongo.setup import resolve
from backtest_kit_mongo.terminal import echo, escape
from backtest_kit_worker.deployment import Deployment, connect
from backtest_kit_worker.replicas import replicas_of
from backtest_kit_worker.replicas.comparing import Comparer, Comparison
from backtest_kit_worker.replicas.copying import CopyService
from backtest_kit_worker.replicas.lag import lag
from backtest_kit_worker.replicas.source import Source
from backtest_kit_worker.replicas.state import State
from backtest_kit_worker.replicas.target import Target

__all__ = ["app"]


app = typer.Typer(
    name="replica",
    help="Look at the replicas of a running system, fill them again, compare them with their source.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    # Values of local variables in a traceback could be connection strings with passwords.
    pretty_exceptions_show_locals=False,
)

Chosen = Annotated[str | None, typer.Option("--target", help="`mongo` or `directory`; by default all that are set.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def _group() -> None:
    """Look at the replicas of a running system, fill them again, compare them with their source.

    Replicas are named by [cyan]CC_REPLICA_MONGO_CONNECTION_STRING[/] and [cyan]CC_REPLICA_DIRECTORY[/], the source by
    the usual CC_ variables. The worker's role [bold]replica[/] fills them and keeps them up to date.
    """


@app.command()
def status(chosen: Chosen = None, as_json: AsJson = False) -> None:
    """How complete each replica is, and how far it is behind the feed.

    It reads only. The lag counts changes that are published but not yet copied, and tells the age of the oldest of
    them.

    [bold]Examples[/]

    [cyan]backtest-kit-worker replica status[/]

    [cyan]backtest-kit-worker replica status --json | jq '.lag.seconds'[/]     for a monitor

    Exit status: 0; 2 for wrong settings, 1 if a server of the source failed.
    """
    with _session(chosen) as (deployment, targets):
        state = State(deployment.database)
        behind = lag(deployment.redis, deployment.streams)
        applied = state.applied()
        data: dict[str, Any] = {
            "targets": [_described(state, target) for target in targets],
            "lag": asdict(behind),
            "applied": {name: str(applied[name]) for name in ("entry", "writtenAt", "appliedAt")} if applied else None,
        }
    if as_json:
        echo(json.dumps(data, indent=2))
        return
    for target in data["targets"]:
        echo("  ".join(f"{name}: {value}" for name, value in target.items()))
    more = "at least " if behind.is_more else ""
    echo(f"lag: {more}{behind.entry_count:,} changes, the oldest published {behind.seconds:.1f} s ago")
    if not behind.has_group:
        echo("the role has not read the feed yet: start a worker with --roles replica")
    if applied := data["applied"]:
        echo(f"last change copied: written {applied['writtenAt']}, copied {applied['appliedAt']}")


def _described(state: State, target: Target) -> dict[str, Any]:
    copy = state.copy(target.name)
    described: dict[str, Any] = {"target": target.name, "place": target.place}
    if copy is None:
        return {**described, "complete": False, "copied": 0, "skipped": 0, "state": "not begun"}
    described |= {"complete": copy.is_complete, "copied": copy.copied, "skipped": copy.skipped}
    try:
        marker = target.marker()
    except OSError as cause:
        return {**described, "state": f"cannot be reached: {cause}"}
    is_own = marker is not None and marker.run == copy.run
    return {**described, "state": "reached" if is_own else f"not the replica that was filled: that is {copy.place}"}


@app.command()
def rebuild(chosen: Chosen = None) -> None:
    """Copy everything again, then compare and repair: afterwards the replica equals its source.

    The replica stays usable meanwhile, and the worker may go on. Documents that are newer in the source are copied;
    copies that were altered are replaced, and copies without a document are [bold]removed[/].

    [bold]Examples[/]

    [cyan]backtest-kit-worker replica rebuild[/]                      all replicas

    [cyan]backtest-kit-worker replica rebuild --target directory[/]   also after CC_REPLICA_DIRECTORY has changed

    If it is interrupted, the worker goes on with the copy; only the repair needs the command again.

    Exit status: 0 when equal, 4 when documents remain that the target cannot hold, 2 for wrong settings, 1 on a
    failure.
    """
    with _session(chosen) as (deployment, targets):
        remaining = sum(_rebuild(deployment, target) for target in targets)
    if remaining:
        raise typer.Exit(ExitCode.DIFFERS)


def _rebuild(deployment: Deployment, target: Target) -> int:
    """Returns how many documents the target cannot hold."""
    source = Source(deployment.database, deployment.settings.mongo_bound_ms)
    service = CopyService(deployment, [target])
    service.open()
    service.restart(target)
    state = State(deployment.database)
    with _progress() as progress:
        total = sum(source.count(domain) for domain in DOMAINS)
        copying = progress.add_task(f"copying to {target.name}", total=total)
        while service.step(target):
            copy = state.copy(target.name)
            progress.update(copying, completed=0 if copy is None else copy.copied + copy.skipped)
        comparing = progress.add_task(f"comparing {target.name}", total=total)
        comparer = Comparer(source, target, repair=True, progress=lambda count: progress.advance(comparing, count))
        found = comparer.run()
    echo(f"{target.name} {target.place}: {found.compared:,} documents equal, {found.repaired:,} copies repaired")
    if found.unstorable:
        echo(f"{found.unstorable:,} documents cannot be stored there; the worker's log names them")
    return found.unstorable


@app.command()
def compare(
    chosen: Chosen = None,
    as_json: AsJson = False,
    recheck_ms: Annotated[
        int, typer.Option(min=0, help="How long a change may be on its way before it counts as a difference.")
    ] = 1_000,
) -> None:
    """Compare every document with its copy, and every copy with its source, while both change.

    It reads only. A difference is looked at again after a moment before it is called one.

    [bold]Examples[/]

    [cyan]backtest-kit-worker replica compare[/]

    [cyan]backtest-kit-worker replica compare --recheck-ms 10000[/]    when the worker is known to be behind

    Repair what it finds with [cyan]backtest-kit-worker replica rebuild[/].

    Exit status: 0 without differences, 4 with, 2 for wrong settings, 1 if a server or disk failed.
    """
    with _session(chosen) as (deployment, targets):
        results = [(target, _compare(deployment, target, recheck_ms)) for target in targets]
    if as_json:
        echo(json.dumps([_summary(target, found) for target, found in results], indent=2))
    else:
        for target, found in results:
            _print(target, found)
    if not all(found.is_equal for _, found in results):
        raise typer.Exit(ExitCode.DIFFERS)


def _compare(deployment: Deployment, target: Target, recheck_ms: int) -> Comparison:
    source = Source(deployment.database, deployment.settings.mongo_bound_ms)
    with _progress() as progress:
        task = progress.add_task(f"comparing {target.name}", total=sum(source.count(domain) for domain in DOMAINS))
        return Comparer(
            source, target, recheck_ms=recheck_ms, progress=lambda count: progress.advance(task, count)
        ).run()


def _summary(target: Target, found: Comparison) -> dict[str, Any]:
    return {
        "target": target.name,
        "place": target.place,
        "compared": found.compared,
        "unstorable": found.unstorable,
        "differences": {verdict.value: count for verdict, count in found.counts.items()},
        "first": [{**one._asdict(), "verdict": one.verdict.value} for one in found.first],
    }


def _print(target: Target, found: Comparison) -> None:
    counts = ", ".join(f"{count:,} {verdict.value}" for verdict, count in found.counts.items()) or "no differences"
    unstorable = f", {found.unstorable:,} that cannot be stored there" if found.unstorable else ""
    echo(f"{target.name} {target.place}: {found.compared:,} documents compared, {counts}{unstorable}")
    for one in found.first:
        echo(f"  {one.verdict.value:8} {one.name}  rev {one.source_rev} in the source, {one.replica_rev} here")


@contextmanager
def _session(chosen: str | None) -> Iterator[tuple[Deployment, list[Target]]]:
    """The deployment and the chosen targets; errors become a message and an exit status."""
    console = Console(stderr=True)
    try:
        deployment = connect(resolve(load()))
        targets: list[Target] = []
        try:
            targets += replicas_of(deployment)
            named = [target for target in targets if chosen in (None, target.name)]
            if not named:
                raise InvalidSetting(f"there is no replica {chosen!r}; set are: {', '.join(t.name for t in targets)}")
            yield deployment, named
        finally:
            for target in targets:
                target.close()
            deployment.close()
    except InvalidSetting as cause:
        console.print(f"[red]Error:[/] {escape(str(cause))}", soft_wrap=True)
        raise typer.Exit(ExitCode.WRONG_ARGUMENT) from cause
    except (BacktestKitError, PyMongoError, redis.RedisError, OSError) as cause:
        console.print(f"[red]Error:[/] {escape(str(cause))}", soft_wrap=True)
        raise typer.Exit(ExitCode.FAILED) from cause


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)
