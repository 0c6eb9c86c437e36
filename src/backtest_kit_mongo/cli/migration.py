"""`bkm migrate`: bring what there is from one place to another."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from backtest_kit_mongo.backends.files.browsing import paths
from backtest_kit_mongo.backends.files.layout import layout
from backtest_kit_mongo.coherence.inventory import Entry
from backtest_kit_mongo.coherence.record import Domain, Key, Shape
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import InvalidSetting
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.operate.migration import Choose, Left, Migration, Moved, by_names, by_what_is_said
from backtest_kit_mongo.terminal import echo, escape

from .bars import bar
from .places import is_directory, place

__all__ = ["migrate"]

SHOWN_MAX = 20


def migrate(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A directory (./dump) or mongodb://host/database.")],
    target: Annotated[
        str | None, typer.Argument(metavar="[TO]", help="The same; by default the servers of the CC_ variables.")
    ] = None,
    contexts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="For ambiguous files, JSON: which names there are: {'exchangeName': ['okx']}"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="FROM wins where TO has another value.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be brought.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Bring all domains from one place to another: ./dump (also one that the npm package wrote) into MongoDB, MongoDB
    into files, one database into another. FROM is only read.

    A document that TO has already is left alone, and named if it has another value there. So a migration that was
    interrupted goes on when it is run again. Stop the strategies first: what they write meanwhile may be missed.

    The npm package joins names with `_`, so a file of its own may be several keys'. Its content decides, then the names
    in --contexts, then names that FROM says elsewhere, then you, if this is a terminal; otherwise it is left. What was
    decided is said.

    [bold]Examples[/]

    [cyan]bkm migrate ./dump --dry-run[/]          how much there is, and what could not be brought

    [cyan]bkm migrate ./dump[/]                    into the servers of the CC_ variables

    [cyan]bkm migrate mongodb://old/backtest-kit mongodb://new/backtest-kit[/]

    [cyan]bkm migrate mongodb://host/backtest-kit ./dump[/]      out again

    Exit status: 0 when TO has all of it; 4 when TO keeps other values of some; 1 when something could not be brought,
    or a server or disk failed (run it again); 2 when an argument is wrong.
    """
    names = _names(contexts)
    with place(source, reads=True) as found, place(target, is_new=True) as into:
        if source == target:
            raise InvalidSetting("FROM and TO are the same place. Nothing was brought.")
        found.open()
        into.open()
        plan = Migration(found, into, _choose(names, found), overwrite=overwrite, dry_run=dry_run)
        moved = {domain: _one(plan, domain) for domain in DOMAINS}
        strangers = _strangers(Path(source)) if is_directory(source) else []
    _report(moved, strangers, plan, as_json=as_json)
    if strangers or any(one.left for one in moved.values()):
        raise typer.Exit(ExitCode.FAILED)
    if any(one.kept for one in moved.values()):
        raise typer.Exit(ExitCode.DIFFERS)


def _one(plan: Migration, domain: Domain) -> Moved:
    census = plan.source.census(domain)
    total = None if domain.shape is Shape.SERIES else census.documents
    if not census.documents:
        return Moved()
    with bar(Console(stderr=True), domain.name, total) as (progress, task):
        return replace(plan, on_done=partial(progress.advance, task)).domain(domain)


def _names(contexts: Path | None) -> Mapping[str, Sequence[str]]:
    if contexts is None:
        return {}
    try:
        read: Any = json.loads(contexts.read_text("utf-8"))
        columns = {column.name for domain in DOMAINS for column in domain.key}
        unknown = sorted(set(read) - columns)
        if not all(isinstance(names, list) for names in read.values()) or unknown:
            raise ValueError(f"unknown: {', '.join(unknown)}" if unknown else "each name must have a list")
    except (OSError, ValueError, AttributeError) as cause:
        echo(f"--contexts {contexts}: {cause}. It is JSON like {{'strategyName': ['my_trend']}}.", err=True)
        raise typer.Exit(ExitCode.WRONG_ARGUMENT) from cause
    return {name: [str(one) for one in names] for name, names in read.items()}


def _choose(names: Mapping[str, Sequence[str]], source: Store) -> Choose:
    """By the names that are given, by those that the source says elsewhere, and then by whoever sits at the terminal;
    asked once for each directory.
    """
    said: dict[tuple[str, ...], int] = {}
    by_given = by_names(names)
    by_source = cache(lambda: by_what_is_said(source))  # Only if something is ambiguous.

    def choose(entry: Entry, keys: Sequence[Key]) -> Key | None:
        key = by_given(entry, keys) or by_source()(entry, keys)
        if key is not None or not sys.stdin.isatty():
            return key
        place = (str(Path(entry.place).parent), str(len(keys)))
        if place not in said:
            echo(f"{entry.place} may be", err=True)
            for number, one in enumerate(keys, 1):
                echo(f"  {number}  {one}", err=True)
            said[place] = typer.prompt("Which one? 0 leaves it", type=int, default=0, err=True)
        with suppress(IndexError):
            return keys[said[place] - 1] if said[place] > 0 else None
        return None

    return choose


def _strangers(root: Path) -> list[Left]:
    """JSON files that are no document of any domain."""
    known = {one.path for domain in DOMAINS if domain.shape is not Shape.SERIES for one in paths(str(root), domain)}
    rows = tuple("/".join(level.literal for level in layout(domain).directories if level.literal)
                 for domain in DOMAINS if domain.shape is Shape.SERIES)  # fmt: skip
    found = (str(path.relative_to(root)) for path in sorted(root.rglob("*.json")))
    return [
        Left(one, "no domain keeps a document there")
        for one in found
        if one not in known and not one.startswith(rows) and "/." not in f"/{one}"
    ]


def _report(moved: Mapping[Domain, Moved], strangers: list[Left], plan: Migration, *, as_json: bool) -> None:
    if as_json:
        domains = {domain.name: asdict(one) for domain, one in moved.items() if one.found}
        echo(json.dumps({"dryRun": plan.dry_run, "domains": domains, "left": strangers}))
        return
    table = Table(title=escape(f"{plan.source.name} -> {plan.target.name}"), title_justify="left")
    table.add_column("domain")
    brought = "would come" if plan.dry_run else "brought"
    for heading in ("found", brought, "there", "replaced", "kept", "left"):
        table.add_column(heading, justify="right")
    for domain, one in moved.items():
        if one.found:
            numbers = (one.found, one.brought, one.there, one.replaced, one.kept, len(one.left))
            table.add_row(domain.name, *(f"{number:,}" if number else "" for number in numbers))
    Console().print(table)
    _list("ambiguous names, decided", [what for one in moved.values() for what in one.decided])
    differ = [what for one in moved.values() for what in one.differ]
    _list("TO has another value, which stayed (--overwrite takes FROM's)", differ)
    left = [one for each in moved.values() for one in each.left] + strangers
    _list("could not be brought", [f"{one.what}: {one.why}" for one in left])


def _list(title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    echo(f"{title}:", err=True)
    for line in lines[:SHOWN_MAX]:
        echo(f"  {line}", err=True)
    if len(lines) > SHOWN_MAX:
        echo(f"  and {len(lines) - SHOWN_MAX:,} more: --json lists all", err=True)
