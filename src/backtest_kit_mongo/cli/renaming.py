"""`bkm rename`: a strategy under another name."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Annotated

import typer
from rich.console import Console

from backtest_kit_mongo.audit.keytext import format_key
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.operate.renaming import Renaming, plan_renaming, rename
from backtest_kit_mongo.terminal import echo

from .bars import bar
from .deletion import AsJson, Why, Yes
from .places import At, place

__all__ = ["rename_command"]

SHOWN_MAX = 20


def rename_command(
    strategy: Annotated[tuple[str, str], typer.Option("--strategy", metavar="OLD NEW", help="Its two names.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be renamed, and what not.")] = False,
    yes: Yes = False,
    why: Why = "",
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Give a strategy another name: open positions, waiting signals, levels, books of risk, memory and history go on
    under it.

    Everything is written under the new name first, as any other write, then what is under the old one is deleted for
    good; the audit log keeps both, with who, when and why. What keeps the old name is said: rows of the log, runs,
    texts, `measure` and `interval`, and the audit log. Stop the strategy first, and start it under the new name.

    [bold]Examples[/]

    [cyan]bkm rename --strategy trend trend_v2 --dry-run[/]

    [cyan]bkm rename --strategy trend trend_v2 --why 'a second one comes'[/]

    Exit status: 0; 1 when a server or disk failed (run it again); 2 when the new name has documents already, a process
    runs the strategy, or an argument is wrong.
    """
    old, new = strategy
    with place(at) as store:
        plan = plan_renaming(store, old, new)
        found = Counter(move.old.domain.name for move in plan.moves)
        if not as_json:
            _show(plan, new)
        may = not dry_run and bool(plan.moves) and (yes or _agreed(store, len(plan.moves), old, new))
        if may:
            steps = len(plan.moves) + sum(not move.stays for move in plan.moves)
            with bar(Console(stderr=True), "renaming", steps) as (progress, task):
                rename(store, plan, old, new, why, lambda: progress.advance(task))
    if as_json:
        left = [{"key": format_key(key.domain.name, key.parts), "why": said} for key, said in plan.left]
        taken = [format_key(key.domain.name, key.parts) for key in plan.taken]
        echo(json.dumps({"found": found, "renamed": found if may else {}, "taken": taken, "left": left}))
    elif may:
        echo(f"{len(plan.moves):,} renamed in {store.name}")
    elif plan.moves:
        echo(f"{len(plan.moves):,} would be renamed in {store.name}; nothing was" + ("" if dry_run else ", add --yes"))
    else:
        echo(f"{old}: nothing is to be renamed in {store.name}")


def _show(plan: Renaming, new: str) -> None:
    _list("", [format_key(move.old.domain.name, move.old.parts) for move in plan.moves])
    _list("keeps the old name: ", [f"{_text(key)}: {why}" for key, why in plan.left])
    _list(f"{new} has another value already: ", [_text(key) for key in plan.taken])


def _text(key: Key) -> str:
    return format_key(key.domain.name, key.parts)


def _list(title: str, lines: list[str]) -> None:
    for line in lines[:SHOWN_MAX]:
        echo(f"{title}{line}", err=bool(title))
    if len(lines) > SHOWN_MAX:
        echo(f"{title}and {len(lines) - SHOWN_MAX:,} more: --json lists all", err=bool(title))


def _agreed(store: Store, count: int, old: str, new: str) -> bool:
    return sys.stdin.isatty() and typer.confirm(
        f"Rename {count:,} documents of {old} to {new} in {store.name}?", err=True
    )
