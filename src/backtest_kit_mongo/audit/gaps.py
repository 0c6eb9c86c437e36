"""Holes in revision sequences.

The sealer seals without holes, so whoever looks for one need only look at the documents whose head it marked `waiting`:
those of which a record exists beyond the last sealed revision. The index of `audit-heads` over that mark holds no
others, so the search costs the same after a thousand records as after a billion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo.database import Database

from backtest_kit_mongo.audit.records import readable
from backtest_kit_mongo.backends.mongo.errors import reading
from backtest_kit_mongo.coherence.record import Part
from backtest_kit_mongo.stored import AUDIT_HEADS as HEADS
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Gap:
    """A document of which revisions are missing.

    Attributes:
        key: of the record after the hole; empty if that record does not know it.
        missing: (first, last) of each run of missing revisions below the highest that is recorded.
        since: when the sealer first met the hole, by its clock.
    """

    domain: str
    key: tuple[Part, ...]
    document_id: str
    missing: tuple[tuple[int, int], ...]
    since: datetime


def gaps(database: Database[Document], before: datetime | None = None) -> Iterator[Gap]:
    """Documents with missing revisions, the longest known first.

    A record enters the sealer's view within a second or so; a hole may also be an event that is still on its way.
    Revisions beyond the highest recorded one are not known here: the recovery service compares with the documents
    themselves.

    Args:
        before: only holes that the sealer met before this moment.

    Raises:
        ServerUnreachable, ReadFailed.
    """
    query: Document = {"waiting.since": {"$lt": before} if before else {"$exists": True}}
    items = readable(database, ITEMS)
    with reading("looking for gaps"):
        for head in readable(database, HEADS).find(query).sort("waiting.since", 1):
            highest = head["waiting"].get("highest")
            runs = [run for run in head["waiting"].get("runs") or () if str(run).endswith(f"-{highest}")]
            wanted = [f"{head['_id']}/{end}" for end in (highest, *runs)]
            known = items.find_one({"_id": {"$in": wanted}}, {"domain": 1, "key": 1, "documentId": 1})
            if known is None:
                continue  # Deleted by hand; `verify` says so.
            beyond = {
                "documentId": known["documentId"], "domain": known["domain"], "rev": {"$gt": head.get("rev", 0)},
                "foreign": None,
            }  # fmt: skip
            found = items.find(beyond, {"_id": 0, "rev": 1, "first": 1}).sort("rev", 1)
            runs_of = ((int(record.get("first") or record["rev"]), int(record["rev"])) for record in found)
            missing = tuple(_holes(int(head.get("rev", 0)), runs_of))
            if missing:
                key = tuple(known.get("key") or ())
                yield Gap(known["domain"], key, known["documentId"], missing, head["waiting"]["since"])


def _holes(last: int, runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Runs that are missing in an ascending sequence of runs that should follow `last`."""
    for first, rev in runs:
        if first > last + 1:
            yield last + 1, first - 1
        last = max(last, rev)
