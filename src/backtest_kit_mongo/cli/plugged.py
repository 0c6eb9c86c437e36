"""Commands of other packages: found by entry point, imported when they are asked for and not before."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from backtest_kit_mongo.errors import BacktestKitError

from .opening import told

__all__ = ["GROUP", "PluggedCommands"]

GROUP = "backtest_kit_mongo.commands"
"""The entry point group: a name, and a `typer.Typer` or a function with typer's annotations."""


@cache
def _plugged() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


class PluggedCommands(TyperGroup):
    """The commands that the application was given, and after them the plugged ones. What one of them refuses before it
    has opened anything, such as an argument, is a message and an exit status too.

    Untyped where click's classes would stand: typer carries its own copy of click in some of the allowed versions.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BacktestKitError as error:
            with told():
                raise error

    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return [*own, *sorted(name for name in _plugged() if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name in _plugged():
            found = _as_command(cmd_name, _plugged()[cmd_name].load())
        return found


def _as_command(name: str, offered: object) -> Any:
    if not isinstance(offered, typer.Typer):
        single = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_show_locals=False)
        single.command(name)(offered)  # type: ignore[type-var]
        offered = single
    command = typer.main.get_command(offered)
    command.name = name
    return command
