"""The change feed and its audit records, as seen from outside the worker."""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import backtest_kit_mongo as bk
from backtest_kit_mongo.audit.records import FOREIGN
from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.domains.table import CANDLE
from backtest_kit_mongo.feed.positions import look
from backtest_kit_verify.demo.candles import Series

__all__ = ["await_audit", "candle_batches", "is_consumed", "revisions", "run_filter"]

COLLECTION = "audit-items"
GROUP = "audit"
POLL_S = 0.1

Document = dict[str, Any]


def _records() -> Any:
    return bk.get_mongo()[bk.get_config().database][COLLECTION]


def run_filter(run: str) -> Document:
    """Matches the text that begins each key of the run."""
    return {"$regex": f"^{re.escape(run)}\\."}


def _of_run(run: str) -> Document:
    # What others did to the run's documents is recorded too, as `foreign`, and is not the run's doing.
    return {"operation": {"$ne": FOREIGN}, "key": run_filter(run)}


def await_audit(run: str, expected: int, stalled_s: float, on_count: Callable[[int], None]) -> None:
    """Wait until the worker has recorded so many events of the run and consumed the streams.

    Gives up when nothing has changed for `stalled_s`; the checks then say what is missing. `on_count` gets the number
    of records so far.
    """
    recorded, changed_s = -1, time.monotonic()
    while True:
        now = _records().count_documents(_of_run(run))
        on_count(now)
        if now != recorded:
            recorded, changed_s = now, time.monotonic()
        if (recorded >= expected and is_consumed()) or time.monotonic() - changed_s > stalled_s:
            return
        time.sleep(POLL_S)


def is_consumed() -> bool:
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


def revisions(run: str) -> dict[tuple[str, str], list[int]]:
    """The revisions that the run's audit records name, ascending, by domain and document id."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for record in _records().find(_of_run(run), {"domain": 1, "documentId": 1, "rev": 1}):
        found[record["domain"], record["documentId"]].append(int(record["rev"]))
    return {document: sorted(revs) for document, revs in found.items()}


def candle_batches(series: Series) -> Counter[str]:
    """How many batches of candles the audit has for the series, and how many candles they name in all."""
    key = [series.exchange, series.symbol, series.interval]
    found: Counter[str] = Counter()
    for record in _records().find({"domain": CANDLE.name, "key": key}, {"payload.count": 1}):
        found += Counter(batches=1, candles=int(record["payload"]["count"]))
    return found
