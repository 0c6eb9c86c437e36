"""`bkm delete` and `bkm prune`: documents that are gone for good, for everybody at once."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Console

from backtest_kit_mongo.audit.keytext import format_key
from backtest_kit_mongo.coherence.inventory import Selection
from backtest_kit_mongo.coherence.record import Key, Part, Shape
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import InvalidKey
from backtest_kit_mongo.operate.deletion import belongings, delete, note
from backtest_kit_mongo.settings import load, retention_days
from backtest_kit_mongo.terminal import echo

from .bars import bar
from .inventory import written_key
from .places import At, place

__all__ = ["delete_command", "prune"]

SHOWN_MAX = 20

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")]
Yes = Annotated[bool, typer.Option("--yes", help="Delete without asking.")]
Why = Annotated[str, typer.Option("--why", help="Why; the audit log keeps it with your name and the time.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def delete_command(
    domain: Annotated[str | None, typer.Argument(help="One document: its domain, or a whole key.")] = None,
    parts: Annotated[list[str] | None, typer.Argument(help="The parts of its key.")] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="ID", help="All of a run.")] = None,
    strategy: Annotated[str | None, typer.Option("--strategy", help="All of a strategy.")] = None,
    symbol: Annotated[str | None, typer.Option("--symbol", help="All of a symbol, but its candles.")] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    why: Why = "",
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Delete documents for good: one, or all that belong to a strategy, a symbol or a run.

    When it returns, nobody reads one of them: caches, copies in processes and lists have followed, the feed reports
    each deletion, the worker takes them out of replicas, and the audit log says who, when and why. The audit log itself
    keeps the values that were stored. To a strategy belongs what has its name in the key or in the row, and what hangs
    on its signals (state, memory, dictionary); several options mean what belongs to all of them.

    Stop the strategy first: what it writes afterwards is stored again.

    [bold]Examples[/]

    [cyan]bkm delete --strategy trend --dry-run[/]                  what would go

    [cyan]bkm delete --strategy trend --why 'trial is over'[/]      asks first

    [cyan]bkm delete signal BTC/USDT trend binance --yes[/]         one document

    [cyan]bkm delete --symbol BTC/USDT --at ./dump --yes[/]         in files

    Exit status: 0; 1 when a server or disk failed (run it again) or there is no such document, 2 when an argument is
    wrong.
    """
    named = {"runId": run, "strategyName": strategy, "symbol": symbol}
    names: tuple[tuple[str, Part], ...] = tuple((name, value) for name, value in named.items() if value is not None)
    with place(at) as store:
        if (domain is None) == (not names):
            raise InvalidKey("give either a key, or --run, --strategy or --symbol: what is to be deleted?")
        if domain is not None:
            key = written_key(domain, parts or [])
            if key.domain.shape is Shape.SERIES:
                raise InvalidKey("Candles are removed by `bkm candles remove`, which also makes their blocks anew.")
            keys, asked = [key] if next(store.browse(key.domain, _one(key)), None) else [], str(key)
        else:
            found = belongings(store, Selection(names))
            keys, asked = found.keys, " ".join(f"{name} {value}" for name, value in names)
            for series in found.series:
                echo(f"{series} stays: candles are removed by `bkm candles remove`", err=True)
        _carry_out(store, keys, asked, why or asked, dry_run=dry_run, yes=yes, as_json=as_json)


def _one(key: Key) -> Selection:
    return Selection(tuple(key.query().items()))


def prune(
    older_than: Annotated[
        list[str] | None,
        typer.Option("--older-than", metavar="DOMAIN=DAYS", help="Instead of CC_RETENTION; several times for several."),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    why: Why = "",
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Delete for good what was last written longer ago than its domain is to be kept.

    CC_RETENTION names domains and days, as log=30,notification=90; a domain that is not named is kept for ever, and by
    default none is. Days are counted by MongoDB's clock, in files by this host's. Nothing prunes by itself: run it from
    cron. Candles: `bkm candles remove --until`.

    [bold]Examples[/]

    [cyan]bkm prune --dry-run[/]

    [cyan]bkm prune --older-than log=30 --older-than notification=90 --yes[/]

    Exit status: 0; 1 when a server or disk failed (run it again), 2 when an argument or setting is wrong.
    """
    with place(at) as store:
        kept = retention_days(",".join(older_than)) if older_than else dict(load().retention)
        keys: list[Key] = []
        now_ms = store.now_ms()
        for name, days in kept.items():
            before_ms = now_ms - int(timedelta(days=days).total_seconds() * 1000)
            keys += [one.key for one in store.browse(BY_NAME[name], Selection(changed_before_ms=before_ms))]
        asked = ", ".join(f"{name} older than {days:g} days" for name, days in kept.items())
        if not kept:
            echo("No domain has an age: CC_RETENTION is empty and no --older-than is given, so all is kept.", err=True)
            if not as_json:
                return
        _carry_out(store, keys, asked, why or asked, dry_run=dry_run, yes=yes, as_json=as_json)


def _carry_out(store: Store, keys: list[Key], asked: str, why: str, *, dry_run: bool, yes: bool, as_json: bool) -> bool:
    """Say what goes, ask, and do it; whether it was done."""
    found = Counter(key.domain.name for key in keys)
    _show(keys, found, as_json=as_json)
    may = not dry_run and bool(keys) and (yes or _agreed(sum(found.values()), store.name))
    deleted: Counter[str] = Counter()
    if may:
        with bar(Console(stderr=True), "deleting", len(keys)) as (progress, task):
            step: Callable[[Key], None] = lambda key: progress.advance(task)  # noqa: E731
            deleted = delete(store, keys, note(why), step)
    if as_json:
        echo(json.dumps({"asked": asked, "store": store.name, "found": found, "deleted": deleted}))
    elif may:
        echo(f"{deleted.total():,} deleted from {store.name}")
    elif keys:
        echo(f"{len(keys):,} would be deleted from {store.name}; nothing was" + ("" if dry_run else ", add --yes"))
    else:
        echo(f"{asked}: nothing is stored of it in {store.name}")
    return may


def _show(keys: list[Key], found: Counter[str], *, as_json: bool) -> None:
    if as_json:
        return
    for key in keys[:SHOWN_MAX]:
        echo(format_key(key.domain.name, key.parts))
    if len(keys) > SHOWN_MAX:
        echo(f"and {len(keys) - SHOWN_MAX:,} more: " + ", ".join(f"{count:,} {name}" for name, count in found.items()))


def _agreed(count: int, where: str) -> bool:
    if not sys.stdin.isatty():
        return False
    return typer.confirm(f"Delete {count:,} documents for good from {where}?", err=True)
