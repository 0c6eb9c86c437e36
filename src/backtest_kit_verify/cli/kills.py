"""`bkm kills`: kill a writer of a class of values, and see whether every value is whole and the last one is there."""

import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any

import typer
from rich.console import Console

from backtest_kit_mongo.backends.persist.wrapper import needed
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.terminal import escape
from backtest_kit_mongo.testing.postgres import private_postgres
from backtest_kit_mongo.testing.servers import UnavailableError, private_servers
from backtest_kit_verify.chaos.faulty_servers import settings_of
from backtest_kit_verify.values.killing import KillsError, run_kills

__all__ = ["kills"]

PATIENCE = {"lease_ms": 15_000, "mongo_timeout_ms": 10_000, "redis_timeout_ms": 5_000}
"""What is tried here is the writer's death, not servers that do not answer."""


def kills(
    persist: Annotated[
        str, typer.Option("--persist", metavar="MODULE:CLASS", help="A class that keeps values by id, or a wrapper.")
    ],
    count: Annotated[int, typer.Option("--kills", min=1, help="SIGKILLs of the writer.")] = 200,
    seed: Annotated[str, typer.Option("--seed", show_default="a new one", help="Draws the same again.")] = "",
) -> None:
    """Kill a writer at random moments. No value may be torn, and the last acknowledged one must be there.

    Servers that a ready class needs are private ones; files go to a temporary directory.

    [bold]Example[/]

    [cyan]bkm kills --persist backtest_kit_mongo.collections.persist:PostgresPersist[/]

    Exit status: 0 when all of it holds, 1 when not, 2 if there is no such class.
    """
    messages = Console(stderr=True)
    chosen = seed or secrets.token_hex(4)
    sys.path.insert(0, str(Path.cwd()))
    try:
        maker = resolve_name(persist)
    except (ImportError, AttributeError, ValueError) as error:
        messages.print(f"[red]Error:[/] --persist {escape(persist)}: {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(ExitCode.WRONG_ARGUMENT) from error
    messages.print(f"Seed {chosen}")
    try:
        with tempfile.TemporaryDirectory(prefix="bkm-kills-") as directory, _served(maker, directory) as settings:
            outcome = run_kills(maker, f"{directory}/values", settings, count, chosen, messages.print)
    except (UnavailableError, KillsError) as error:
        messages.print(f"[red]Error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(ExitCode.FAILED) from error
    console = Console()
    console.print(
        f"{outcome.kills} SIGKILLs, {outcome.acknowledged} acknowledged writes, {outcome.unsaid} that were there "
        f"though they had not returned; load {os.getloadavg()[0]:.1f}",
        soft_wrap=True,
    )
    for problem in outcome.broken:
        console.print(f"[red]{escape(problem)}[/]", soft_wrap=True)
    if outcome.broken:
        raise typer.Exit(ExitCode.FAILED)
    console.print("Every value is whole, and none is older than the last acknowledged one.")


@contextmanager
def _served(maker: Any, directory: str) -> Iterator[dict[str, Any]]:
    """Settings of private servers, as far as they are needed."""
    needs, settings = needed(maker), dict[str, Any]()
    with ExitStack() as stack:
        if needs & {"mongo", "redis"}:
            servers = stack.enter_context(private_servers(Path(directory) / "servers"))
            address = {"mongo_connection_string": servers.mongo_connection_string("kills")}
            settings |= settings_of(servers) | PATIENCE | address
        if "postgres" in needs:
            settings["postgres_connection_string"] = stack.enter_context(private_postgres())
        yield settings
