"""`bkm ls`, `bkm get`, `bkm find`: what there is, in MongoDB or in files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from bson import json_util
from rich.console import Console
from rich.table import Table

from backtest_kit_mongo.audit.keytext import columns, format_key, parse_key
from backtest_kit_mongo.coherence.effects import CacheRead, Find
from backtest_kit_mongo.coherence.inventory import Census, Entry, Selection
from backtest_kit_mongo.coherence.moments import iso
from backtest_kit_mongo.coherence.record import Domain, Key, Record, Shape
from backtest_kit_mongo.domains.table import BY_NAME, DOMAINS
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import InvalidKey, NotFound
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.terminal import echo, escape

from .bars import bar
from .places import At, place

__all__ = ["find", "get", "ls"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Symbol = Annotated[str | None, typer.Option("--symbol", help="Only what belongs to this symbol: BTC/USDT.")]
Strategy = Annotated[str | None, typer.Option("--strategy", help="Only what belongs to this strategy.")]
Exchange = Annotated[str | None, typer.Option("--exchange", help="Only what belongs to this exchange.")]
KIB = 1024


def ls(
    domain: Annotated[str | None, typer.Argument(help="A domain, as `bkm domains` lists them.")] = None,
    symbol: Symbol = None,
    strategy: Strategy = None,
    exchange: Exchange = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what was removed or cleared.")] = False,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Show what is stored: how much of each domain, or the keys of one.

    A key that was cleared (a closed position is stored as null) or removed is shown with --all only, so `bkm ls signal`
    lists the open positions.

    [bold]Examples[/]

    [cyan]bkm ls[/]                                      how much there is of each domain

    [cyan]bkm ls signal[/]                               which positions are open

    [cyan]bkm ls --symbol BTC/USDT --at ./dump[/]        of one symbol, in files

    [cyan]bkm ls storage --strategy trend --json | jq .key[/]

    Exit status: 0; 1 when a server or disk failed, 2 when an argument is wrong.
    """
    chosen = chosen_by(symbol, strategy, exchange)
    with place(at, reads=True) as store:
        if domain is None:
            _print_counts(store, chosen, as_json=as_json)
            return
        wanted = named_domain(domain, chosen)
        entries = (one for one in store.browse(wanted, chosen) if everything or not one.is_empty)
        if as_json:
            for entry in entries:
                echo(json.dumps(described(entry)))
            return
        _print_entries(list(entries), wanted)


