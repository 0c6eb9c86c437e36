"""Finding the records and seals that were tampered with, the first of them first.

Detected: a sealed record that was altered or deleted; one that was altered after it was recorded and before it was
sealed; a second record of a revision, under whatever id; a sealed revision that is missing in a document's chain; a
seal that was altered, deleted from the middle, replaced or moved; a head that does not match the seals; seals deleted
from the end while a head still names one of them.

Not detected, because nothing inside a database can witness against whoever may change all of it:
- The end cut off consistently: the last seals, their records, and the heads set back. What remains is a valid, shorter
  log.
- Everything rewritten: records, and every seal after them with new hashes.
- Records deleted or invented before they were sealed (a second or so after they were recorded), with their queue entry;
  and records altered while they wait, unsealed, behind a hole or in a batch whose worker died: those are sealed as
  found.
The first two are detected with an anchor: the number and hash of a seal, as `verify` prints them, or the lines that
`anchors.py` makes, kept where the database's users cannot change them. The last is what the stream and the documents
themselves can tell.

Memory is bounded: seals and records are streamed; where each document's chain has come to is kept in a temporary SQLite
file.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import groupby
from typing import Any, Final, NamedTuple

from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection
from pymongo.database import Database

from backtest_kit_mongo.audit.anchors import SealTree, TreeAnchor, restores, with_restores
from backtest_kit_mongo.audit.chain import ORIGIN, Links, Seal, link, read_seal, run_of, seal_hash
from backtest_kit_mongo.audit.findings import Anchor, Finding, Kind, Report
from backtest_kit_mongo.audit.records import ERASED, IDENTITY, raw, readable, sealed_digest
from backtest_kit_mongo.audit.seals import is_numbered
from backtest_kit_mongo.backends.mongo.errors import reading
from backtest_kit_mongo.stored import AUDIT_HEADS as HEADS
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS
from backtest_kit_mongo.stored import AUDIT_PENDING as PENDING
from backtest_kit_mongo.stored import AUDIT_SEALS as SEALS

Document = dict[str, Any]
RECORDS_MAX: Final = 1_000
"""Records fetched at once. MongoDB's own batches of 16 MiB are a hundred when decoded."""
_NUMBERS: Final = (int, Int64)
_TABLES: Final = """
CREATE TABLE heads (
    name TEXT PRIMARY KEY, rev INTEGER, chain BLOB, chain_stretch INTEGER, rev_stretch INTEGER,
    matched INTEGER DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE foreigners (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE runs (name TEXT, first INTEGER, last INTEGER, PRIMARY KEY (name, last)) WITHOUT ROWID;
CREATE TABLE unsealed (id TEXT PRIMARY KEY, name TEXT, rev INTEGER) WITHOUT ROWID;
"""


