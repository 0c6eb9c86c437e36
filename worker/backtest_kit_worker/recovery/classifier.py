"""From raw entries of MongoDB's log to changes: whose they are and of which key. Stale cache entries go at once."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Final, NamedTuple
from weakref import WeakSet

import bson
from bson import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

from backtest_kit_mongo.backends.mongo.layout import collection_of, payload_field
from backtest_kit_mongo.coherence.record import Domain, Key, Shape
from backtest_kit_mongo.stored import RECOVERY_STATE as COLLECTION
from backtest_kit_worker.recovery.caches import Caches
from backtest_kit_worker.recovery.changes import (
    COLLECTIONS,
    RAW,
    ChangeKind,
    LoggedChange,
    cache_key,
    concerns,
    decode,
    deletion_of,
    document_name,
    id_text,
    is_complete,
    is_part,
    key_of,
    revision,
    skipped,
)
from backtest_kit_worker.recovery.records import AuditRecords

logger = logging.getLogger(__name__)

KNOWN_MAX: Final = 100_000
"""Documents whose key and revision are remembered."""
DOUBTFUL_MAX: Final = 10_000
"""Documents that were found later than their changes and may have been changed in between."""
FOUND_BYTES_MAX: Final = 16 * 1024 * 1024
"""Documents that are kept beside the changes of one piece."""
_NOTHING: Final = RawBSONDocument(bson.encode({}), RAW)


class Known(NamedTuple):
    """A document as the last change that was seen of it left it; `rev` is the highest it ever had. `is_deleted`: that
    change was the first half of a deletion for good.
    """

    key: Key | None
    rev: int
    is_deleted: bool = False


class Classified(NamedTuple):
    """A piece of the log: the changes that must be judged, the reconciler's marks in it, and documents whose `rev` is
    none.
    """

    changes: list[LoggedChange]
    marks: frozenset[ObjectId]
    odd: tuple[str, ...] = ()


class _Draft(NamedTuple):
    """A change with what is needed to complete it.

    Attributes:
        id: `_id` as it is stored.
        fields: what `change.body` holds, decoded at its top level only.
        before: the document as the change met it, if that is known.
    """

    change: LoggedChange
    id: Any
    fields: Mapping[str, Any]
    before: Known | None

    @property
    def is_unplaced(self) -> bool:
        """Nobody knows yet which revision this foreign change left in place."""
        change = self.change
        return change.kind is ChangeKind.FOREIGN and self.before is None and change.source != "insert"


_Memory = MutableMapping[tuple[Domain, str], Known]


class Classifier:
    """Remembers documents, so that most changes need no look at the document itself."""

    def __init__(self, database: Database[dict[str, Any]], records: AuditRecords, caches: Caches) -> None:
        self._database: Database[Any] = database.with_options(codec_options=RAW, read_concern=ReadConcern("majority"))
        self._records = records
        self._caches = caches
        self._known: OrderedDict[tuple[Domain, str], Known] = OrderedDict()
        self._doubtful: OrderedDict[tuple[Domain, str], WeakSet[LoggedChange]] = OrderedDict()
        self._doubts: deque[tuple[int, WeakSet[LoggedChange]]] = deque()
        """Doubtful changes by the cluster time up to which the log must be read."""

    def classify(self, raws: Iterable[RawBSONDocument]) -> Classified:
        """Understand a piece of the log. What is remembered changes only if all of it succeeds, so a piece may be
        classified again.
        """
        latest: _Memory = {}
        drafts: list[_Draft] = []
        marks: set[ObjectId] = set()
        for raw in raws:
            place: Any = raw["ns"]
            if place["coll"] == COLLECTION:
                marks.update(name for name in (_body(raw).get("name"),) if name is not None)
            elif "documentKey" in raw:
                drafts += self._drafts(raw, COLLECTIONS[place["coll"]], latest)
            else:
                logger.error(
                    "%s of %s by a foreign writer: MongoDB does not tell which documents went, so the audit log "
                    "cannot either; the cache forgets them all", raw["operationType"], place["coll"],
                )  # fmt: skip
                self._caches.relay_domain(COLLECTIONS[place["coll"]])
        self._look_up(drafts)
        self._compare(drafts, latest)
        self._relay(drafts)
        self._remember(latest)
        odd = tuple(f"{draft.change.domain.name}/{draft.change.document}" for draft in drafts if _is_odd(draft))
        return Classified(
            [change for draft in drafts for change in (*_skipped(draft), draft.change)], frozenset(marks), odd
        )

    def _drafts(self, raw: RawBSONDocument, domain: Domain, latest: _Memory) -> Iterator[_Draft]:
        source: Any = raw["operationType"]
        fields = _body(raw)
        stored_id = decode(bytes(_nested(raw, "documentKey").raw))["_id"]
        change = LoggedChange(
            domain, id_text(stored_id), revision(fields.get("rev")), ChangeKind.OWN, source, at=_moment(raw)
        )
        change.body, change.whole = bytes(fields.raw), source in ("insert", "replace")
        if source == "update":
            cut = list(_cut(raw))
            change.intact = not cut
            if not concerns(domain, (*fields, *cut)):
                return
        before = latest.get((domain, change.document)) or self._known.get((domain, change.document))
        if source == "delete" and self._is_second_half(domain, change.document, before):
            return
        change.key = key_of(domain, fields) if change.whole else before.key if before else None
        if not _raised(change, before):
            _warn_of_lowered(change, before)
            change.kind = ChangeKind.FOREIGN
            change.rev = max(change.rev, before.rev if before else 0)
        draft = _Draft(change, stored_id, fields, before)
        if not draft.is_unplaced:
            latest[domain, change.document] = Known(change.key, change.rev, deletion_of(change) is not None)
        yield draft

    def _is_second_half(self, domain: Domain, document: str, before: Known | None) -> bool:
        """Whether a document went that this package was deleting: its deletion is a revision, and reported as such."""
        if before is not None:
            return before.is_deleted
        return domain.shape is not Shape.SERIES and self._records.is_deleted(domain, document)

    def _look_up(self, drafts: Sequence[_Draft]) -> None:
        """Complete changes from their documents as they are now, otherwise from the audit log."""
        wanted: dict[Domain, dict[str, Any]] = {}
        for draft in drafts:
            if _wants_document(draft):
                wanted.setdefault(draft.change.domain, {})[draft.change.document] = draft.id
        found = {place: document for domain, ids in wanted.items() for place, document in self._documents(domain, ids)}
        budget = FOUND_BYTES_MAX
        for draft in drafts:
            change = draft.change
            document = found.get((change.domain, change.document))
            if document is not None and change.source == "update":
                change.key = key_of(change.domain, document) or change.key
                if draft.is_unplaced:
                    change.rev = max(change.rev, revision(document.get("rev")))
                if budget > 0 and (change.kind is ChangeKind.FOREIGN or revision(document.get("rev")) == change.rev):
                    change.found = bytes(document.raw)
                    budget -= len(change.found)
            if draft.is_unplaced or change.key is None:
                key, rev = self._records.latest(change.domain, change.document)
                change.key = change.key or key
                change.rev = max(change.rev, rev) if draft.is_unplaced else change.rev

    def _documents(
        self, domain: Domain, ids: Mapping[str, Any]
    ) -> Iterator[tuple[tuple[Domain, str], RawBSONDocument]]:
        columns = (*domain.columns, *(domain.fields or (payload_field(domain),)), "rev", "when")
        query = {"_id": {"$in": [one for one in ids.values() if not isinstance(one, str) or is_part(one)]}}
        for document in self._database[collection_of(domain)].find(query, dict.fromkeys(columns, 1)):
            yield (domain, document_name(document)), document

    def _compare(self, drafts: Sequence[_Draft], latest: _Memory) -> None:
        """Documents were found as they were later than their changes. What a document was found with is classified
        before its change is judged, and tells what the change did not leave: a revision that came after a foreign
        change, and a foreign change that came after any.
        """
        doubtful = WeakSet(draft.change for draft in drafts if draft.change.found or draft.is_unplaced)
        if doubtful:
            now = self._database.client.admin.command("ping")["operationTime"]
            self._doubts.append((now.time << 32 | now.inc, doubtful))
        for draft in drafts:
            change = draft.change
            place = (change.domain, change.document)
            for earlier in self._doubtful.get(place, ()):
                if earlier.kind is ChangeKind.FOREIGN and change.kind is ChangeKind.OWN:
                    earlier.rev = min(earlier.rev, change.rev - 1)
                if ChangeKind.FOREIGN in (earlier.kind, change.kind):
                    earlier.found = b""
            if change in doubtful:
                change.doubtful = True
                self._doubtful.setdefault(place, WeakSet()).add(change)
                self._doubtful.move_to_end(place)
            if place in latest and latest[place].key is None:
                latest[place] = latest[place]._replace(key=change.key)
        while len(self._doubtful) > DOUBTFUL_MAX:
            self._doubtful.popitem(last=False)

    def confirm(self, moment: int) -> None:
        """Everything up to this cluster time was classified."""
        while self._doubts and self._doubts[0][0] <= moment:
            for change in self._doubts.popleft()[1]:
                change.doubtful = False

    def give_up(self) -> None:
        """Do without what was found later: what changes themselves do not tell comes from the states before them."""
        for _, changes in self._doubts:
            for change in changes:
                change.doubtful, change.found = False, b""
        self._doubts.clear()

    def _relay(self, drafts: Sequence[_Draft]) -> None:
        older: dict[Key, int] = {}
        foreign: list[Key] = []
        for draft in drafts:
            change = draft.change
            if change.kind is ChangeKind.FOREIGN:
                keys = (change.key, draft.before.key if draft.before else None)
                foreign += [entry for key in keys if key is not None and (entry := cache_key(key)) is not None]
            elif change.key is not None and change.domain.cached:
                older[change.key] = change.rev
        self._caches.relay_older(list(older.items()))
        self._caches.relay([(key, None) for key in foreign])

    def _remember(self, latest: _Memory) -> None:
        for place, known in latest.items():
            if place[0].shape is not Shape.SERIES:  # Rows never change, and there are too many.
                self._known[place] = known
                self._known.move_to_end(place)
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)


def _nested(raw: Any, name: str) -> Any:
    return raw[name]


def _body(raw: RawBSONDocument) -> Any:
    """What the log reports the document: all of it, or the fields that an update changed."""
    if "fullDocument" in raw:
        return raw["fullDocument"]
    return _nested(raw, "updateDescription")["updatedFields"] if "updateDescription" in raw else _NOTHING


def _cut(raw: RawBSONDocument) -> Iterator[str]:
    """Paths that an update removed or shortened."""
    description = _nested(raw, "updateDescription")
    yield from description["removedFields"]
    for array in description.get("truncatedArrays") or ():
        yield array["field"]


def _moment(raw: RawBSONDocument) -> int:
    moment = _nested(raw, "clusterTime")
    return int(moment.time) << 32 | int(moment.inc)


def _is_odd(draft: _Draft) -> bool:
    """Whether a change set a revision that is none: from there on this package's own writes of the document fail."""
    stored = draft.fields.get("rev")
    return stored is not None and stored != 0 and not revision(stored)


