"""`bkm audit erase`: what records hold of a key, erased; and the same after `bkm delete --erase`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Annotated, Final

import typer
from rich.console import Console

from backtest_kit_mongo.audit.erasing import erase, is_recorded
from backtest_kit_mongo.audit.keytext import parse_key
from backtest_kit_mongo.audit.log import AuditLog, open_log
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.errors import EnvironmentFault
from backtest_kit_mongo.operate.deletion import note
from backtest_kit_mongo.terminal import echo

from .audit_opening import KeyText
from .bars import bar
from .opening import opened

__all__ = ["erase_command", "erase_deleted"]

RECORDED_S: Final = 30.0
LOOK_S: Final = 0.2


def erase_command(
    key: KeyText,
    why: Annotated[str, typer.Option("--why", help="Why; kept with your name and the time.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Erase without asking.")] = False,
) -> None:
    """Erase what the audit log holds of a key: payloads go, their hashes stay, and `verify` still holds.

    The document itself stays: `bkm delete --erase` deletes it as well. Of an erased record only its place in the chain
    is proven from then on. Backups, replicas, dead letters and exports that were made before hold what they held.

    [bold]Examples[/]

    [cyan]bkm audit erase memory/s-1/notes/m-1 --why 'asked for by its owner'[/]

    Exit status: 0; 1 when a server failed (run it again), 2 when an argument is wrong.
    """
    with opened(open_log) as log:
        found = parse_key(key)
        sure = yes or (sys.stdin.isatty() and typer.confirm(f"Erase all recorded values of {found}?", err=True))
        if not sure:
            echo("Nothing was erased: add --yes.")
            return
        echo(f"{erase(log.database, found, note(why or 'bkm audit erase')):,} payloads erased; their hashes stay")


def erase_deleted(keys: Sequence[Key], why: str) -> None:
    """Erase what the log holds of deleted keys, as soon as it has their deletions.

    Raises:
        EnvironmentFault: the log does not get them; some are not erased.
    """
    with opened(open_log) as log, bar(Console(stderr=True), "erasing", len(keys)) as (progress, task):
        count = 0
        for key in keys:
            _wait(log, key)
            count += erase(log.database, key, note(why))
            progress.advance(task)
    echo(f"{count:,} payloads erased from the audit log; their hashes stay")


def _wait(log: AuditLog, key: Key) -> None:
    if not log.queries(key):
        return  # No worker ever recorded it.
    end_s = time.monotonic() + RECORDED_S
    while not is_recorded(log.database, key):
        if time.monotonic() > end_s:
            raise EnvironmentFault(
                f"{key} is deleted, but the audit log has not heard of it: is a worker running? Recorded values of it "
                "and of the keys after it are not erased. When one runs, `bkm audit erase KEY` does it."
            )
        time.sleep(LOOK_S)
