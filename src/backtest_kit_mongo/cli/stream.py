"""`bkm stream`: the change feed, who is how far behind in it, and what holds back its trimming."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import redis
import typer
from rich.console import Console
from rich.table import Table

from backtest_kit_mongo.errors import NotFound
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.feed.positions import GroupPosition, StreamPosition, look
from backtest_kit_mongo.feed.settings import load_feed_settings
from backtest_kit_mongo.feed.size import bytes_max
from backtest_kit_mongo.feed.trimming import TrimPlan, plan_trim
from backtest_kit_mongo.feed.trimming import trim as carry_out
from backtest_kit_mongo.terminal import echo, escape

from .opening import connected

__all__ = ["stream"]

stream = typer.Typer(
    name="stream",
    help="The change feed: who is how far behind, and what may be trimmed.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@stream.callback()
def _group() -> None:
    """The change feed: who is how far behind, and what may be trimmed."""


@stream.command()
def status(as_json: AsJson = False) -> None:
    """Show each stream's consumer groups. Changes nothing.

    A group that owes something and that nobody has served for ten minutes is [red]abandoned[/]: the feed grows until
    its consumer comes back or [bold]bkm stream drop-group[/] gives it up.

    [bold]Examples[/]

    [cyan]bkm stream status[/]

    [cyan]bkm stream status --json | jq '.[].groups[] | {name, lag_ms}'[/]

    Exit status: 0; 1 when a server cannot be asked, 2 for wrong settings.
    """
    with connected() as servers:
        positions = [look(servers.redis, name) for name in servers.streams]
    found = [position for position in positions if position is not None]
    if as_json:
        echo(json.dumps([_shown(position) for position in found], indent=2))
        return
    console = Console()
    for position in found:
        console.print(_table(position))
        for group in position.groups:
            if group.is_abandoned:
                console.print(
                    f"[red]{escape(group.name)} is abandoned[/]: nobody serves it. Start its consumer, or [cyan]bkm "
                    "stream drop-group "
                    f"{escape(group.name)}[/]",
                    soft_wrap=True,
                )
    if not found:
        console.print("No stream: nothing was written yet, or Redis was flushed.")


@stream.command()
def trim(
    explain: Annotated[
        bool, typer.Option("--explain", help="Only say what could go and what holds back the rest.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what every group has acknowledged, the audit holds and is older than CC_STREAM_RETENTION_MS; while the
    feed has more bytes than it may (CC_STREAM_MAX_BYTES), whatever its age.

    A worker with role [bold]trim[/] does this all the time. With [bold]--explain[/] nothing is removed.

    [bold]Examples[/]

    [cyan]bkm stream trim --explain[/]   which group, entry or retention holds the trim back

    [cyan]bkm stream trim[/]             trim now

    Exit status: 0; 1 when a server cannot be asked, 2 for wrong settings.
    """
    with connected() as servers:
        settings = load_feed_settings()
        most = bytes_max(servers.redis, len(servers.streams), settings.max_bytes)
        for name in servers.streams:
            _trim_one(servers, name, settings.retention_ms, most, explain=explain, as_json=as_json)


def _trim_one(servers: FeedServers, name: str, retention_ms: int, most: int, *, explain: bool, as_json: bool) -> None:
    plan = plan_trim(servers.redis, servers.database, name, retention_ms, most)
    if plan is None:
        echo(f"{name}: no such stream", err=True)
        return
    removed_count = 0
    while not explain and plan is not None and plan.count:
        removed_count += carry_out(servers.redis, servers.database, plan)
        plan = plan_trim(servers.redis, servers.database, name, retention_ms, most)
    if plan is None:
        return
    if as_json:
        echo(json.dumps({"removed": removed_count, **_plan(plan)}))
    else:
        _explain(plan, removed_count, removed=not explain)


def _explain(plan: TrimPlan, removed_count: int, *, removed: bool) -> None:
    console = Console()
    name = escape(plan.position.stream)
    what = f"removed {removed_count}, {plan.position.length} stay"
    if not removed:
        at_least = "at least " if plan.more else ""
        what = f"{at_least}{plan.count} of {plan.position.length} entries can go"
    console.print(f"[bold]{name}[/]: {what}. What comes next is held back by [bold]{escape(plan.held_by.name)}[/].")
    table = Table()
    for heading in ("limit", "keeps from", "why"):
        table.add_column(heading, overflow="fold")
    for limit in sorted(plan.limits, key=lambda limit: limit.keep_from):
        mark = "[red]" if limit.needs_operator else ""
        table.add_row(
            limit.kind if limit.kind in ("retention", "bytes") else f"{limit.kind} {escape(limit.name)}",
            str(limit.keep_from),
            f"{mark}{escape(limit.why)}",
        )
    console.print(table)


@stream.command(name="drop-group")
def drop_group(
    group: Annotated[str, typer.Argument(metavar="GROUP")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Give up a consumer group of which the consumers are gone for ever, in all streams.

    What it has not acknowledged is forgotten for this group only; the audit is not touched. A consumer that comes back
    under this name makes the group again and begins at the oldest entry that is kept. Name the group as
    `bkm stream status`
    does: those of `consume` begin with `feed:`.

    [bold]Example[/]

    [cyan]bkm stream drop-group feed:my-dashboard[/]

    Exit status: 0 when the group is gone, 1 when not.
    """
    with connected() as servers:
        positions = [look(servers.redis, name) for name in servers.streams]
        found = [each for position in positions if position for each in position.groups if each.name == group]
        if not found:
            raise NotFound(f"no stream has a group {group!r}; `bkm stream status` shows them. Nothing was changed.")
        owed_count = sum(each.owed_count for each in found)
        if not yes and not typer.confirm(f"Forget that {group} has {owed_count} entries to handle?", err=True):
            raise typer.Exit(ExitCode.FAILED)
        asked: redis.Redis = servers.redis
        for each in found:
            asked.xgroup_destroy(each.stream, group)


def _table(position: StreamPosition) -> Table:
    kept = f"{position.length} entries" + (f" from {position.first}" if position.first else "")
    table = Table(title=escape(f"{position.stream}: {kept}, last {position.last}"), title_justify="left")
    for heading in ("group", "consumers", "pending", "unread", "behind", "needs from", "state"):
        table.add_column(heading, overflow="fold")
    for group in position.groups:
        counts = map(str, (group.consumer_count, group.pending_count, group.unread_count))
        table.add_row(escape(group.name), *counts, f"{group.lag_ms / 1000:.1f} s", str(group.needed), _state(group))
    return table


def _state(group: GroupPosition) -> str:
    if group.is_abandoned:
        return "[red]abandoned[/]"
    return "[yellow]behind[/]" if group.owed_count else "[green]up to date[/]"


def _shown(position: StreamPosition) -> dict[str, Any]:
    groups = [
        {
            **asdict(group),
            "needed": str(group.needed),
            "delivered": str(group.delivered),
            "abandoned": group.is_abandoned,
        }
        for group in position.groups
    ]
    first = None if position.first is None else str(position.first)
    return {
        "stream": position.stream,
        "length": position.length,
        "first": first,
        "last": str(position.last),
        "groups": groups,
    }


def _plan(plan: TrimPlan) -> dict[str, Any]:
    limits = [{**asdict(limit), "keep_from": str(limit.keep_from)} for limit in plan.limits]
    return {
        "stream": plan.position.stream,
        "length": plan.position.length,
        "removable": plan.count,
        "more": plan.more,
        "heldBy": plan.held_by.name,
        "limits": limits,
    }
