"""A history that MongoDB was set back in is several: what was written after the snapshot is allowed to be gone, and
revisions are given out again. Pure functions.

A restore happens while all clients stand still, so a call is of the time before it, of the time after it, or its
process stood still within it. Of the latter nothing that it was reported is judged, and what it wrote may have happened
on either side. For `UNAWARE_NS` after it a client that runs may not know of it yet and be served what MongoDB no longer
holds: what it reads then is not judged either, and counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf

from backtest_kit_verify.chaos.history import History, Operation, Restore
from backtest_kit_verify.chaos.journal import Outcome

__all__ = ["Epoch", "split"]

UNAWARE_NS = 5_000_000_000
"""Two heartbeats of a second, and a second and a half each for what they ask of MongoDB and of Redis."""
LATE_NS = 10_000_000_000
"""What ended without an answer, or died, so long before a restore may still have been under way to MongoDB."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """A history between two restores.

    Attributes:
        is_last: what the servers hold at the end is of it.
        unjudged: reads of clients that could not know of the restore yet.
    """

    history: History
    is_last: bool
    unjudged: int


def split(history: History, restores: Sequence[Restore]) -> list[Epoch]:
    """The history by epochs, in the order of time."""
    bounds = [None, *restores, None]
    return [_epoch(history, before, after) for before, after in pairwise(bounds)]


def _epoch(history: History, before: Restore | None, after: Restore | None) -> Epoch:
    operations: list[Operation] = list(before.base) if before else []
    unjudged = 0
    for op in history.operations:
        for part in _parts(history, op, before, after):
            if before and part.is_read and part.began_ns < before.resumed_ns + UNAWARE_NS:
                unjudged += 1
            else:
                operations.append(part)
    return Epoch(replace(history, operations=operations), after is None, unjudged)


def _parts(history: History, op: Operation, before: Restore | None, after: Restore | None) -> Iterator[Operation]:
    """The call as this epoch sees it: whole, as one that may have happened, or not at all."""
    since_ns = before.resumed_ns if before else -inf
    until_ns = after.stopped_ns if after else inf
    over_ns = _over_ns(history, op)
    if op.began_ns >= since_ns and (op.ended_ns is not None or over_ns == inf) and _ends_by(op, until_ns):
        yield op
    elif (
        op.is_write
        and op.began_ns < (after.resumed_ns if after else inf)
        and over_ns > (before.stopped_ns if before else -inf)
    ):
        yield replace(op, outcome=Outcome.PENDING, ended_ns=None, rev=None, value=None, is_check=False)


def _ends_by(op: Operation, until_ns: float) -> bool:
    return until_ns == inf if op.ended_ns is None else op.ended_ns <= until_ns


def _over_ns(history: History, op: Operation) -> float:
    """When a call can have had no effect any more."""
    if op.outcome is Outcome.DONE or op.outcome is Outcome.REFUSED:
        return op.ended_ns if op.ended_ns is not None else inf
    ended_ns = op.ended_ns if op.ended_ns is not None else history.killed_ns.get(op.process)
    return inf if ended_ns is None else ended_ns + LATE_NS
