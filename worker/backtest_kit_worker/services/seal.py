"""The seal service: chains audit records and seals them in batches. Theory of operation:
`backtest_kit_mongo.audit.chain`.

A run is one transaction: what is read, the seal that is made of it, the heads that it moves and the batches that it
uses up. So a database that is set back in the middle of a run has all of it or nothing, and never a seal over records
that went with the restore. What a sealer remembers from run to run is the last seal, by its hash, and a seal is made
only if it is still the last.

Two at once do no harm: one of them wins, and the other throws its work away.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from bson import ObjectId
from bson.int64 import Int64
from pymongo import InsertOne, ReadPreference, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern

from backtest_kit_mongo.audit.chain import ORIGIN, Links, Seal, make_seal, pieces, read_seal
from backtest_kit_mongo.audit.records import READABLE, raw, readable, sealed_digest, split_id
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
WRITE_CONFLICT: Final = 112

NUMBERED: Final = {"_id": {"$gte": 0}}
"""Seals; whoever put something else among them must not hide them."""
WAITING: Final = {"waiting.since": {"$exists": True}}
"""Heads of documents with a record beyond a hole."""
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
        self._client = database.client
        self._seals, self._heads, self._pending = (
            database.get_collection(name, READABLE, ReadPreference.PRIMARY) for name in (SEALS, HEADS, PENDING)
        )
        self._raw_items = raw(database, ITEMS)
        self._items = readable(database, ITEMS)
        self._last: Seal | None = None
        self._end: tuple[int, Any] | None = None
        """Number and hash of the seal with which the chain ended when this process looked."""
        self._is_settled = False
        self._looked_up_to = ""
        self._rest_until_s = 0.0
        self._grace_s = grace_ms / 1000
        self._unconfirmed: dict[ObjectId, float] = {}
        """Since when this process has known of the batches that nobody confirmed, by the monotonic clock."""

    def open(self) -> None:
        self._heads.create_index([("waiting.since", 1)], partialFilterExpression=WAITING)
        self._seals.create_index([("foreign", 1)])
        self._is_settled = False

    def close(self) -> None:
        self._is_settled = False

    def run_once(self) -> int:
        """Make one seal; returns how many records it took up."""
        if time.monotonic() < self._rest_until_s or not self._has_work():
            return 0
        is_settled, self._is_settled = self._is_settled, False  # Until it is committed.
        try:
            with (
                self._client.start_session() as session,
                session.start_transaction(ReadConcern("snapshot"), DURABLE, ReadPreference.PRIMARY),
            ):
                count = self._run(session, is_settled=is_settled)
        except OperationFailure as cause:
            if cause.code == WRITE_CONFLICT:
                return 0  # Another sealer is faster. Begin again with its seal.
            raise
        self._is_settled = True
        return count

    def _has_work(self) -> bool:
        """Asked each second of an idle deployment, so without a transaction."""
        return any(one.find_one(query, {"_id": 1}) for one, query in ((self._pending, {}), (self._heads, WAITING)))

    def _run(self, session: ClientSession, *, is_settled: bool) -> int:
        if not is_settled or self._newest(session) != self._end:
            self._settle_last(session)
        pending, arrived, foreign = self._arrived(session)
        heads = self._look_behind_holes(session, arrived)
        names = dict.fromkeys((*arrived, *foreign))
        heads.update(self._heads_of(session, [name for name in names if name not in heads]))
        links = [one for name in names if (one := chained(name, heads.get(name), arrived.get(name), foreign.get(name)))]
        self._mark_waiting(session, arrived, heads, {one.document: one.rev for one in links})
        if not links:
            self._forget(session, pending)
            return len(pending)
        seal, document = make_seal(self._last, datetime.now(UTC), pending, links)
        self._seals.insert_one(document, session=session)
        self._last, self._end = seal, (seal.number, seal.hash)
        self._settle(session, seal, heads)
        if seal.count < self._records_max:
            self._rest_until_s = time.monotonic() + self._rest_ms / 1000
        return seal.count

    # -- what is to be sealed

    def _arrived(self, session: ClientSession) -> tuple[list[ObjectId], Arrived, Foreign]:
        """The oldest batches of the queue."""
        used: list[ObjectId] = []
        arrived: Arrived = {}
        foreign: Foreign = {}
        count = 0
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        with self._pending.find(session=session).sort("_id", 1).batch_size(8) as batches:
            for batch in batches:
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
                    records = self._look_at(session, batch["ids"])
                for record_id, of_record in records:
                    take_up(record_id, of_record, arrived, foreign)
                used.append(batch["_id"])
                count += len(batch["ids"])
                if count >= self._records_max:
                    break
        self._drop_sealed(session, foreign)
        return used, arrived, foreign

    def _look_at(self, session: ClientSession, ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Those records that exist. What does not will be delivered again, with a batch of its own."""
        found = self._raw_items.find({"_id": {"$in": list(ids)}}, session=session)
        return ((stored["_id"], sealed_digest(stored)) for stored in found)

    def _drop_sealed(self, session: ClientSession, foreign: Foreign) -> None:
        """Take out the foreign changes that a seal has already."""
        if not foreign:
            return
        ids = [f"{name}/{rev}~{n}" for name, changes in foreign.items() for rev, n in changes]
        for seal in self._seals.find({"foreign": {"$in": ids}}, {"foreign": 1}, session=session):
            for record_id in set(seal["foreign"]) & set(ids):
                found = split_id(record_id)
                foreign[found.document].pop((found.rev, found.foreign or 0), None)

    def _heads_of(self, session: ClientSession, names: list[str]) -> dict[str, Head]:
        found = self._heads.find({"_id": {"$in": names}}, session=session) if names else ()
        return {head["_id"]: self._head(session, head) for head in found}

    def _head(self, session: ClientSession, found: Mapping[str, Any]) -> Head:
        head = read_head(found)
        if head is not None:
            return head
        # Heads only remember what the seals say, so nothing is lost with one; but only a walk over all seals finds it
        # again.
        name = found["_id"]
        logger.error("the head of %.200s has not the form of one; it is made again from the seals", name)
        seals = self._seals.find({"documents": name, **NUMBERED}, session=session).sort("_id", -1)
        links = ((seal["_id"], one) for seal in seals for one in read_seal(seal).links if one.document == name)
        number, last = next(links, (0, Links(name, ORIGIN, [], ORIGIN)))
        rev = last.rev or next((one.rev for _, one in links if one.rev), 0)
        again = {"rev": Int64(rev), "chain": last.last, "seal": number}
        self._heads.replace_one({"_id": name}, again, session=session)
        return Head(rev, last.last)

    def _look_behind_holes(self, session: ClientSession, arrived: Arrived) -> dict[str, Head]:
        """Add the records behind holes that have been filled; returns the heads of the documents looked at. Each run
        looks at the next few, so that many holes that nobody fills cost little.
        """
        query = {**WAITING, "_id": {"$gt": self._looked_up_to}}
        found = list(self._heads.find(query, session=session).sort("_id", 1).limit(WAITING_MAX))
        self._looked_up_to = found[-1]["_id"] if len(found) == WAITING_MAX else ""
        heads = {one["_id"]: self._head(session, one) for one in found}
        done = {name: head for name, head in heads.items() if head.rev >= head.highest}
        self._stop_waiting(session, done)
        filled = {
            f"{name}/{next_}": name for name, head in heads.items() if name not in done for next_ in following_ids(head)
        }
        if filled:
            self._add_behind(session, filled, heads, arrived)
        return heads

    def _add_behind(
        self, session: ClientSession, filled: Mapping[str, str], heads: Mapping[str, Head], arrived: Arrived
    ) -> None:
        """Read the records that follow heads. `filled`: names of documents by the id of the record that was missing."""
        count = 0
        fields = {"domain": 1, "documentId": 1}
        for first in list(self._items.find({"_id": {"$in": list(filled)}}, fields, session=session)):
            name = filled[first["_id"]]
            revisions = arrived.setdefault(name, {})
            beyond = {"documentId": first["documentId"], "domain": first["domain"], "rev": {"$gt": heads[name].rev}}
            following = self._raw_items.find(beyond, session=session).sort([("rev", 1), ("foreign", 1)])
            for stored in following.limit(BEYOND_MAX):
                count += 1
                if stored.get("foreign") is None:  # A foreign change never waits: it is in the queue, or sealed.
                    take_up(stored["_id"], sealed_digest(stored), {name: revisions}, {})
            if count >= self._records_max:
                return

    def _mark_waiting(
        self, session: ClientSession, arrived: Arrived, heads: dict[str, Head], sealing: Mapping[str, int]
    ) -> None:
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
            self._heads.bulk_write(updates, ordered=False, session=session)

    # -- what follows a seal

    def _newest(self, session: ClientSession) -> tuple[int, Any] | None:
        found = self._seals.find_one(NUMBERED, {"hash": 1}, sort=[("_id", -1)], session=session)
        return None if found is None else (int(found["_id"]), found.get("hash"))

    def _settle_last(self, session: ClientSession) -> None:
        """Look with which seal the chain ends, and do what it still asks for: earlier versions made a seal and moved
        its heads one after the other.
        """
        self._last, self._end = None, self._newest(session)
        newest = 0
        for found in self._seals.find(NUMBERED, session=session).sort("_id", -1).batch_size(2):
            newest = max(newest, int(found["_id"]))
            try:
                self._last = read_seal(found)
                break
            except Exception as cause:
                # Sealing goes on after it; `verify` says what it is.
                logger.error("seal %s has not the form of one: %r. Run `bkm audit verify`", found["_id"], cause)
        if self._last is None:
            return
        names = [one.document for one in self._last.links]
        heads = self._heads.find({"_id": {"$in": names}}, {"seal": 1}, session=session)
        reached = {head["_id"]: at if isinstance(at := head.get("seal"), int) else 0 for head in heads}
        left = [one for one in self._last.links if reached.get(one.document, 0) < self._last.number]
        self._move_heads(session, self._last.number, left, reached)
        self._forget(session, self._last.pending)
        self._last = replace(self._last, number=newest)

    def _settle(self, session: ClientSession, seal: Seal, heads: Mapping[str, Head]) -> None:
        """Move the heads and forget the used-up batches. `heads`: those that exist."""
        self._move_heads(session, seal.number, seal.links, heads)
        sealed = {one.document: one.rev for one in seal.links}
        waited = {name: head.highest for name, head in heads.items() if 0 < head.highest <= sealed.get(name, 0)}
        self._stop_waiting(session, waited)
        self._forget(session, seal.pending)

    def _move_heads(self, session: ClientSession, seal: int, links: Iterable[Links], existing: Container[str]) -> None:
        moves: list[UpdateOne | InsertOne[Document]] = []
        for one in links:
            move: Document = {"chain": one.last, "seal": seal, **({"rev": one.rev} if one.rev else {})}
            # An insert has half the cost of an upsert.
            is_known = one.document in existing
            moves.append(
                UpdateOne({"_id": one.document}, {"$set": move})
                if is_known
                else InsertOne({"_id": one.document, **move})
            )
        if moves:
            self._heads.bulk_write(moves, ordered=False, session=session)

    def _stop_waiting(self, session: ClientSession, names: Iterable[str]) -> None:
        if updates := [UpdateOne({"_id": name}, {"$unset": {"waiting": ""}}) for name in names]:
            self._heads.bulk_write(updates, ordered=False, session=session)

    def _forget(self, session: ClientSession, pending: Sequence[ObjectId]) -> None:
        if pending:
            self._pending.delete_many({"_id": {"$in": list(pending)}}, session=session)
