"""The seal service: chains audit records and seals them in batches. Theory of operation:
`backtest_kit_mongo.audit.chain`.

Two at once do no harm: a seal's number is its `_id`, so one of them wins and the other throws its work away; moving
heads is guarded by the seal's number; deleting a used-up batch twice is deleting it once; a `waiting` mark too many
costs one look.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from bson import ObjectId
from bson.int64 import Int64
from pymongo import UpdateOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DuplicateKeyError

from backtest_kit_mongo.audit.chain import ORIGIN, Links, Seal, make_seal, pieces, read_seal
from backtest_kit_mongo.audit.records import digest, raw, readable, split_id
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.stored import AUDIT_HEADS as HEADS
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS
from backtest_kit_mongo.stored import AUDIT_PENDING as PENDING
from backtest_kit_mongo.stored import AUDIT_SEALS as SEALS
from backtest_kit_worker.sealing import (
    NEW,
    Arrived,
    Foreign,
    Head,
    chained,
    following_ids,
    is_place,
    read_head,
    take_up,
)
from backtest_kit_worker.services import Service

RECORDS_MAX: Final = 10_000
"""Records in one seal: a megabyte or so."""
WAITING_MAX: Final = 1_000
"""Documents with a hole looked at in one run."""
BEYOND_MAX: Final = 1_000
"""Records behind a filled hole that one run takes up, for each document."""
REST_MS: Final = 500
"""From one seal to the next while records keep coming."""
GRACE_MS: Final = 60_000
"""More than a writer's own bound on a batch."""
DUPLICATE_KEY: Final = 11_000

NUMBERED: Final = {"_id": {"$gte": 0}}
"""Seals; whoever put something else among them must not hide them."""
logger = logging.getLogger(__name__)

Document = dict[str, Any]


