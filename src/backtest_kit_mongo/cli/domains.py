"""`bkm domains`: what is stored where, from the domain table."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.coherence.record import Domain
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.terminal import echo

__all__ = ["domains"]


def domains(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """List the domains: collection, key, how a write treats what is stored, and what is kept beside the payload.

    The key columns stand in the order of the unique index. A domain with `when` hides from a read what was written at a
    later simulation time; one with `removed` deletes softly.
    """
    rows = [_row(domain) for domain in DOMAINS]
    if as_json:
        echo(json.dumps(rows, indent=2))
        return
    table = Table()
    for heading in ("domain", "collection", "shape", "key", "kept"):
        table.add_column(heading, no_wrap=heading != "key")
    for row in rows:
        table.add_row(row["domain"], row["collection"], row["shape"], " ".join(row["key"]), " ".join(row["kept"]))
    Console().print(table)


def _row(domain: Domain) -> dict[str, Any]:
    kept = [name for name, has in (("when", domain.has_when), ("removed", domain.has_removed)) if has]
    return {
        "domain": domain.name,
        "collection": collection_of(domain),
        "key": list(domain.columns),
        "shape": domain.shape.value,
        "on conflict": domain.on_conflict.value,
        "nothing stored": repr(domain.empty()),
        "kept": kept,
    }
