"""How far the replica role is behind the feed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import redis

from backtest_kit_worker.replicas.copying import GROUP

COUNTED_MAX: Final = 10_000
"""Redis before 7 does not know how many entries a group has not read; counting them stops here."""
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Lag:
    """Changes that are published but not yet acknowledged by the role.

    Attributes:
        entry_count: how many; at least so many if `is_more`.
        seconds: age of the oldest of them by Redis' clock, 0.0 if there is none.
        has_group: false if the role never ran, or its group was lost: then every entry counts.
    """

    entry_count: int
    is_more: bool
    seconds: float
    has_group: bool


def lag(client: redis.Redis, streams: Iterable[str]) -> Lag:
    """Measure it.

    Raises:
        RedisError: Redis failed.
    """
    plain: Any = client
    seconds, micros = plain.time()
    now_ms = seconds * 1000 + micros // 1000
    found = [_of_stream(plain, stream, now_ms) for stream in streams]
    return Lag(
        sum(one.entry_count for one in found),
        any(one.is_more for one in found),
        max((one.seconds for one in found), default=0.0),
        all(one.has_group for one in found),
    )


def _of_stream(client: Any, stream: str, now_ms: int) -> Lag:
    try:
        groups = client.xinfo_groups(stream)
    except redis.ResponseError:
        return Lag(0, False, 0.0, has_group=False)  # There is no stream.
    group = next((group for group in groups if group["name"] == GROUP.encode()), None)
    if group is None:
        first = _first_ms(client, stream, "-")
        return Lag(client.xlen(stream), False, _age_s(now_ms, first), has_group=False)
    last = group["last-delivered-id"].decode()
    pending = client.xpending(stream, GROUP)
    oldest = [_ms(pending["min"])] if pending["pending"] else []
    oldest += [first] if (first := _first_ms(client, stream, f"({last}")) is not None else []
    unread, is_more = _unread(client, stream, last, group.get("lag"))
    age_s = _age_s(now_ms, min(oldest, default=None))
    return Lag(pending["pending"] + unread, is_more, age_s, has_group=True)


def _unread(client: Any, stream: str, last: str, known: int | None) -> tuple[int, bool]:
    if known is not None:
        return known, False
    count = 0
    while entries := client.xrange(stream, f"({last}", "+", count=_PAGE):
        count += len(entries)
        last = entries[-1][0].decode()
        if count >= COUNTED_MAX:
            return count, True
    return count, False


def _first_ms(client: Any, stream: str, since: str) -> int | None:
    entries = client.xrange(stream, since, "+", count=1)
    return _ms(entries[0][0]) if entries else None


def _ms(entry: bytes) -> int:
    return int(entry.partition(b"-")[0])


def _age_s(now_ms: int, entry_ms: int | None) -> float:
    return 0.0 if entry_ms is None else max(0, now_ms - entry_ms) / 1000
