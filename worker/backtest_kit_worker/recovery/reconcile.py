"""The way back when MongoDB's log no longer tells what was missed: compare every document with the audit log.

A document tells its current revision, which can be republished whole; the payloads of missing revisions before it are
lost and become gap records. The scan runs while the log is read on. A revision that the scan misses may have been made
meanwhile and still be in the log, with its payload; so before anything is done about a find, a mark is written to
MongoDB and awaited in the change stream: what was committed before the mark has then been judged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

import bson
from bson import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.coherence.record import Domain, Shape
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_worker.recovery.changes import (
    PLAIN,
    RAW,
    ChangeKind,
    LoggedChange,
    decode,
    document_name,
    key_of,
    revision,
    skipped,
)
from backtest_kit_worker.recovery.judge import Batch, Judge
from backtest_kit_worker.recovery.records import AuditRecords
from backtest_kit_worker.recovery.state import RecoveryState

logger = logging.getLogger(__name__)

PAGE_MAX: Final = 1_000
PAGE_BYTES_MAX: Final = 8 * 1024 * 1024
FINDS_MAX: Final = 5_000
FINDS_BYTES_MAX: Final = 32 * 1024 * 1024
"""Finds that are judged together."""
_LOST: Final = "the change was made while nobody recorded, and MongoDB's log no longer reaches back to it"


_Place: TypeAlias = tuple[int, Any]
"""Number of a collection in the domain table, and the last `_id` that was compared there."""


class Reconciler:
    """One piece of the scan a step.

    Attributes:
        scanned_count: documents compared since this process took over.
    """

    def __init__(
        self, database: Database[dict[str, Any]], records: AuditRecords, state: RecoveryState, judge: Judge
    ) -> None:
        self._database: Database[Any] = database.with_options(codec_options=RAW, read_concern=ReadConcern("majority"))
        self._records = records
        self._state = state
        self._judge = judge
        self.scanned_count = 0
        self._go_on_from(None)

    def _go_on_from(self, place: _Place | None) -> None:
        """Everything before `place` is compared and settled; None: no scan is under way."""
        self._saved = place
        self._passed = place
        self._scan: Iterator[LoggedChange | _Place] = iter(()) if place is None else self._scanned(*place)
        self._finds: list[LoggedChange] = []
        self._finds_bytes = 0
        self._mark: ObjectId | None = None
        self._batch: Batch | None = None

    @property
    def is_active(self) -> bool:
        return self._saved is not None

    def resume(self) -> None:
        """Go on where a scan was left, if one is under way."""
        state = self._state.reconciling()
        self._go_on_from(None if state is None else (int(state["collection"]), state["after"]))

    def begin(self, reason: str) -> None:
        """Start a scan from the first document on."""
        logger.warning("comparing all documents with the audit log: %s", reason)
        self._state.begin(reason)
        self._go_on_from((0, None))

    def step(self) -> int:
        """Do one bounded piece; returns how many documents were compared.

        Raises:
            PyMongoError: MongoDB failed; the next step repeats what was not settled.
        """
        if not self.is_active:
            return 0
        if self._batch is not None:
            if self._batch.changes:
                return 0
            self._save()
            return 1
        if self._mark is not None:
            if self._mark in self._judge.marks:
                self._judge.marks.clear()
                self._batch = self._judge.add_found(self._finds)
            return 0
        try:
            return self._search()
        except BaseException:
            self._go_on_from(self._saved)
            raise

    def _search(self) -> int:
        before = self.scanned_count
        for item in self._scan:
            if isinstance(item, tuple):
                self._passed = item
                if not self._finds:
                    self._save()
                return self.scanned_count - before or 1
            self._finds.append(item)
            self._finds_bytes += item.size
            if len(self._finds) >= FINDS_MAX or self._finds_bytes >= FINDS_BYTES_MAX:
                break
        if self._finds:
            self._mark = self._state.mark()
        else:
            self._state.finish()
            self._go_on_from(None)
            logger.warning("all documents are compared with the audit log")
        return 1

    def _save(self) -> None:
        """Nothing that was found so far is unsettled."""
        assert self._passed is not None  # A scan is under way.
        self._state.advance(*self._passed)
        self._saved = self._passed
        self._finds, self._finds_bytes, self._mark, self._batch = [], 0, None, None

    # -- the scan

    def _scanned(self, number: int, after: Any) -> Iterator[LoggedChange | _Place]:
        """Finds, and after each page the place up to which documents were compared."""
        while number < len(DOMAINS):
            domain = DOMAINS[number]
            page = self._page(domain, after)
            self.scanned_count += len(page)
            yield from self._missing_rows(domain, page) if domain.shape is Shape.SERIES else self._missing(domain, page)
            named = next((place for document in reversed(page) if (place := _place(document))), None)
            if named is not None:
                after = bson.decode(named, PLAIN)["_id"]
            else:
                if page:
                    logger.error("%s: %d documents cannot be named, so those after them are not compared",
                                 collection_of(domain), len(page))  # fmt: skip
                logger.info("compared %s; %d documents so far", collection_of(domain), self.scanned_count)
                number, after = number + 1, None
            yield number, after

    def _page(self, domain: Domain, after: Any) -> list[RawBSONDocument]:
        # Bounds of the index rather than a comparison, which would see ids of one type only. They include the first.
        cursor = self._database[collection_of(domain)].find().hint([("_id", 1)]).limit(PAGE_MAX + 1)
        first = b""
        if after is not None:
            cursor, first = cursor.min([("_id", after)]), bson.encode({"_id": after})
        page: list[RawBSONDocument] = []
        size = 0
        with cursor:
            for document in cursor:
                if first and not page and _place(document) == first:
                    continue
                page.append(document)
                size += len(document.raw)
                if len(page) >= PAGE_MAX or size >= PAGE_BYTES_MAX:
                    break
        return page

    def _missing(self, domain: Domain, page: Sequence[RawBSONDocument]) -> Iterator[LoggedChange]:
        revisions = {document_name(document): revision(document.get("rev")) for document in page}
        recorded = self._records.counts(domain, [name for name, rev in revisions.items() if rev])
        for document in page:
            name = document_name(document)
            rev = revisions[name]
            count, highest = recorded.get(name, (0, 0))
            if count >= rev >= highest:
                continue
            key = key_of(domain, document)
            for hole in self._records.holes(domain, name, rev):
                before = range(hole.start, min(hole.stop, rev))
                yield from skipped(domain, name, before, _LOST, at=0, key=key)
                if hole.stop > rev:
                    yield _current(LoggedChange(domain, name, rev, ChangeKind.OWN, "scan", key=key), document)

    def _missing_rows(self, domain: Domain, page: Sequence[RawBSONDocument]) -> Iterator[LoggedChange]:
        keys = {key_of(domain, document): document for document in page if revision(document.get("rev"))}
        known = [key for key in keys if key is not None]
        for key in sorted(self._judge.coverage.uncovered(known, thorough=True), key=lambda key: key.parts):
            document = keys[key]
            yield _current(LoggedChange(domain, document_name(document), 1, ChangeKind.OWN, "scan", key=key), document)


def _place(document: RawBSONDocument) -> bytes:
    """A document's `_id`, alone, in the bytes that name it to MongoDB; empty if it is text that cannot be sent."""
    try:
        return bson.encode({"_id": decode(bytes(document.raw))["_id"]})
    except UnicodeEncodeError:
        return b""


def _current(change: LoggedChange, document: RawBSONDocument) -> LoggedChange:
    """The change that made what the document holds now."""
    change.body, change.whole = bytes(document.raw), True
    return change
