"""What documents held at a moment, by the best time that each record tells.

That is the minute of the step that caused the write, else the write's simulation time, else when its writer's clock
said that it was written, which in paper and live runs is nearly the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from backtest_kit_mongo.audit.log import BATCH, AuditLog, is_removal
from backtest_kit_mongo.audit.records import GAP, AuditRecord, from_document, readable
from backtest_kit_mongo.backends.mongo.errors import reading
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.coherence.codec import pack, unpack
from backtest_kit_mongo.coherence.inventory import Selection
from backtest_kit_mongo.coherence.keys import escaped
from backtest_kit_mongo.coherence.moments import EPOCH
from backtest_kit_mongo.coherence.record import Domain, Key, Record, Shape
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS

__all__ = ["Past", "PastDocument"]

Document = dict[str, Any]
SIGNAL: Final = "signalId"
_NEWEST: Final = [("documentId", -1), ("rev", -1), ("foreign", -1)]


class PastDocument(NamedTuple):
    """Attributes:
    record: as a store would have given it.
    change: the audit record that made it so.
    """

    record: Record
    change: AuditRecord


class Past:
    """The log as it was at a moment.

    Args:
        moment: ms.
        on_missing: called with a sentence for everything that the log no longer has, or never had.
    """

    def __init__(self, log: AuditLog, moment: int, on_missing: Callable[[str], None]) -> None:
        self._log, self.moment, self._tell = log, moment, on_missing
        self._items = readable(log.database, ITEMS)
        self._shows_removed = False
        date = EPOCH + timedelta(milliseconds=moment)
        self._not_later: Document = {
            "$or": [
                {"cause.at": {"$lte": moment}},
                {"cause.at": None, "when": {"$lte": moment}},
                {"cause.at": None, "when": None, "writtenAt": {"$lte": date}},
            ]
        }

    def read(self, key: Key) -> Record:
        """A document."""
        with reading(key):
            for found in reversed(self._log.queries(key)):
                if (document := self._document(found, key)) is not None:
                    return document.record
            self._tell_if_unknown(key)
        return Record(key)

    def scan(self, scope: Key) -> list[PastDocument]:
        """The documents of a scope that existed, in the order in which they were made."""
        prefix = escaped(scope.parts)
        label: Document = {"$regex": f"^{re.escape(prefix)}:"} if scope.parts else {"$exists": True}
        with reading(scope):
            return list(self._documents({"domain": scope.domain.name, "label": label}, scope.domain))

    def of_domain(self, domain: Domain) -> Iterator[PastDocument]:
        """All documents of a domain that existed."""
        return self._documents({"domain": domain.name, "label": {"$exists": True}}, domain)

    def of_document(self, document: Document, key: Key) -> PastDocument | None:
        """One document, by `documentId` and `domain`; None: it did not exist yet."""
        return self._document(document, key)

    def chosen(self, chosen: Selection, *, with_removed: bool = False) -> Iterator[PastDocument]:
        """All documents that belong to some names, with what hangs on their signals."""
        self._shows_removed = with_removed
        signals: set[str] = set()
        with reading(f"what was known at {self.moment}"):
            for domain in DOMAINS:
                if domain.shape is Shape.SERIES or not chosen.concerns(domain):
                    continue
                for found in self._documents(self._labels(domain, chosen), domain):
                    if chosen.fits(found.record.key, found.record.payload, None):
                        signals |= _signals(found)
                        yield found
            for domain in DOMAINS:
                if SIGNAL in domain.columns and not chosen.concerns(domain):
                    every = {"domain": domain.name, "label": {"$exists": True}}
                    yield from self._documents(every, domain, lambda key: _hangs(key, signals, chosen))

    def _labels(self, domain: Domain, chosen: Selection) -> Document:
        """Of keys that have these names; rows of lists have them in themselves."""
        named = chosen.of_key(domain)
        parts = [re.escape(escaped((named[name],))) if name in named else "[^:]*" for name in domain.columns]
        return {"domain": domain.name, "label": {"$regex": f"^{':'.join(parts)}$"}}

    def _documents(
        self, named: Document, domain: Domain, fits: Callable[[Key], bool] = lambda key: True
    ) -> Iterator[PastDocument]:
        """Those that existed, found by their first revisions."""
        fields = {"_id": 0, "documentId": 1, "key": 1}
        firsts = self._items.find({**named, "rev": {"$lte": 1}}, fields, batch_size=BATCH)
        keys = {first["documentId"]: Key(domain, tuple(first.get("key") or ())) for first in firsts}
        for document in sorted(name for name, key in keys.items() if len(key.parts) == len(domain.columns)):
            if not fits(key := keys[document]):
                continue
            found = self._document({"documentId": document, "domain": domain.name}, key)
            if found is not None and (self._shows_removed or (found.record.exists and not found.record.removed)):
                yield found

    def _document(self, query: Document, key: Key) -> PastDocument | None:
        """None: it did not exist yet."""
        last = self._items.find_one({**query, **self._not_later}, sort=_NEWEST)
        if last is None:
            return None
        change = from_document(last)
        if change.operation == GAP or (change.payload is None and change.reason):
            self._tell(f"{key}: the content of revision {change.rev}, which was in force: {change.reason}")
        removed = is_removal(key.domain, change)
        payload = _as_adapters_give(change.payload)
        name = "" if removed else change.document_id
        return PastDocument(Record(key, change.rev, payload, change.when, removed, name), change)

    def _tell_if_unknown(self, key: Key) -> None:
        """There is no record that old: it did not exist, or the log does not reach back to it."""
        stored = readable(self._log.database, collection_of(key.domain)).find_one(key.query(), {"rev": 1})
        if stored is None:
            return
        query = {"domain": key.domain.name, "documentId": str(stored["_id"])}
        first = self._items.find_one(query, {"rev": 1, "first": 1}, sort=[("rev", 1)])
        if first is None:
            self._tell(f"{key}: the audit log has no record of it (no worker recorded it, or its records are gone)")
        elif int(first["rev"]) > 1 and not first.get("first"):
            self._tell(f"{key}: the audit log begins with its revision {int(first['rev'])}, written later")


def _as_adapters_give(payload: Any) -> Any:
    """With plain numbers; what another program stored may be what no adapter gives."""
    try:
        return unpack(pack(payload))
    except (TypeError, ValueError, OverflowError):
        return payload


def _signals(found: PastDocument) -> set[str]:
    named = found.record.key.query()
    ids = {str(named[SIGNAL])} if SIGNAL in named else set()
    payload = found.record.payload
    if isinstance(payload, dict) and isinstance(payload.get("id"), str):
        ids.add(payload["id"])
    return ids


def _hangs(key: Key, signals: Iterable[str], chosen: Selection) -> bool:
    """As deletion sees it: on a signal, or on a context whose names are in the owner's."""
    owner = str(key.query()[SIGNAL])
    return owner in signals or all(str(value) in map(unquote, owner.split(":")) for _, value in chosen.names)
