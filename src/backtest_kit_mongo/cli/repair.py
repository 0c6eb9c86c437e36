"""`bkm repair`: keys with several documents get one again."""

from typing import Annotated, Any

import typer
from bson import ObjectId

from backtest_kit_mongo.domains.table import BY_NAME, describe
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.operate.repair import Doubled, Repairer, chosen, open_repairer
from backtest_kit_mongo.stored import REPAIRED_ITEMS as ASIDE
from backtest_kit_mongo.terminal import echo

from .opening import opened

__all__ = ["repair"]

_SHOWN_MAX = 20


def repair(
    apply: Annotated[bool, typer.Option("--apply", help="Repair what is found. Stop all writers first.")] = False,
    domain: Annotated[list[str] | None, typer.Option(help="Only this domain; may be given several times.")] = None,
) -> None:
    """Find keys that have several documents, and with --apply keep one document of each.

    Only a collection that was without its unique index can have such keys: `setup()` then raises LegacyIndex. The
    document that was written last stays (of candles and log rows the first, because there the first write wins). All
    versions are kept in the collection `repaired-items`, then the others are deleted, the cache forgets the key, and
    the index is built. Without --apply nothing is changed. Exit status: 0 if nothing is left to repair, 1 if there is
    (or a server failed), 2 for wrong settings.
    """
    unknown = sorted(set(domain or ()) - set(BY_NAME))
    if unknown:
        echo(f"no domain {', '.join(map(repr, unknown))}; domains: {', '.join(BY_NAME)}", err=True)
        raise typer.Exit(ExitCode.WRONG_ARGUMENT)
    with opened(open_repairer) as repairer:
        count = sum(_repaired(repairer, name, apply) for name in (each.name for each in chosen(domain or ())))
    if not count:
        echo("no key has several documents")
    elif apply:
        echo(f"{count} key(s) repaired; every version is in {ASIDE}")
    else:
        echo(f"{count} key(s) to repair. Nothing was changed: stop all writers, then run it with --apply.")
        raise typer.Exit(ExitCode.FAILED)


def _repaired(repairer: Repairer, name: str, apply: bool) -> int:
    """How many keys of a domain were found, and repaired if wanted."""
    count = 0
    for doubled in repairer.doubled(BY_NAME[name]):
        count += 1
        if count <= _SHOWN_MAX:
            echo(_line(doubled))
        if apply:
            repairer.repair(doubled)
    if count > _SHOWN_MAX:
        echo(f"{name}: and {count - _SHOWN_MAX} more")
    if apply:
        repairer.build_index(BY_NAME[name])
    return count


def _line(doubled: Doubled) -> str:
    stays, *others = (f"{_text(document['_id'])} (rev {document.get('rev', 0)})" for document in doubled.documents)
    return f"{doubled.domain.name} {describe(doubled.columns.values())}: {stays} stays, {', '.join(others)} set aside"


def _text(document_id: Any) -> str:
    return str(document_id) if isinstance(document_id, ObjectId) else ascii(document_id)
