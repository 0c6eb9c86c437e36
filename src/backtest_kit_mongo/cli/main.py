"""The console script `bkm` (also `backtest-kit-mongo`): one typer application, each command a plain function."""

import typer

from backtest_kit_mongo.terminal import run

from . import (
    audit,
    backup,
    cache,
    candles,
    dead_letters,
    deletion,
    doctor,
    domains,
    embedded,
    inventory,
    joining,
    knew,
    migration,
    renaming,
    repair,
    stream,
    top,
    trace,
)
from .plugged import PluggedCommands

__all__ = ["app", "main"]

app = typer.Typer(
    name="bkm",
    cls=PluggedCommands,
    help="Durable, shared persistence for trading strategies: MongoDB, Redis and the tools around them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    # Values of local variables in a traceback could be connection strings with passwords.
    pretty_exceptions_show_locals=False,
)
app.command()(embedded.up)
app.command()(embedded.down)
app.command()(embedded.status)
app.command()(doctor.doctor)
app.command("join-file")(joining.join_file)
app.command()(top.top)
app.command()(domains.domains)
app.command()(inventory.ls)
app.command()(inventory.get)
app.command()(inventory.find)
app.command("delete")(deletion.delete_command)
app.command()(deletion.prune)
app.command("rename")(renaming.rename_command)
app.command()(migration.migrate)
app.command("backup")(backup.backup)
app.command()(backup.restore)
app.command()(repair.repair)
app.command("trace")(trace.trace_command)
app.command()(knew.knew)
app.add_typer(candles.candles)
app.add_typer(cache.cache)
app.add_typer(audit.audit)
app.add_typer(dead_letters.park)
app.add_typer(stream.stream)


def main() -> None:
    """Entry point of the console scripts."""
    run(app)
