"""`bkm park`: entries of the change feed that no worker could apply."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.feed.dead_letters import DeadLetter
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.terminal import echo, escape

from .opening import connected

__all__ = ["park"]

park = typer.Typer(
    name="park",
    help="Entries of the change feed that no worker could apply.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", show_default=False)]


@park.callback()
def _group() -> None:
    """Entries of the change feed that no worker could apply.

    A worker parks an entry that it cannot read (damaged, or of a newer version) or whose application fails again and
    again while others succeed. It is kept whole, with the cause, and the rest of the feed goes on.

    An ID is what [bold]list[/] shows, or its end as long as that is unique: [cyan]audit/1700000000000-0[/].
    """


@park.command(name="list")
def list_(
    role: Annotated[str | None, typer.Option("--role", help="Only what this role parked.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is parked, oldest first, and what was replayed but is not handled yet.

    [bold]Examples[/]

    [cyan]bkm park list[/]

    [cyan]bkm park list --role audit --json | jq -r .cause | sort | uniq -c[/]
    """
    with connected() as servers:
        servers.parked.settle()
        items = list(servers.parked.list(role))
    if as_json:
        for item in items:
            echo(json.dumps(_shown(item)))
        return
    table = Table()
    for heading in ("id", "state", "change", "cause", "count", "first seen", "last seen"):
        table.add_column(heading, overflow="fold")
    for item in items:
        change = item.event.id if item.event else "cannot be read"
        seen = [f"{at:%Y-%m-%d %H:%M:%S}" for at in (item.first_seen, item.last_seen)]
        table.add_row(*map(escape, (item.id, item.state, change, item.cause, str(item.count), *seen)))
    Console().print(table if items else "Nothing is parked.")


@park.command()
def show(name: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Print one entry as JSON: the cause, the change if it can be read, the raw bytes in hexadecimal.

    [bold]Example[/]

    [cyan]bkm park show audit/1700000000000-0[/]
    """
    with connected() as servers:
        item = servers.parked.find(name)
    echo(json.dumps({**_shown(item), "event": _event(item), "fields": _hex(item)}, indent=2, default=str))


@park.command()
def replay(
    names: Names = None,
    everything: Annotated[bool, typer.Option("--all", help="Replay all that is parked.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be replayed.")] = False,
) -> None:
    """Deliver entries again, for example after an upgrade of the workers.

    The entry is appended to its stream once more. Every role sees it; those that handled the change before recognise it
    and do nothing. The entry leaves the list when its role has handled it; if that fails again, it is parked anew.

    [bold]Examples[/]

    [cyan]bkm park replay --dry-run --all[/]

    [cyan]bkm park replay audit/1700000000000-0[/]

    Exit status: 0 when all were appended (or would be), 1 when not, 2 when an entry cannot be appended again.
    """
    if bool(names) == everything:
        raise typer.BadParameter("name entries, or use --all")
    with connected() as servers:
        items = _chosen(servers, names) if names else [x for x in servers.parked.list() if x.state == "parked"]
        if dry_run:
            for item in items:
                echo(f"{item.id}: {item.event.id if item.event else 'cannot be read by this version either'}")
            return
        for name, new in servers.parked.replay(items).items():
            echo(f"{name}: appended as {new}")


@park.command()
def drop(
    names: Annotated[list[str], typer.Argument(metavar="ID...")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Give entries up for good: their bytes are deleted. What they were and why they were parked stays on record.

    [bold]Example[/]

    [cyan]bkm park drop audit/1700000000000-0[/]

    Exit status: 0 when they were dropped, 1 when not.
    """
    with connected() as servers:
        items = _chosen(servers, names)
        for item in items:
            echo(f"{item.id}: {item.cause}", err=True)
        if not yes and not typer.confirm(f"Delete the bytes of {len(items)} entries?", err=True):
            raise typer.Exit(ExitCode.FAILED)
        servers.parked.drop(items)


def _chosen(servers: FeedServers, names: Sequence[str]) -> list[DeadLetter]:
    return [servers.parked.find(name) for name in names]


def _shown(item: DeadLetter) -> dict[str, Any]:
    return {
        "id": item.id,
        "state": item.state,
        "change": item.event.id if item.event else None,
        "cause": item.cause,
        "count": item.count,
        "firstSeen": item.first_seen.isoformat(),
        "lastSeen": item.last_seen.isoformat(),
        "replayedAs": item.replayed_as,
        "oversize": item.oversize or item.apart,
    }


def _event(item: DeadLetter) -> dict[str, Any] | None:
    event = item.event
    if event is None:
        return None
    try:
        payload = event.payload
    except Exception as cause:
        payload = f"cannot be decoded: {cause}"
    return {
        "domain": event.domain,
        "key": list(event.key),
        "documentId": event.document,
        "rev": event.rev,
        "operation": event.operation,
        "when": event.when,
        "host": event.origin.host,
        "process": event.origin.process,
        "payload": payload,
    }


def _hex(item: DeadLetter) -> dict[str, str]:
    return {name.decode("utf-8", "replace"): value.hex() for name, value in item.fields.items()}