def _raised(change: LoggedChange, before: Known | None) -> bool:
    """Whether a change made a new revision. This package's writers never replace whole documents."""
    if change.source == "delete" or not change.rev:
        return False
    return change.rev > before.rev if before is not None else change.source != "replace"


def _warn_of_lowered(change: LoggedChange, before: Known | None) -> None:
    if before is not None and (change.whole or change.rev) and change.rev < before.rev:
        logger.error(
            "%s: a foreign writer put the revision back from %d to %d; until it has passed %d again, changes are "
            "recorded as foreign. Set "
            "`rev` to %d", change.key or change.document, before.rev, change.rev, before.rev, before.rev,
        )  # fmt: skip


def _wants_document(draft: _Draft) -> bool:
    change = draft.change
    if change.source != "update":
        return False
    complete = change.intact and (deletion_of(change) is not None or is_complete(change.domain, draft.fields))
    return change.key is None or change.kind is ChangeKind.FOREIGN or not complete


def _skipped(draft: _Draft) -> Iterator[LoggedChange]:
    """The revisions between a change and the one before it. Only a foreign writer can make such a leap."""
    change = draft.change
    if change.kind is not ChangeKind.OWN or (draft.before is None and change.source != "insert"):
        return
    first = (draft.before.rev if draft.before else 0) + 1
    reason = "the revision was skipped: a foreign writer set it, or deleted the document that had it"
    run = range(first, change.rev)
    yield from skipped(change.domain, change.document, run, reason, at=change.at, key=change.key)
