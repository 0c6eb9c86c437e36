"""The verify service: goes round all seals and their records again and again, slowly, and compares what they say with
themselves, with the documents, and a few cached entries with MongoDB. What it finds it notes (`feed/troubles.py`), so
that `check`, `bkm doctor` and the metrics know of it. `bkm audit verify` says more, at once.

Two at once do no harm: they only read, and count what they find twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from bson import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

from backtest_kit_mongo.audit.chain import ORIGIN, Seal, link, read_seal, seal_hash
from backtest_kit_mongo.audit.records import raw, readable, sealed_digest
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.coherence.record import Shape
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.feed.troubles import ALTERED, MISMATCHED, Notes
from backtest_kit_mongo.operate.doctor import agreement, cache, identity
from backtest_kit_mongo.operate.doctor.findings import Finding, Level
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS
from backtest_kit_mongo.stored import AUDIT_SEALS as SEALS
from backtest_kit_mongo.stored import CANDLE_REMOVALS as REMOVALS
from backtest_kit_worker.recovery.candles import ranges_of
from backtest_kit_worker.recovery.changes import RAW, decode, document_name, revision
from backtest_kit_worker.services import Service

AREAS: Final[Sequence[Callable[[FeedServers], Iterator[Finding]]]] = (
    identity.settings, agreement.peers, agreement.partitions, agreement.leases, cache.entries,
)  # fmt: skip
SHARE: Final = 0.1
"""Of the time that is worked: others read and write the same disks."""
ROUND_MS: Final = 60_000
"""Pause between two rounds."""
RECORDS_MAX: Final = 500
logger = logging.getLogger(__name__)


class VerifyService(Service):
    """One seal a run."""

    name = "verify"
    interval_ms = 200

    def __init__(
        self,
        database: Database[dict[str, Any]],
        servers: FeedServers | None = None,
        *,
        share: float = SHARE,
        round_ms: int = ROUND_MS,
    ) -> None:
        self._servers = servers
        self._database = database
        self._documents: Database[Any] = database.with_options(codec_options=RAW, read_concern=ReadConcern("majority"))
        self._seals = readable(database, SEALS)
        self._items = raw(database, ITEMS)
        self._notes = Notes(database)
        self._share = share
        self._round_ms = round_ms
        self._begin()

    def _begin(self) -> None:
        self._number, self._hash = 0, ORIGIN
        self._found_count = 0
        self._rest_until_s = 0.0

    def open(self) -> None:
        self._begin()

    def run_once(self) -> int:
        """Compare the next seal and its records; returns 0, because nothing waits for it.

        Raises:
            PyMongoError: MongoDB failed; the same seal is looked at again.
        """
        if time.monotonic() < self._rest_until_s:
            return 0
        began_s = time.monotonic()
        stored = self._seals.find_one({"_id": {"$gt": self._number}}, sort=[("_id", 1)])
        if stored is None:
            self._end_round()
            return 0
        for found in self._compare(stored):
            self._found_count += 1
            logger.error("the audit log is not what was sealed: %s. Run `bkm audit verify`", found)
            self._notes.note(ALTERED, found)
        self._rest_until_s = time.monotonic() + (time.monotonic() - began_s) * (1 / self._share - 1)
        return 0

    def _end_round(self) -> None:
        if not self._found_count:
            self._notes.clear(ALTERED)  # What was found before was restored.
        self._look_around()
        self._begin()
        self._rest_until_s = time.monotonic() + self._round_ms / 1000

    def _look_around(self) -> None:
        """What the doctor asks and a health check has no time for."""
        if self._servers is None:
            return
        for area in AREAS:
            try:
                found = list(area(self._servers))
            except Exception as cause:
                # Whoever runs the doctor is reported; here it must not stop the audit log from being looked at.
                logger.warning("%s could not be looked at: %r", area.__name__, cause)
                continue
            wrong = {finding.name: finding for finding in found if finding.level is Level.ERROR}
            for finding in wrong.values():
                self._notes.note(finding.name, finding.seen, advice=finding.advice)
            for name in {finding.name for finding in found} - set(wrong):
                self._notes.clear(name)

    def _compare(self, stored: dict[str, Any]) -> Iterator[str]:
        number, before = int(stored["_id"]), self._number
        try:
            seal = read_seal(stored)
            is_own = seal.hash == seal_hash(stored)
        except Exception as cause:
            self._number = number
            self._hash = b""
            yield f"seal {number} has not the form of one: {cause!r:.200}"
            return
        if not is_own:
            yield f"seal {number} does not match its own hash"
        elif number != before + 1:
            yield f"seal {before + 1} is gone"
        elif self._hash and seal.previous != self._hash:
            yield f"seal {number} was not made after seal {before} as it is now"
        yield from self._records(seal)
        self._ahead(seal)
        self._number, self._hash = number, seal.hash

    def _records(self, seal: Seal) -> Iterator[str]:
        expected = [record for links in seal.links for record in links.records()]
        for start in range(0, len(expected), RECORDS_MAX):
            piece = expected[start : start + RECORDS_MAX]
            wanted = [record_id for record_id, _, _ in piece]
            stored = list(self._items.find({"_id": {"$in": wanted}}))
            found = {record["_id"]: sealed_digest(record) for record in stored}
            self._batches(stored)
            for record_id, before, chain in piece:
                if record_id not in found:
                    yield f"{record_id} is gone"
                elif link(before, found[record_id]) != chain:
                    yield f"{record_id} was altered"

    def _batches(self, records: Sequence[RawBSONDocument]) -> None:
        """Candles are inserted once and stay, so those that a batch reports are there, unless an operator removed some
        of the series: else it was made of a forged event, or somebody deleted them past `bkm candles remove`.
        """
        for record in records:
            domain = BY_NAME.get(str(record.get("domain")))
            if record.get("operation") != "batch" or domain is None or domain.shape is not Shape.SERIES:
                continue
            batch = decode(bytes(record.raw))
            *names, moment = (column.name for column in domain.key)
            scope = dict(zip(names, batch.get("key") or (), strict=False))
            if len(scope) < len(names) or self._database[REMOVALS].find_one(scope, {"_id": 1}):
                continue
            for first, last, count in ranges_of(batch):
                span = {**scope, moment: {"$gte": first, "$lte": last}}
                held = self._documents[collection_of(domain)].count_documents(span)
                if held < count:
                    seen = f"{record['_id']} reports {count} candles from {first} to {last}; MongoDB holds {held}"
                    logger.error("a batch of candles that do not exist: %s", seen)
                    self._notes.note(MISMATCHED, seen)

    def _ahead(self, seal: Seal) -> None:
        """A record of a revision that its document never came to was made of a forged event, or the document went
        back.
        """
        highest: dict[str, dict[Any, int]] = {}
        for links in seal.links:
            domain, _, name = links.document.partition("/")
            if links.rev and domain in BY_NAME:
                highest.setdefault(domain, {})[ObjectId(name) if ObjectId.is_valid(name) else name] = links.rev
        for domain, revs in highest.items():
            found = self._documents[collection_of(BY_NAME[domain])].find({"_id": {"$in": list(revs)}}, {"rev": 1})
            reached = {document_name(document): revision(document.get("rev")) for document in found}
            for name, rev in revs.items():
                if reached.get(str(name), rev) < rev:
                    reported = f"{domain}/{name}/{rev}: the document has only come to revision {reached[str(name)]}"
                    logger.error("a record of a revision that does not exist: %s", reported)
                    self._notes.note(MISMATCHED, reported)