def verify(
    database: Database[Document],
    *,
    anchor: Anchor | None = None,
    anchors: Sequence[TreeAnchor] = (),
    findings_max: int = 100,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Compare all records, seals and heads with each other, while the worker goes on.

    Args:
        anchor, anchors: what was seen of the log before.
        findings_max: stop after so many.
        on_progress: gets how many records were looked at, and of how many.

    Raises:
        ServerUnreachable, ReadFailed: nothing can be said.
    """
    report = Report()
    with closing(sqlite3.connect("")) as chains, reading("verifying the audit log"):
        chains.executescript(_TABLES)
        tree = SealTree(anchors) if anchors else None
        report.restores = restores(database)
        for finding in _Verifier(database, chains, report, anchor, tree, on_progress).findings():
            report.findings.append(with_restores(database, finding))
            if len(report.findings) >= findings_max:
                break
    return report


class _Head(NamedTuple):
    """Where a document's chain has come to, and whether the seals since the last wrong one say so: a seal that cannot
    be read may have continued any chain, so after it the first seal that names a document is believed, and judging goes
    on from there.
    """

    rev: int
    chain: bytes
    is_chain_known: bool
    is_rev_known: bool


class _Verifier:
    """One pass over the seals with their records, one over the index of all records, one over the heads."""

    def __init__(
        self,
        database: Database[Document],
        chains: sqlite3.Connection,
        report: Report,
        anchor: Anchor | None,
        tree: SealTree | None,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._seals, self._heads, self._items, self._pending = (
            readable(database, name) for name in (SEALS, HEADS, ITEMS, PENDING)
        )
        self._raw: Collection[RawBSONDocument] = raw(database, ITEMS)
        self._chains = chains
        self._report = report
        self._anchor = anchor
        self._tree = tree
        self._on_progress = on_progress
        self._number = 0
        """Of the seal looked at last, readable or not."""
        self._last: Seal | None = None
        self._unread: list[range] = []
        """Numbers of seals that are gone or cannot be believed; what they held is not known."""
        self._done = self._total = 0

    def findings(self) -> Iterator[Finding]:
        newest = next(iter(self._seals.find({}, {"total": 1}).sort("_id", -1).limit(1)), {})
        self._total = int(newest.get("total") or 0) + self._items.estimated_document_count()
        for stored in self._seals.find().sort("_id", 1).batch_size(4):
            if self._tree is not None and is_numbered(stored):
                yield from self._tree.add(stored)
            wrong = list(self._seal_is_wrong(stored))
            yield from wrong
            if isinstance(stored["_id"], int):  # Whoever replaced a seal may have named it anything.
                self._number = int(stored["_id"])
            if any(finding.kind is Kind.SEAL_ALTERED for finding in wrong):
                self._last = None
                continue
            self._last = read_seal(stored)
            self._report.seals += 1
            self._report.last = Anchor(self._last.number, self._last.hash)
            for links in self._last.links:
                yield from self._continued(links, self._number)
            yield from self._records(self._last)
        if self._tree is not None:
            yield from self._tree.end()
        if self._anchor is not None and self._number < self._anchor.number:
            detail = f"the last seal is {self._number}: everything after it is gone"
            yield Finding(Kind.ANCHOR_DIFFERS, f"seal {self._anchor.number}", detail)
        yield from self._index()
        yield from self._nobody_recorded()
        yield from self._heads_differ()

    # -- seals

    def _seal_is_wrong(self, stored: Mapping[str, Any]) -> Iterator[Finding]:
        where = f"seal {stored['_id']}"
        try:
            seal = read_seal(stored)
            wrong = None if seal.hash == seal_hash(stored) else "it does not match its own hash"
        except (KeyError, TypeError, ValueError) as cause:
            wrong = f"it does not have the form of a seal: {cause!r}"
        if wrong:
            if isinstance(stored["_id"], int):
                self._unread.append(range(self._number + 1, int(stored["_id"]) + 1))
            yield Finding(Kind.SEAL_ALTERED, where, wrong)
            return
        if seal.number != self._number + 1:
            self._unread.append(range(self._number + 1, seal.number))
            yield Finding(Kind.SEAL_MISSING, f"seal {self._number + 1}", f"the next that exists is {where}")
        elif (self._last is not None or self._number == 0) and seal.previous != (
            self._last.hash if self._last else ORIGIN
        ):
            detail = f"it was not made after seal {self._number} as it is now: one of the two was replaced or moved"
            yield Finding(Kind.SEAL_MOVED, where, detail)
        if self._anchor is not None and seal.number == self._anchor.number and seal.hash != self._anchor.hash:
            yield Finding(Kind.ANCHOR_DIFFERS, where, f"its hash is {seal.hash.hex()}, the anchor is {self._anchor}")

    def _continued(self, links: Links, number: int) -> Iterator[Finding]:
        """A document's chain goes on where it had come to, without a hole."""
        rev, chain, is_chain_known, is_rev_known = self._head(links.document)
        if is_chain_known and links.after != chain:
            detail = f"seal {number} continues the chain of {links.document} from somewhere else than revision {rev}"
            yield Finding(Kind.CHAIN_BROKEN, links.document, detail)
        for revision in links.revisions:
            run = run_of(revision)
            if run is None:
                self._chains.execute("INSERT OR IGNORE INTO foreigners VALUES (?)", (f"{links.document}/{revision}",))
                continue
            if is_rev_known and not run[0] <= rev + 1 <= run[1]:
                detail = f"seal {number} has revision {revision} after {rev}"
                yield Finding(Kind.CHAIN_BROKEN, f"{links.document}/{revision}", detail)
            rev, is_rev_known = int(run[1]), True
            if run[0] < run[1]:
                self._chains.execute("INSERT OR IGNORE INTO runs VALUES (?, ?, ?)", (links.document, *run))
        put = "INSERT OR REPLACE INTO heads (name, rev, chain, chain_stretch, rev_stretch) VALUES (?, ?, ?, ?, ?)"
        stretch = len(self._unread)
        self._chains.execute(put, (links.document, rev, links.last, stretch, stretch if is_rev_known else -1))

    def _head(self, document: str) -> _Head:
        query = "SELECT rev, chain, chain_stretch, rev_stretch FROM heads WHERE name = ?"
        stretch = len(self._unread)
        found = self._chains.execute(query, (document,)).fetchone() or (0, ORIGIN, 0, 0)
        return _Head(found[0], found[1], found[2] == stretch, found[3] == stretch)

    def _is_unread(self, number: int) -> bool:
        return any(number in numbers for numbers in self._unread)

    # -- records

    def _records(self, seal: Seal) -> Iterator[Finding]:
        """The records of a seal are what was sealed."""
        expected = [record for links in seal.links for record in links.records()]
        for start in range(0, len(expected), RECORDS_MAX):
            piece = expected[start : start + RECORDS_MAX]
            wanted = [record_id for record_id, _, _ in piece]
            found = list(self._raw.find({"_id": {"$in": wanted}}))
            stored = {record["_id"]: sealed_digest(record) for record in found}
            self._report.erased += sum(ERASED in record for record in found)
            for record_id, before, chain in piece:
                of_record = stored.get(record_id)
                if of_record is None:
                    yield Finding(Kind.MISSING, record_id, f"seal {seal.number} has it, audit-items does not")
                elif link(before, of_record) != chain:
                    yield Finding(Kind.ALTERED, record_id, f"it is not what seal {seal.number} sealed")
            self._report.records += len(piece)
            self._looked_at(len(piece))

    def _looked_at(self, count: int) -> None:
        self._done += count
        self._on_progress(self._done, max(self._total, self._done))

    def _index(self) -> Iterator[Finding]:
        """No revision has two records. What no seal has is collected."""
        fields = {"_id": 0, **{name: 1 for name, _ in IDENTITY}}
        rows = self._items.find({}, fields, batch_size=RECORDS_MAX).sort(list(IDENTITY)).allow_disk_use(True)
        looked_at = 0
        for document, history in groupby(rows, key=lambda row: str(row.get("documentId"))):
            sealed: dict[Any, int] = {}
            previous: dict[Any, tuple[Any, Any]] = {}
            for row in history:
                looked_at += 1
                rev: Any = row.get("rev")
                domain, foreign = row.get("domain"), row.get("foreign")
                name = f"{domain}/{document}"
                if not _has_form(row):
                    detail = "its domain, documentId, rev or foreign is of a type that the worker never writes"
                    yield Finding(Kind.UNKNOWN, f"{name}/{rev}", detail)
                    continue
                record_id = f"{name}/{rev}" if foreign is None else f"{name}/{rev}~{foreign}"
                if previous.get(domain) == (rev, foreign):
                    yield Finding(Kind.DOUBLED, record_id, "there is another record of it under another _id")
                previous[domain] = rev, foreign
                if domain not in sealed:
                    sealed[domain] = self._head(name).rev
                if foreign is None and self._is_within_run(name, rev):
                    detail = "a sealed gap stands for this revision: the record came after it, or was forged"
                    yield Finding(Kind.UNKNOWN, record_id, detail)
                elif not (1 <= rev <= sealed[domain] if foreign is None else self._is_sealed_foreigner(record_id)):
                    self._chains.execute("INSERT OR IGNORE INTO unsealed VALUES (?, ?, ?)", (record_id, name, rev))
                if looked_at % RECORDS_MAX == 0:
                    self._looked_at(RECORDS_MAX)

    def _is_within_run(self, name: str, rev: int) -> bool:
        query = "SELECT 1 FROM runs WHERE name = ? AND last > ? AND first <= ?"
        return self._chains.execute(query, (name, rev, rev)).fetchone() is not None

    def _is_sealed_foreigner(self, record_id: str) -> bool:
        return self._chains.execute("SELECT 1 FROM foreigners WHERE id = ?", (record_id,)).fetchone() is not None

    def _nobody_recorded(self) -> Iterator[Finding]:
        """Each record that no seal has is in the queue, waits behind a hole, or was sealed meanwhile.

        In this order, because that is the way a record can have gone while it is looked for.
        """
        (self._report.unsealed,) = self._chains.execute("SELECT COUNT(*) FROM unsealed").fetchone()
        if not self._report.unsealed:
            return
        gone = "DELETE FROM unsealed WHERE id = ?"
        for batch in self._pending.find({}, {"ids": 1}, batch_size=8):
            self._chains.executemany(gone, ((_indexed(record_id),) for record_id in batch.get("ids") or ()))
        for head in self._heads.find({"waiting.since": {"$exists": True}}, {"waiting.highest": 1}):
            behind = (head["_id"], int(head["waiting"]["highest"]))
            self._chains.execute("DELETE FROM unsealed WHERE name = ? AND rev <= ?", behind)
        for stored in self._seals.find({"_id": {"$gt": self._number}}).sort("_id", 1):
            records = (record for links in read_seal(stored).links for record in links.records())
            self._chains.executemany(gone, ((_indexed(record_id),) for record_id, _, _ in records))
        for record_id, name in self._chains.execute("SELECT id, name FROM unsealed ORDER BY id"):
            if self._unread and ("~" in record_id or self._is_unread(self._sealed_by(name))):
                continue  # Of a seal that cannot be read it is not known what it sealed.
            yield Finding(Kind.UNKNOWN, record_id, "neither a seal nor the queue has it: the worker did not record it")

    def _sealed_by(self, document: str) -> int:
        """The seal that a document's head names; 0 if it has none."""
        head = self._heads.find_one({"_id": document}, {"seal": 1}) or {}
        return int(head.get("seal") or 0)

    # -- heads

    def _heads_differ(self) -> Iterator[Finding]:
        newest = self._newest()
        # The heads of the last seal may not have been moved yet.
        unmoved = {} if self._last is None else {links.document: links.after for links in self._last.links}
        for head in self._heads.find({"seal": {"$exists": True}}, batch_size=RECORDS_MAX):
            name, number = head["_id"], int(head["seal"])
            matched = self._chains.execute("UPDATE heads SET matched = 1 WHERE name = ?", (name,)).rowcount
            rev, chain, _, is_rev_known = self._head(name)
            if self._is_unread(number):
                continue
            if number > newest:
                newest = self._newest()  # A seal is there before its heads move, but not before they are looked at.
            if number > newest:
                yield Finding(
                    Kind.SEAL_MISSING, f"seal {number}", f"{name} was sealed by it; the last seal is {newest}"
                )
            elif number > self._number or head.get("chain") == unmoved.get(name):
                continue
            elif not matched or head.get("chain") != chain or (is_rev_known and int(head.get("rev") or 0) != rev):
                yield Finding(Kind.HEAD_ALTERED, name, f"the seals end at revision {rev} with another chain value")
        for (name,) in self._chains.execute("SELECT name FROM heads WHERE NOT matched ORDER BY name"):
            if unmoved.get(name) != ORIGIN:
                yield Finding(Kind.HEAD_ALTERED, name, "it is sealed but has no head")

    def _newest(self) -> int:
        """Number of the last seal that there is by now."""
        last = next(iter(self._seals.find({}, {"_id": 1}).sort("_id", -1).limit(1)), None)
        return int(last["_id"]) if last is not None and isinstance(last["_id"], int) else 0


def _indexed(record_id: Any) -> str:
    """A record as the index names it: a gap that stands for several revisions is there under the last of them."""
    return re.sub(r"/[0-9]+-([0-9]+)$", r"/\1", str(record_id))


def _has_form(row: Mapping[str, Any]) -> bool:
    """Whether a record is named by types that the worker writes. MongoDB holds 1, "1" and true for different values, so
    a second record of a revision would fit in beside the first, and neither its place nor its number would give it
    away.
    """
    foreign = row.get("foreign")
    return (
        type(row.get("domain")) is str
        and type(row.get("documentId")) is str
        and type(row.get("rev")) in _NUMBERS
        and (foreign is None or type(foreign) in _NUMBERS)
    )
