"""What anchors, which are kept elsewhere, say of the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from backtest_kit_console.sources import Look, Sources
from backtest_kit_mongo.audit.anchors import TreeAnchor, make_anchor
from backtest_kit_mongo.audit.findings import Finding

__all__ = ["Anchored", "anchored"]

FRESH_S: Final = 600.0
SHOWN_MAX: Final = 10


class Anchored(NamedTuple):
    """Anchors beside the log.

    Attributes:
        places: where they are kept.
        total: how many there are.
        newest: some of them, the newest first.
        now: what an anchor made now would be.
        misfits: those that the log is not what they saw.
    """

    places: Sequence[str]
    total: int
    newest: Sequence[TreeAnchor]
    now: TreeAnchor
    misfits: Sequence[Finding]


def anchored(sources: Sources) -> Look[Anchored] | None:
    """The anchors of the targets that the console was given, compared in the background; None if it was given none.
    The first time on a host this reads all seals; what was read is kept, as by `bkm audit anchor`.
    """
    if not sources.anchors:
        return None

    def make() -> Anchored:
        known = [anchor for target in sources.anchors for anchor in target.known()]
        now, misfits = make_anchor(sources.database, known)
        newest = sorted(known, key=lambda one: one.time, reverse=True)[:SHOWN_MAX]
        return Anchored([target.name for target in sources.anchors], len(known), newest, now, misfits)

    return sources.look("anchors", make, FRESH_S)
