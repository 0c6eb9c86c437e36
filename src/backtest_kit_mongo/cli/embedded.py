"""`bkm up`, `bkm down`, `bkm status`: the private MongoDB and Redis of one data directory.

What a program may want to read goes to standard output (environment lines, JSON, the table); everything said to the
user goes to standard error, so that `eval "$(bkm up)"` works.
"""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from backtest_kit_mongo import embedded
from backtest_kit_mongo.coherence.keys import new_name, partition_names
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.terminal import echo, escape

__all__ = ["ExitCode", "down", "status", "up"]


Directory = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        envvar="CC_EMBEDDED_DIR",
        show_default="a folder in your user data directory",
        help="Data directory. All processes that name the same directory share its servers.",
    ),
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="Give up after so long.")]


def up(
    directory: Directory = None,
    database: Annotated[
        str, typer.Option("--database", help="Database name in the connection string that is printed.")
    ] = "backtest-kit",
    timeout_s: Timeout = 30,
) -> None:
    """Start a private MongoDB and Redis, or find the ones that run.

    They listen on 127.0.0.1 without passwords, keep their data in the data directory and stay until [bold]bkm down[/].
    Running it again is harmless: it prints the same addresses.

    [bold]Examples[/]

    [cyan]bkm up[/]                      start, and print the environment lines to copy

    [cyan]eval "$(bkm up)"[/]            start, and set them in this shell

    [cyan]bkm up --dir ./scratch[/]      servers of its own for an experiment

    Exit status: 0 when both servers serve, 1 when not; then what this command started is stopped again.
    """
    messages = Console(stderr=True)
    with _explained(messages), messages.status("Starting MongoDB and Redis ..."):
        endpoints = embedded.up(directory, timeout_s=timeout_s)
        if endpoints.is_new:
            # Nobody can hold a lease, so the cache need not wait for the end of any.
            embedded.mark_new(endpoints, new_name(partition_names(database, 0)[0]))
    verb = "[green]Started.[/]" if endpoints.started_here else "[green]Already running.[/]"
    messages.print(f"{verb} Data in {escape(str(endpoints.directory))}; stop with [cyan]bkm down[/].", soft_wrap=True)
    for name, value in (
        ("CC_MONGO_CONNECTION_STRING", endpoints.mongo_connection_string(database)),
        ("CC_REDIS_HOST", endpoints.redis_host),
        ("CC_REDIS_PORT", str(endpoints.redis_port)),
    ):
        echo(f"export {name}={shlex.quote(value)}")


def down(directory: Directory = None, timeout_s: Timeout = 30) -> None:
    """Stop the servers of the data directory cleanly. The data stays.

    [bold]Examples[/]

    [cyan]bkm down[/]                    stop the servers that [bold]bkm up[/] started

    [cyan]bkm down --dir ./scratch[/]    stop those of another directory

    Exit status: 0 when nothing runs any more (even if nothing ran before), 1 when a server did not stop in time.
    """
    messages = Console(stderr=True)
    with _explained(messages), messages.status("Stopping MongoDB and Redis ..."):
        stopped = embedded.down(directory, timeout_s=timeout_s)
    messages.print("[green]Stopped.[/]" if stopped else "Nothing was running.")


def status(
    directory: Directory = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show what runs: ports, process ids, versions, disk space. Changes nothing.

    [bold]Examples[/]

    [cyan]bkm status[/]

    [cyan]bkm status --json | jq .mongo.port[/]

    Exit status: 0 when both servers answer, 3 when not, 1 when that could not be found out.
    """
    with _explained(Console(stderr=True)):
        found = embedded.status(directory)
    if as_json:
        echo(json.dumps({**asdict(found), "answering": found.answering}, default=str, indent=2))
    else:
        Console().print(_table(found))
    if not found.answering:
        raise typer.Exit(ExitCode.NOT_WELL)


def _table(found: embedded.Status) -> Table:
    table = Table(title=escape(f"{found.directory} (logs: *.log in it)"), title_justify="left")
    for heading in ("server", "state", "port", "pid", "version", "data"):
        table.add_column(heading, overflow="fold")
    for server in (found.mongo, found.redis):
        port, pid = ("-" if number is None else str(number) for number in (server.port, server.pid))
        size = f"{server.data_bytes / 2**20:.1f} MiB"
        table.add_row(server.name, _state(server), port, pid, server.version or "-", size)
    return table


def _state(server: embedded.ServerStatus) -> str:
    if not server.running:
        return "stopped"
    if not server.answering:
        return f"[red]does not answer: {escape(str(server.trouble))}[/]"
    return "[green]answers[/]" if server.owner_pid is None else f"[green]answers[/], ends with pid {server.owner_pid}"


@contextmanager
def _explained(messages: Console) -> Iterator[None]:
    """Turn the errors of the embedded servers into a message and an exit status."""
    try:
        yield
    except embedded.EmbeddedError as error:
        messages.print(f"[red]Error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(ExitCode.FAILED) from error