def get(
    domain: Annotated[str, typer.Argument(help="A domain, or a whole key: domain/part/part.")],
    parts: Annotated[list[str] | None, typer.Argument(help="The key's parts, in the order of `bkm domains`.")] = None,
    at: At = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show one document: its value, revision and times, and where it is kept.

    The parts are given one by one, or as one text in which a slash inside a part is %2F (the form of `bkm ls`). The
    value is MongoDB's Extended JSON, which can say infinity and dates.

    [bold]Examples[/]

    [cyan]bkm get signal BTC/USDT trend binance[/]

    [cyan]bkm get signal/BTC%2FUSDT/trend/binance[/]

    [cyan]bkm get storage live b7c1 --json | jq .value.status[/]

    Exit status: 0; 1 when there is no such document or a server failed, 2 when an argument is wrong.
    """
    with place(at, reads=True) as store:
        key = written_key(domain, parts or [])
        if key.domain.shape is Shape.SERIES:
            raise InvalidKey("Candles are shown by `bkm candles list` and `bkm candles export`.")
        store.open()
        entry = next(store.browse(key.domain, Selection(tuple(key.query().items()))), None)
        record = store.truth.find(Find(key))
        if not record.exists:
            raise NotFound(f"{key}: there is no such document. `bkm ls {key.domain.name} --all` shows what there is.")
        cached = store.cache.read(CacheRead(key)) if key.domain.cached else None
        found = {
            **described(entry or Entry(key)),
            "store": store.name,
            "cache": _cached(record, cached),
            "value": json.loads(json_util.dumps(record.payload, json_options=json_util.RELAXED_JSON_OPTIONS)),
        }
    if as_json:
        echo(json.dumps(found))
        return
    for name, value in found.items():
        if name != "value" and value not in (None, [], "") and value is not False:
            echo(f"{name:13} {value}")
    echo(json.dumps(found["value"], indent=2, ensure_ascii=False))


def find(
    text: Annotated[str, typer.Argument(help="Part of a name; capitals do not matter.")],
    domain: Annotated[str | None, typer.Option("--domain", help="Only in this domain.")] = None,
    values: Annotated[bool, typer.Option("--values", help="Look into the values too. Reads all of them.")] = False,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Find keys by a part of a name, in all domains; what was cleared or removed too.

    [bold]Examples[/]

    [cyan]bkm find btc[/]

    [cyan]bkm find b7c1 --values[/]      the signal's id, wherever it is mentioned

    Exit status: 0 when something was found, 1 when nothing was or a server failed, 2 when an argument is wrong.
    """
    count = 0
    with place(at, reads=True) as store:
        wanted = DOMAINS if domain is None else (named_domain(domain, Selection()),)
        for entry in _found(store, tuple(wanted), text, values=values):
            count += 1
            echo(json.dumps(described(entry)) if as_json else format_key(entry.key.domain.name, entry.key.parts))
    if not count:
        raise typer.Exit(ExitCode.FAILED)


def _found(store: Store, domains: tuple[Domain, ...], text: str, *, values: bool) -> Iterator[Entry]:
    if not values:
        for domain in domains:
            yield from store.browse(domain, Selection(text=text))
        return
    store.open()
    messages = Console(stderr=True)
    for domain in domains:
        with bar(messages, domain.name, store.census(domain).documents) as (progress, task):
            for entry in store.browse(domain):
                progress.advance(task)
                if Selection(text=text).fits_key(entry.key) or _mentions(store, entry, text):
                    yield entry


def _mentions(store: Store, entry: Entry, text: str) -> bool:
    if entry.key.domain.shape is Shape.SERIES:
        return False
    payload = store.truth.find(Find(entry.key)).payload
    return text.casefold() in json_util.dumps(payload, ensure_ascii=False).casefold()


def chosen_by(symbol: str | None, strategy: str | None, exchange: str | None) -> Selection:
    named = {"symbol": symbol, "strategyName": strategy, "exchangeName": exchange}
    return Selection(tuple((name, value) for name, value in named.items() if value is not None))


def named_domain(name: str, chosen: Selection) -> Domain:
    """
    Raises:
        InvalidKey: there is no such domain, or it has none of what was chosen by.
    """
    domain = BY_NAME.get(name)
    if domain is None:
        raise InvalidKey(f"no domain {name!r}; domains: {', '.join(BY_NAME)}")
    if not chosen.concerns(domain):
        lacking = [column for column, _ in chosen.names if column not in domain.columns]
        raise InvalidKey(f"{name} has no {', '.join(lacking)}; its key is {', '.join(domain.columns)}")
    return domain


def written_key(domain: str, parts: list[str]) -> Key:
    """A key from its parts, or from one text.

    Raises:
        InvalidKey: it is none.
    """
    if not parts:
        return parse_key(domain)
    known = named_domain(domain, Selection())
    if len(parts) != len(columns(known)):
        names = " ".join(column.name for column in columns(known))
        raise InvalidKey(f"a key of {domain} has {len(columns(known))} parts, {len(parts)} were given: {names}")
    return parse_key(format_key(domain, parts))


def _cached(record: Record, cached: Any) -> str | None:
    if not isinstance(cached, Record):
        return None
    return f"revision {cached.rev}" if cached.rev == record.rev else f"revision {cached.rev}, which is another"


def described(entry: Entry) -> dict[str, Any]:
    """An entry for programs."""
    key = entry.key
    return {
        "key": format_key(key.domain.name, key.parts),
        "domain": key.domain.name,
        **key.query(),
        "rev": entry.rev,
        "rows": entry.rows,
        "removed": entry.removed,
        "empty": entry.is_empty,
        "when": entry.when,
        "created": _moment(entry.created_ms),
        "changed": _moment(entry.changed_ms),
        "bytes": entry.bytes,
        "place": entry.place,
        "span": [iso(moment) for moment in entry.span or ()],
        "fault": entry.fault,
        "perhaps": [format_key(other.domain.name, other.parts) for other in entry.others],
    }


def _moment(moment_ms: int | None) -> str | None:
    return None if moment_ms is None else iso(moment_ms)


def _print_counts(store: Store, chosen: Selection, *, as_json: bool) -> None:
    found = [(domain, store.census(domain, chosen)) for domain in DOMAINS if chosen.concerns(domain)]
    if as_json:
        for domain, census in found:
            times = {"first": _moment(census.first_ms), "last": _moment(census.last_ms)}
            echo(json.dumps({"domain": domain.name, **census._asdict(), **times, "store": store.name}))
        return
    table = Table(title=escape(store.name), title_justify="left")
    for heading, side in zip(("domain", "stored", "hold a value", "KiB", "last write"), "lrrrl", strict=True):
        table.add_column(heading, justify="left" if side == "l" else "right")
    for domain, census in found:
        table.add_row(domain.name, *_counted(census))
    Console().print(table)


def _counted(census: Census) -> tuple[str, ...]:
    if not census.documents:
        return "", "", "", ""
    last = "" if census.last_ms is None else iso(census.last_ms)[:16]
    size = f"{census.bytes / KIB:,.0f}" if census.bytes else ""
    return f"{census.documents:,}", f"{census.holding:,}", size, last


def _print_entries(entries: list[Entry], domain: Domain) -> None:
    if not entries:
        Console(stderr=True).print(f"Nothing is stored of {domain.name}, or all of it was cleared: --all shows that.")
        return
    table = Table()
    table.add_column("key", overflow="fold")
    for heading in ("rows",) if domain.shape is Shape.SERIES else ("rev", "KiB"):
        table.add_column(heading, justify="right")
    table.add_column("last write", no_wrap=True)
    for one in entries:
        numbers = (f"{one.rows:,}",) if domain.shape is Shape.SERIES else (f"{one.rev:,}", f"{one.bytes / KIB:,.1f}")
        key = format_key(domain.name, one.key.parts).removeprefix(f"{domain.name}/")
        state = _state(one)
        table.add_row(
            escape(key) + (f" ({state})" if state else ""),
            *numbers,
            "" if one.changed_ms is None else iso(one.changed_ms)[:16],
        )
    Console().print(table)


def _state(entry: Entry) -> str:
    if entry.fault:
        return "unreadable"
    if entry.removed:
        return "removed"
    return "cleared" if entry.is_empty else "perhaps" if entry.others else ""
