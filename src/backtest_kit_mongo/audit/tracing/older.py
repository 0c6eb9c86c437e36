"""Records that do not say whose signal they are, because a release before the field recorded them. They are sealed, so
nobody can add it; they are searched for by what they are: keys that name the signal, and rows of its context that do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from backtest_kit_mongo.audit.belonging import SIGNAL_COLUMN, naming, signal_of
from backtest_kit_mongo.audit.log import BATCH, AuditLog
from backtest_kit_mongo.audit.records import AuditRecord, from_document, readable
from backtest_kit_mongo.coherence.keys import escaped
from backtest_kit_mongo.coherence.record import Domain, Key, Part, Shape
from backtest_kit_mongo.domains.table import DOMAINS, NOTIFICATION
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS

__all__ = ["OlderRecords"]

STRATEGY: Final = "strategyName"
Document = dict[str, Any]


class OlderRecords:
    """Looks at the documents of one context, at those whose keys name the signal, and at first revisions of
    notifications. Other records are not read, however long the log is.

    Args:
        signal: as keys and rows name it.
        context: by column, of its symbol, strategy and exchange; empty if nothing tells.
    """

    def __init__(self, log: AuditLog, signal: str, context: Mapping[str, str]) -> None:
        self._log, self._items = log, readable(log.database, ITEMS)
        self._signal, self._named = signal, {**context, SIGNAL_COLUMN: signal}
        self._has_context = bool(context)

    def __iter__(self) -> Iterator[AuditRecord]:
        for domain in DOMAINS:
            if domain.shape is Shape.SERIES:
                continue
            if SIGNAL_COLUMN in domain.columns:
                yield from self._of(domain, {})
            elif STRATEGY in domain.columns and self._has_context:
                yield from self._of(domain, {"$or": naming(self._signal)})
        first = {"domain": NOTIFICATION.name, "label": {"$exists": True}, "rev": {"$lte": 1}}
        yield from self._found({**first, f"payload.{SIGNAL_COLUMN}": self._signal})

    def _of(self, domain: Domain, held: Document) -> Iterator[AuditRecord]:
        """Records of the documents whose keys have these names."""
        for document in self._documents(domain):
            yield from self._found({**document, **held})

    def _documents(self, domain: Domain) -> Sequence[Document]:
        parts: list[Part | None] = [self._named.get(name) for name in domain.columns]
        if domain.row_id or all(part is not None for part in parts):
            return [query for key in self._keys(domain, parts) for query in self._log.queries(key)]
        label = ":".join("[^:]*" if part is None else re.escape(escaped((part,))) for part in parts)
        first = {"domain": domain.name, "label": {"$regex": f"^{label}$"}, "rev": {"$lte": 1}}
        return [{"domain": domain.name, "documentId": name} for name in self._items.distinct("documentId", first)]

    def _keys(self, domain: Domain, parts: list[Part | None]) -> Iterator[Key]:
        """Rows of lists are those of a backtest, or not."""
        for is_backtest in (False, True) if domain.row_id else (False,):
            yield Key(domain, tuple(is_backtest if part is None else part for part in parts))

    def _found(self, query: Document) -> Iterator[AuditRecord]:
        for stored in self._items.find(query, batch_size=BATCH):
            if signal_of(stored) == self._signal:
                yield from_document(stored)
