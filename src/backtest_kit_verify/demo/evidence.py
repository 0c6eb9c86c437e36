"""What a run left behind in MongoDB, the cache, the feed and the audit log."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import backtest_kit_mongo as bk
from backtest_kit_mongo.audit.records import FOREIGN
from backtest_kit_mongo.backends.mongo.layout import collection_of, payload_field
from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.coherence.record import Domain, Key
from backtest_kit_mongo.domains.table import CANDLE, DOMAINS, MEASURE
from backtest_kit_mongo.feed.positions import look
from backtest_kit_mongo.operate.cache_check import Report, open_auditor
from backtest_kit_mongo.stored import AUDIT_ITEMS as AUDIT
from backtest_kit_verify.demo.candles import Series

__all__ = ["DOCUMENTS", "Evidence", "gather"]

DOCUMENTS: Final = tuple(domain for domain in DOMAINS if domain is not CANDLE)
GROUP: Final = "audit"
POLL_S: Final = 0.1
STALLED_S: Final = 60.0
"""No audit record for so long means that none will come; twice what a worker takes to claim another's entries."""
ENTRIES_MAX: Final = 100_000

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Attributes:
    documents: of the run, by domain and id, the revision: each change raised it by one.
    audited: of the audit records, by domain and document id, the revisions.
    cache: a comparison of the run's entries in Redis with MongoDB.
    history: rows of the list by strategy, as the adapters read them.
    risks: open positions in the books of the run, by strategy.
    batches, candles: audited batches, and candles in them, by series.
    is_consumed: the audit has taken everything that is in the feed.
    """

    documents: Mapping[tuple[str, str], int]
    audited: Mapping[tuple[str, str], list[int]]
    cache: Report
    history: Mapping[str, list[Document]]
    risks: Mapping[str, int]
    batches: Sequence[int]
    candles: Sequence[int]
    is_consumed: bool

    def count(self, domain: Domain) -> int:
        """Documents of the run."""
        return sum(name == domain.name for name, _ in self.documents)

    def changes(self, domain: Domain) -> int:
        return sum(rev for (name, _), rev in self.documents.items() if name == domain.name)

    def records(self, domain: Domain) -> int:
        return sum(len(revs) for (name, _), revs in self.audited.items() if name == domain.name)


def gather(
    run: str, strategies: Mapping[str, str], series: Sequence[Series], on_count: Callable[[int, int], None]
) -> Evidence:
    """Wait for the audit to come to its end, and look at everything.

    Args:
        strategies: by their names, the exchanges of the hosts.
        on_count: gets how many audit records there are, and how many there will be.
    """
    documents = _documents(run)
    consumed = _await_audit(documents, on_count)
    history: dict[str, list[Document]] = {name: [] for name in strategies}
    for row in bk.PersistStorageAdapter.read_storage_data(False):
        if row["strategyName"] in history:
            history[row["strategyName"]].append(row)
    batches = [_batches(one) for one in series]
    return Evidence(
        documents=documents,
        audited=_audited(documents),
        cache=_compared(run),
        history=history,
        risks={name: _open_positions(name, exchange) for name, exchange in strategies.items()},
        batches=[one["batches"] for one in batches],
        candles=[one["candles"] for one in batches],
        is_consumed=consumed,
    )


def _database() -> Any:
    return bk.get_mongo()[bk.get_config().database]


def _documents(run: str) -> dict[tuple[str, str], int]:
    """Every document whose key, or whose row, names a strategy of the run; and the values that all runs share."""
    mine = {"$regex": rf"(^|[^\w-]){re.escape(run)}\."}
    found: dict[tuple[str, str], int] = {}
    for domain in DOCUMENTS:
        named = [column.name for column in domain.key if column.type is str]
        named += [f"{payload_field(domain)}.{name}" for name in ("strategyName", "methodContext.strategyName")]
        query: Document = {"$or": [{name: mine} for name in named]}
        if domain is MEASURE:
            query = {"bucket": "typical_range_1h"}
        for document in _database()[collection_of(domain)].find(query, {"rev": 1}):
            found[domain.name, str(document["_id"])] = int(document["rev"])
    return found


def _open_positions(risk: str, exchange: str) -> int:
    return len(bk.PersistRiskAdapter.read_position_data(risk, f"{exchange}~paper", END_OF_TIME_MS))


END_OF_TIME_MS: Final = 7_289_654_399_999
"""2200-12-31, the last moment that a read may name."""


def _compared(run: str) -> Report:
    report = Report()
    with open_auditor(bk.get_config()) as auditor:
        auditor.check([key for key in auditor.keys(ENTRIES_MAX) if _is_of(run, key)], report)
    return report


def _is_of(run: str, key: Key) -> bool:
    return any(f"{run}." in str(part) for part in key.parts)


# -- the audit log


def _await_audit(documents: Mapping[tuple[str, str], int], on_count: Callable[[int, int], None]) -> bool:
    """Gives up when nothing has changed for `STALLED_S`; the checks then say what is missing. Whether the feed is
    consumed.
    """
    expected, recorded, changed_s = sum(documents.values()), -1, time.monotonic()
    while True:
        now = _database()[AUDIT].count_documents(_of(documents))
        on_count(now, expected)
        if now != recorded:
            recorded, changed_s = now, time.monotonic()
        consumed = _is_consumed()
        if (recorded >= expected and consumed) or time.monotonic() - changed_s > STALLED_S:
            return consumed
        time.sleep(POLL_S)


def _of(documents: Mapping[tuple[str, str], int]) -> Document:
    # What others did to the run's documents is recorded too, as `foreign`, and is not the run's doing.
    return {"documentId": {"$in": [name for _, name in documents]}, "operation": {"$ne": FOREIGN}}


def _audited(documents: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for record in _database()[AUDIT].find(_of(documents), {"domain": 1, "documentId": 1, "rev": 1}):
        found[record["domain"], record["documentId"]].append(int(record["rev"]))
    return found


def _batches(series: Series) -> Counter[str]:
    """How many batches of candles the audit has for the series, and how many candles they name in all."""
    key = [series.exchange, series.symbol, "1m"]
    found: Counter[str] = Counter()
    for record in _database()[AUDIT].find({"domain": CANDLE.name, "key": key}, {"payload.count": 1}):
        found += Counter(batches=1, candles=int(record["payload"]["count"]))
    return found


def _is_consumed() -> bool:
    """Whether the audit group has taken and acknowledged everything in the streams."""
    settings = bk.get_config()
    redis = bk.get_redis()
    try:
        for stream in streams(settings.database, settings.partitions):
            position = look(redis, stream)
            owed = {group.name: group.owed_count for group in position.groups} if position else {GROUP: 0}
            if owed.get(GROUP, 1):
                return False
        return True
    finally:
        redis.close()
