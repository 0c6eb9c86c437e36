"""What the commands of `bkm audit` share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from backtest_kit_mongo.audit import AuditLog, open_log

from .opening import opened

KeyText = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="domain/part/part, as `tail` prints it. A slash inside a part is written %2F: "
        "signal/BTC%2FUSDT/trend/binance. `bkm domains` lists the domains and their parts.",
    ),
]


@contextmanager
def open_audit_log() -> Iterator[AuditLog]:
    """The audit log of the settings; Ctrl-C is how one stops looking."""
    try:
        with opened(open_log) as log:
            yield log
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
