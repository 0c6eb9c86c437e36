"""The audit log as the memory of the feed: what was published, in the order of the writers' clocks.

Only what the stream once held is read here. A gap has nothing to tell, and what foreign writers changed never was an
event: both are for `bkm audit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import bson
import pymongo
from pymongo.database import Database

from backtest_kit_mongo.audit.records import READABLE, raw, readable
from backtest_kit_mongo.backends.mongo.errors import reading
from backtest_kit_mongo.coherence.keys import names
from backtest_kit_mongo.coherence.record import Part, Shape
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_mongo.feed.consume.groups import order
from backtest_kit_mongo.feed.consume.progress import Job, Position
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS

OPERATIONS = ("upsert", "remove", "delete", "batch", "conflict")
BATCH = 500
TIMEOUT_S = 30

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AuditLog:
    """Records of some domains (None: of all).

    Attributes:
        partitions: how many streams the feed has: says from which of them a record came.
    """

    database: Database[dict[str, Any]]
    partitions: int
    domains: frozenset[str] | None

    def records(self, job: Job, since: datetime | None) -> Iterator[tuple[Record, int]]:
        """Records that may belong to a job, with their sizes in bytes, in order; from after the job's position.

        Raises:
            ServerUnreachable, ReadFailed: ask again from the position of the last record.
        """
        query: dict[str, Any] = {**self._chosen(), "$and": [_after(job.after)]}
        if since is not None:
            query["writtenAt"] = {"$gte": since}
        lowest_ms = min(order(span.lower)[0] for span in job.spans)
        if lowest_ms:
            # As text: the milliseconds of entry ids have had thirteen digits since 2001 and will until 2286. Whoever
            # chooses an id may give it more of them. What has fewer is let through as well, and is sorted out by
            # whoever asks.
            longer = {"$regex": f"^[0-9]{{{len(str(lowest_ms)) + 1},}}-"}
            query["$and"].append({"$or": [{"entry": {"$gte": str(lowest_ms)}}, {"entry": longer}]})
        with reading("the audit log"):
            # Sorted on disk where there is no index: a replay is rare, an index would cost every write of the worker.
            # As bytes: MongoDB sends up to 16 MiB at once, which would be a hundred when decoded.
            for stored in (
                raw(self.database, ITEMS)
                .find(query, batch_size=BATCH)
                .sort([("writtenAt", 1), ("documentId", 1), ("rev", 1)])
                .allow_disk_use(True)
            ):
                record: Record = bson.decode(stored.raw, READABLE)  # type: ignore[arg-type]
                yield record, len(stored.raw)

    def _chosen(self) -> dict[str, Any]:
        chosen: dict[str, Any] = {"operation": {"$in": OPERATIONS}}
        if self.domains is not None:
            chosen["domain"] = {"$in": sorted(self.domains)}
        return chosen

    def by_id(self, ids: Sequence[str]) -> list[Record]:
        with reading("the audit log"), pymongo.timeout(TIMEOUT_S):
            return list(readable(self.database, ITEMS).find({"_id": {"$in": list(ids)}}))

    def by_entry(self, entries: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Record]:
        """Records of stream entries, by (stream, entry id). There is no index: for a few that are missing."""
        wanted = set(entries)
        query = {**self._chosen(), "entry": {"$in": [entry_id for _, entry_id in wanted]}}
        with reading("the audit log"), pymongo.timeout(TIMEOUT_S):
            found = {
                (self.stream(record), str(record["entry"])): record
                for record in readable(self.database, ITEMS).find(query)
            }
        return {entry: record for entry, record in found.items() if entry in wanted}

    def stream(self, record: Record) -> str:
        """The stream that held the record's event."""
        parts: tuple[Part, ...] = tuple(record["key"])
        domain = BY_NAME.get(record["domain"])
        if domain is not None and domain.shape is Shape.LIST:
            parts = parts[:-1]  # Rows are published where their scope is.
        return names(self.database.name, self.partitions, record["domain"], parts).stream


def position(record: Record) -> Position:
    return record["writtenAt"], record["documentId"], int(record["rev"])


def _after(held: Position | None) -> dict[str, Any]:
    if held is None:
        return {}
    when, document, rev = held
    return {
        "$or": [
            {"writtenAt": {"$gt": when}},
            {"writtenAt": when, "documentId": {"$gt": document}},
            {"writtenAt": when, "documentId": document, "rev": {"$gt": rev}},
        ]
    }