class SealService(Service):
    """Seals what the audit role recorded.

    Args:
        records_max: a seal takes up about so many records.
        rest_ms: pause after a seal that was not full. Sealing each small batch at once would move the same heads again
            and again.
        grace_ms: a batch that was not confirmed for so long belongs to a writer that died.
    """

    name = "seal"
    interval_ms = 1_000

    def __init__(
        self,
        database: Database[Document],
        *,
        records_max: int = RECORDS_MAX,
        rest_ms: int = REST_MS,
        grace_ms: int = GRACE_MS,
    ) -> None:
        self._records_max = records_max
        self._rest_ms = rest_ms
        self._seals = database.get_collection(SEALS, write_concern=DURABLE)
        self._heads = database.get_collection(HEADS, write_concern=DURABLE)
        self._pending = database.get_collection(PENDING, write_concern=DURABLE)
        self._read = {name: readable(database, name) for name in (SEALS, HEADS, ITEMS)}
        self._raw_items = raw(database, ITEMS)
        self._last: Seal | None = None
        self._end: tuple[int, Any] | None = None
        """Number and hash of the seal with which the chain ended when this process looked."""
        self._settled = False
        self._looked_up_to = ""
        self._rest_until_s = 0.0
        self._grace_s = grace_ms / 1000
        self._unconfirmed: dict[ObjectId, float] = {}
        """Since when this process has known of the batches that nobody confirmed, by the monotonic clock."""

    def open(self) -> None:
        self._heads.create_index([("waiting.since", 1)], partialFilterExpression={"waiting.since": {"$exists": True}})
        self._seals.create_index([("foreign", 1)])
        self._settled = False

    def close(self) -> None:
        self._settled = False

    def run_once(self) -> int:
        """Make one seal; returns how many records it took up."""
        if not self._settled:
            self._settle_last()
        if time.monotonic() < self._rest_until_s:
            return 0
        pending, arrived, foreign = self._arrived()
        heads = self._look_behind_holes(arrived)
        names = dict.fromkeys((*arrived, *foreign))
        heads.update(self._heads_of([name for name in names if name not in heads]))
        links = [one for name in names if (one := chained(name, heads.get(name), arrived.get(name), foreign.get(name)))]
        self._mark_waiting(arrived, heads, {one.document: one.rev for one in links})
        if not links:
            self._forget(pending)
            return len(pending)
        if self._newest() != self._end:
            self._settled = False  # Another sealer was faster, or the database was set back under this one.
            return 0
        seal, document = make_seal(self._last, datetime.now(UTC), pending, links)
        try:
            self._seals.insert_one(document)
        except DuplicateKeyError:
            # Another sealer was faster, so what was read here may be old. Begin again with its seal.
            self._settled = False
            return 0
        self._last, self._end = seal, (seal.number, seal.hash)
        self._settle(seal, heads)
        if seal.count < self._records_max:
            self._rest_until_s = time.monotonic() + self._rest_ms / 1000
        return seal.count

    # -- what is to be sealed

    def _arrived(self) -> tuple[list[ObjectId], Arrived, Foreign]:
        """The oldest batches of the queue."""
        used: list[ObjectId] = []
        arrived: Arrived = {}
        foreign: Foreign = {}
        count = 0
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        with self._pending.find().sort("_id", 1).batch_size(8) as batches:
            for batch in batches:
                # Confirmations need not be on a majority: they say that the records are.
                records: Iterable[tuple[str, bytes]]
                if not is_place(batch):
                    logger.error("%s holds %.200s, which no worker wrote; it is removed", PENDING, batch["_id"])
                    used.append(batch["_id"])
                    continue
                if batch["confirmed"]:
                    records = zip(batch["ids"], pieces(bytes(batch["digests"])), strict=True)
                elif (since_s := unconfirmed.get(batch["_id"], time.monotonic())) > time.monotonic() - self._grace_s:
                    self._unconfirmed[batch["_id"]] = since_s  # Its writer is probably still at it.
                    continue
                else:
                    records = self._look_at(batch["ids"])
                for record_id, of_record in records:
                    take_up(record_id, of_record, arrived, foreign)
                used.append(batch["_id"])
                count += len(batch["ids"])
                if count >= self._records_max:
                    break
        self._drop_sealed(foreign)
        return used, arrived, foreign

    def _look_at(self, ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Those records that exist. What does not will be delivered again, with a batch of its own."""
        return ((stored["_id"], digest(stored.raw)) for stored in self._raw_items.find({"_id": {"$in": list(ids)}}))

    def _drop_sealed(self, foreign: Foreign) -> None:
        """Take out the foreign changes that a seal has already."""
        if not foreign:
            return
        ids = [f"{name}/{rev}~{n}" for name, changes in foreign.items() for rev, n in changes]
        for seal in self._read[SEALS].find({"foreign": {"$in": ids}}, {"foreign": 1}):
            for record_id in set(seal["foreign"]) & set(ids):
                found = split_id(record_id)
                foreign[found.document].pop((found.rev, found.foreign or 0), None)

    def _heads_of(self, names: list[str]) -> dict[str, Head]:
        found = self._read[HEADS].find({"_id": {"$in": names}}) if names else ()
        return {head["_id"]: self._head(head) for head in found}

    def _head(self, found: Mapping[str, Any]) -> Head:
        head = read_head(found)
        if head is not None:
            return head
        # Heads only remember what the seals say, so nothing is lost with one; but only a walk over all seals finds it
        # again.
        name = found["_id"]
        logger.error("the head of %.200s has not the form of one; it is made again from the seals", name)
        seals = self._read[SEALS].find({"documents": name, **NUMBERED}).sort("_id", -1)
        links = ((seal["_id"], one) for seal in seals for one in read_seal(seal).links if one.document == name)
        number, last = next(links, (0, Links(name, ORIGIN, [], ORIGIN)))
        rev = last.rev or next((one.rev for _, one in links if one.rev), 0)
        again = {"rev": Int64(rev), "chain": last.last, "seal": number}
        self._heads.replace_one({"_id": name, "seal": found.get("seal")}, again)
        return Head(rev, last.last)

    def _look_behind_holes(self, arrived: Arrived) -> dict[str, Head]:
        """Add the records behind holes that have been filled; returns the heads of the documents looked at. Each run
        looks at the next few, so that many holes that nobody fills cost little.
        """
        query = {"waiting.since": {"$exists": True}, "_id": {"$gt": self._looked_up_to}}
        found = list(self._read[HEADS].find(query).sort("_id", 1).limit(WAITING_MAX))
        self._looked_up_to = found[-1]["_id"] if len(found) == WAITING_MAX else ""
        heads = {one["_id"]: self._head(one) for one in found}
        done = {name: head for name, head in heads.items() if head.rev >= head.highest}
        self._stop_waiting(done.items())
        filled = {
            f"{name}/{next_}": name for name, head in heads.items() if name not in done for next_ in following_ids(head)
        }
        if filled:
            self._add_behind(filled, heads, arrived)
        return heads

    def _add_behind(self, filled: Mapping[str, str], heads: Mapping[str, Head], arrived: Arrived) -> None:
        """Read the records that follow heads. `filled`: names of documents by the id of the record that was missing."""
        count = 0
        fields = {"domain": 1, "documentId": 1}
        for first in list(self._read[ITEMS].find({"_id": {"$in": list(filled)}}, fields)):
            name = filled[first["_id"]]
            revisions = arrived.setdefault(name, {})
            beyond = {"documentId": first["documentId"], "domain": first["domain"], "rev": {"$gt": heads[name].rev}}
            for stored in self._raw_items.find(beyond).sort([("rev", 1), ("foreign", 1)]).limit(BEYOND_MAX):
                count += 1
                if stored.get("foreign") is None:  # A foreign change never waits: it is in the queue, or sealed.
                    take_up(stored["_id"], digest(stored.raw), {name: revisions}, {})
            if count >= self._records_max:
                return

    def _mark_waiting(self, arrived: Arrived, heads: dict[str, Head], sealing: Mapping[str, int]) -> None:
        """Remember the documents that have records beyond a hole, before the batches that report them are forgotten.
        `sealing`: the last revision that the seal to come takes up, by document.
        """
        updates = []
        now = datetime.now(UTC)
        for name, revisions in arrived.items():
            head = heads.get(name, NEW)
            reached = max(head.rev, sealing.get(name, 0))
            highest = max((arrival.rev for arrival in revisions.values()), default=0)
            runs = [f"{first}-{last}" for first, (last, _) in revisions.items() if last > first and last > reached]
            if highest > reached and (highest > head.highest or not set(runs) <= set(head.runs)):
                mark: Document = {"$max": {"waiting.highest": Int64(highest)}, "$min": {"waiting.since": now}}
                if runs:
                    mark["$addToSet"] = {"waiting.runs": {"$each": runs}}
                updates.append(UpdateOne({"_id": name}, mark, upsert=True))
                heads[name] = head._replace(highest=max(highest, head.highest))
        if updates:
            self._heads.bulk_write(updates, ordered=False)

    # -- what follows a seal

    def _newest(self) -> tuple[int, Any] | None:
        found = self._read[SEALS].find_one(NUMBERED, {"hash": 1}, sort=[("_id", -1)])
        return None if found is None else (int(found["_id"]), found.get("hash"))

    def _settle_last(self) -> None:
        """Do what the last seal still asks for, whoever made it."""
        self._last, self._end = None, self._newest()
        newest = 0
        for found in self._read[SEALS].find(NUMBERED).sort("_id", -1).batch_size(2):
            newest = max(newest, int(found["_id"]))
            try:
                self._last = read_seal(found)
                break
            except Exception as cause:
                # Sealing goes on after it; `verify` says what it is.
                logger.error("seal %s has not the form of one: %r. Run `bkm audit verify`", found["_id"], cause)
        if self._last is not None:
            self._settle(self._last, None)
            self._last = replace(self._last, number=newest)
        self._settled = True

    def _settle(self, seal: Seal, heads: Mapping[str, Head] | None) -> None:
        """Move the heads and forget the used-up batches. `heads`: those that exist, None if that is not known."""
        self._settled = False
        self._move_heads(seal, heads)
        if heads is not None and any(head.highest for head in heads.values()):
            sealed = {one.document: one.rev for one in seal.links}
            self._stop_waiting(
                (name, Head(sealed[name], highest=head.highest))
                for name, head in heads.items()
                if 0 < head.highest <= sealed.get(name, 0)
            )
        self._forget(seal.pending)
        self._settled = True

    def _move_heads(self, seal: Seal, heads: Mapping[str, Head] | None) -> None:
        moves = [_moved(one, seal.number) for one in seal.links]
        known = moves if heads is None else [move for move in moves if move["_id"] in heads]
        fresh = [] if heads is None else [move for move in moves if move["_id"] not in heads]
        guarded = [_guarded(move, upsert=heads is None) for move in known]
        self._move(known, lambda: self._heads.bulk_write(guarded, ordered=False))
        # Half the cost of upserts.
        self._move(fresh, lambda: self._heads.insert_many(fresh, ordered=False))

    def _move(self, moves: Sequence[Document], write: Callable[[], object]) -> None:
        """Write heads; those that exist though they did not are of this seal, of a later one, or only a mark that
        another sealer made meanwhile.
        """
        if not moves:
            return
        try:
            write()
        except BulkWriteError as cause:
            again = [_guarded(moves[index], upsert=False) for index in _refused(cause)]
            self._heads.bulk_write(again, ordered=False)

    def _stop_waiting(self, reached: Iterable[tuple[str, Head]]) -> None:
        updates = [
            UpdateOne({"_id": name, "waiting.highest": {"$lte": head.rev}}, {"$unset": {"waiting": ""}})
            for name, head in reached
        ]
        if updates:
            self._heads.bulk_write(updates, ordered=False)

    def _forget(self, pending: Sequence[ObjectId]) -> None:
        if pending:
            self._pending.delete_many({"_id": {"$in": list(pending)}})


def _moved(one: Links, seal: int) -> Document:
    """A head after a seal."""
    move: Document = {"_id": one.document, "chain": one.last, "seal": seal}
    if rev := one.rev:
        move["rev"] = rev
    return move


def _guarded(move: Document, *, upsert: bool) -> UpdateOne:
    """Moves a head unless it has moved on."""
    fields = {name: value for name, value in move.items() if name != "_id"}
    return UpdateOne({"_id": move["_id"], "seal": {"$not": {"$gte": move["seal"]}}}, {"$set": fields}, upsert=upsert)


def _refused(cause: BulkWriteError) -> list[int]:
    """The positions of the operations that met an existing head.

    Raises:
        BulkWriteError: something else went wrong.
    """
    details: Mapping[str, Any] = cause.details or {}
    errors = details.get("writeErrors", [])
    if details.get("writeConcernErrors") or any(error.get("code") != DUPLICATE_KEY for error in errors):
        raise cause
    return [error["index"] for error in errors]
