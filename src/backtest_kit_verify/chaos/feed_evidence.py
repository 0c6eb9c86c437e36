"""The change feed as a consumer sees it: what was in the stream, and what a flush took.

Entries are read when they are old enough not to be in the suffix that a killed Redis loses, and then trimmed, as a
worker that has acknowledged them would do; a long run would otherwise fill the memory with its past.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import redis

from backtest_kit_mongo.coherence.events import UnknownEvent, decode
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_verify.chaos.history import Flush, Revision, Value
from backtest_kit_verify.chaos.observed import document_name
from backtest_kit_verify.chaos.odd import STRANGER
from backtest_kit_verify.chaos.workload import mark_of

__all__ = ["Feed"]

SETTLED_MS = 2_500
BATCH_MAX = 5_000

Entry = tuple[bytes, Mapping[bytes, bytes]]


class Feed:
    """Collects events.

    Args:
        trims: nobody else reads the stream.

    Attributes:
        counts: how often each change was seen in the stream.
        reported: the value that each reported.
    """

    def __init__(self, client: redis.Redis, streams: Sequence[str], *, trims: bool = True) -> None:
        self._redis: Any = client
        self._trims = trims
        self.streams = tuple(streams)
        self._last = dict.fromkeys(streams, "0-0")
        self.counts: Counter[Revision] = Counter()
        self.reported: dict[Revision, Value] = {}

    def collect(self, settled_ms: int = SETTLED_MS) -> None:
        """Take the entries that are at least so old.

        Raises:
            redis.RedisError: nothing is lost, the next call takes them.
        """
        seconds, _ = self._redis.time()
        for stream in self._last:
            horizon = "+" if settled_ms == 0 else str(seconds * 1000 - settled_ms)
            while entries := self._after(self._redis, stream, horizon, BATCH_MAX):
                self._note(entries)
                self._last[stream] = entries[-1][0].decode()
                if self._trims:
                    self._redis.xtrim(stream, minid=self._last[stream], approximate=False)

    def flush(self) -> Flush:
        """FLUSHALL, in one step with reading what that takes away."""
        began_ns = time.monotonic_ns()
        with self._redis.pipeline(transaction=True) as transaction:
            for stream in self._last:
                self._after(transaction, stream, "+", None)
            transaction.flushall()
            *taken, _ = transaction.execute()
        reported = (_change(fields) for entries in taken for _, fields in entries)
        return Flush(began_ns, time.monotonic_ns(), frozenset(change for change, _ in filter(None, reported)))

    def _after(self, client: Any, stream: str, horizon: str, count: int | None) -> Any:
        return client.xrange(stream, f"({self._last[stream]}", horizon, count)

    def _note(self, entries: Iterable[Entry]) -> None:
        for _, fields in entries:
            if (found := _change(fields)) is not None:
                change, value = found
                self.counts[change] += 1
                self.reported[change] = value


def _change(fields: Mapping[bytes, bytes]) -> tuple[Revision, Value] | None:
    """What an entry reports; None if no client reported it."""
    try:
        event = decode(fields)
    except UnknownEvent:
        return None
    if event.origin == STRANGER:
        return None
    mark = mark_of(BY_NAME[event.domain], event.payload)
    return Revision(document_name(event), event.rev), Value(mark, event.operation == "remove")
