"""What the sealer makes of what it reads: the queue's batches, the heads, and the next links of each document's chain.

Whoever may write the collections may write anything into them; what has not the worker's form is distinguished from
what has, and keeps nobody else from being sealed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from bson import ObjectId

from backtest_kit_mongo.audit.chain import HASH_BYTES, ORIGIN, Links, link
from backtest_kit_mongo.audit.records import split_id

_RUN: Final = re.compile("[0-9]{1,18}-[0-9]{1,18}")
logger = logging.getLogger(__name__)


class Head(NamedTuple):
    """A document's last sealed revision and chain value.

    Attributes:
        highest: the highest revision known beyond a hole, 0 if none.
        runs: records beyond a hole that stand for several revisions: what follows the document's name in their ids.
    """

    rev: int = 0
    chain: bytes = ORIGIN
    highest: int = 0
    runs: tuple[str, ...] = ()


class Arrival(NamedTuple):
    """A record to be chained: up to which revision it stands, and its digest."""

    rev: int
    digest: bytes


NEW: Final = Head()
_NONE: Final = Arrival(0, b"")
Arrived = dict[str, dict[int, Arrival]]
"""The records to be chained, by document and the first revision that they stand for."""
Foreign = dict[str, dict[tuple[int, int], bytes]]
"""Of foreign changes, by document and (revision, n)."""


def take_up(record_id: Any, of_record: bytes, arrived: Arrived, foreign: Foreign) -> None:
    """Put a record where it belongs in the chain of its document. One that has no place in any stays outside of the
    seals, where `verify` finds it: it must not keep the others out.
    """
    try:
        name, first, rev, n = split_id(record_id)
    except ValueError as cause:
        logger.error("a record is not sealed: %s", cause)
        return
    if n is None:
        revisions = arrived.setdefault(name, {})
        revisions[first] = max(Arrival(rev, of_record), revisions.get(first, _NONE))
    else:
        foreign.setdefault(name, {})[rev, n] = of_record


def is_place(batch: Mapping[str, Any]) -> bool:
    """Whether a document of the queue has the form of a worker's."""
    ids, digests = batch.get("ids"), batch.get("digests")
    if not isinstance(ids, list) or not isinstance(digests, bytes) or len(digests) != HASH_BYTES * len(ids):
        return False
    return isinstance(batch["_id"], ObjectId) and isinstance(batch.get("confirmed"), bool)


def read_head(found: Mapping[str, Any]) -> Head | None:
    """A stored head; None if it does not have the form of one."""
    waiting, rev, chain = found.get("waiting", {}), found.get("rev", 0), found.get("chain", ORIGIN)
    if not isinstance(rev, int) or not isinstance(chain, bytes) or len(chain) != HASH_BYTES:
        return None
    highest, runs = (waiting.get("highest", 0), waiting.get("runs", [])) if isinstance(waiting, dict) else (None, None)
    if not isinstance(highest, int) or not isinstance(runs, list) or not all(map(_RUN.fullmatch, map(str, runs))):
        return None
    return Head(int(rev), chain, int(highest), tuple(runs))


def following_ids(head: Head) -> Iterator[str]:
    """What follows the document's name in the id of the record after a head: one revision, or a run that goes on from
    it.
    """
    yield str(head.rev + 1)
    for run in head.runs:
        first, _, last = run.partition("-")
        if int(first) <= head.rev + 1 <= int(last):
            yield run


def _following(rev: int, revisions: Mapping[int, Arrival]) -> tuple[int, Arrival] | None:
    """What goes on from a revision: the next one, or a run that does."""
    if (exact := revisions.get(rev + 1)) is not None:
        return rev + 1, exact
    return next((each for each in revisions.items() if each[0] <= rev < each[1].rev), None)


def chained(
    name: str,
    head: Head | None,
    revisions: Mapping[int, Arrival] | None,
    foreign: Mapping[tuple[int, int], bytes] | None,
) -> Links | None:
    """The next links of a document's chain: its revisions without a hole, and foreign changes after the revision they
    name.
    """
    after = head or NEW
    rev, chain = after.rev, after.chain
    ordered: list[tuple[int, int, int | str, bytes]] = []
    while revisions and (following := _following(rev, revisions)) is not None:
        first, (rev, of_record) = following
        ordered.append((rev, 0, rev if first == rev else f"{first}-{rev}", of_record))
    if foreign:
        ordered += [(at, n, f"{at}~{n}", of_record) for (at, n), of_record in foreign.items()]
        ordered.sort(key=lambda one: one[:2])
    chains = []
    for _, _, _, of_record in ordered:
        chain = link(chain, of_record)
        chains.append(chain)
    revised = [revision for _, _, revision, _ in ordered]
    return Links(name, after.chain, revised, b"".join(chains)) if chains else None
