"""What a run left behind, beside what it should have left."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import backtest_kit_mongo as bk
from backtest_kit_mongo import stores
from backtest_kit_mongo.coherence.effects import Rows
from backtest_kit_mongo.coherence.record import Domain, Key, Part, Record, Shape
from backtest_kit_mongo.domains.table import CANDLE, DOMAINS
from backtest_kit_verify.demo import audited
from backtest_kit_verify.demo.book import Book, Host
from backtest_kit_verify.demo.candles import Series
from backtest_kit_verify.demo.desk import MemoryDesk, adapter_read
from backtest_kit_verify.demo.replay import replay

__all__ = ["DOCUMENTS", "Evidence", "Expected", "count_documents", "expect", "read_back", "stored_records"]

DOCUMENTS = tuple(domain for domain in DOMAINS if domain is not CANDLE)
END_OF_TIME_MS = 7_289_654_399_999
"""2200-12-31, the last moment that a read may name."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The same run in memory: the final book of each host, and the last value of every key."""

    books: Mapping[Host, Book]
    last: Mapping[Key, bytes]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the checks look at.

    Attributes:
        records: MongoDB's own documents of the expected keys.
        read: what the adapters return for them.
        documents: how many documents of the run MongoDB has, by domain, expected or not.
        revisions: of the audit records, by domain and document id.
        candles: what the adapters return for the windows of each series, in one list; None if any is missing.
        candle_audits: batches and candles that the audit has, by series.
        candle_documents: candles that MongoDB has, by series.
    """

    expected: Expected
    records: Mapping[Key, Record]
    read: Mapping[Key, Any]
    documents: Mapping[Domain, int]
    revisions: Mapping[tuple[str, str], list[int]]
    candles: Sequence[list[Any] | None]
    candle_audits: Sequence[Counter[str]]
    candle_documents: Sequence[int]

    def events(self, domain: Domain) -> int:
        """How many changes MongoDB has seen: each raised a document's revision by one."""
        return sum(record.rev for key, record in self.records.items() if key.domain is domain)

    def audits(self, domain: Domain) -> int:
        return sum(len(revs) for (name, _), revs in self.revisions.items() if name == domain.name)


def expect(hosts: Sequence[tuple[Host, Series]]) -> Expected:
    """Replay the run in memory."""
    desk = MemoryDesk()
    books = {host: replay(desk, host, series.candles, lambda book: None) for host, series in hosts}
    return Expected(books, desk.last)


def stored_records(keys: Sequence[Key]) -> dict[Key, Record]:
    """MongoDB's own documents of the keys, past the cache."""
    truth = stores.live_store().truth
    found: dict[Key, Record] = {}
    for scope, items in _by_scope(keys):
        rows = truth.rows(Rows(scope, tuple(items)))
        found |= {scope.child(item): record for item, record in rows.items()}
    return found


def _by_scope(keys: Sequence[Key]) -> Iterator[tuple[Key, list[Part]]]:
    scopes: dict[Key, list[Part]] = defaultdict(list)
    for key in keys:
        scopes[key.scope].append(key.item)
    yield from scopes.items()


def read_back(keys: Sequence[Key], on_read: Callable[[int], None]) -> dict[Key, Any]:
    """What the public adapters return for the keys. `on_read` gets the number of documents after each read."""
    found: dict[Key, Any] = {}
    ledgers = [key for key in keys if key.domain.shape is Shape.LIST]
    for scope, items in _by_scope(ledgers):
        rows = {row[scope.domain.row_id]: row for row in adapter_read(scope.child(items[0]), END_OF_TIME_MS)}
        found |= {scope.child(item): rows.get(item) for item in items}
        on_read(len(items))
    for key in keys:
        if key not in found:
            found[key] = adapter_read(key, END_OF_TIME_MS)
            on_read(1)
    return found


def count_documents(run: str) -> dict[Domain, int]:
    """How many documents of the run each collection has."""
    database = bk.get_mongo()[bk.get_config().database]
    mine = audited.run_filter(run)
    return {
        domain: database[domain.collection].count_documents(
            {"$or": [{column.name: mine} for column in domain.key if column.type is str]}
        )
        for domain in DOCUMENTS
    }
