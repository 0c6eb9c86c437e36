"""The change feed as recovery uses it: how far the audit role has come, and where a missing event belongs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, TypeAlias

import redis

from backtest_kit_mongo.backends.redis.cluster import link_over
from backtest_kit_mongo.backends.redis.link import Link, Script
from backtest_kit_mongo.backends.redis.missed import append
from backtest_kit_mongo.coherence.events import Event
from backtest_kit_mongo.feed.scripts import INFO, stream_info

StreamId: TypeAlias = tuple[int, int]
BEGINNING: Final[StreamId] = (0, 0)
END: Final[StreamId] = (2**64, 0)
"""After every entry that there can be."""
NOWHERE: Final[StreamId] = (-1, 0)
"""Before every entry: there is no group."""
_ABSENT: Final = ("no such key", "NOGROUP")
FULL_S: Final = 1.0
PACKET_MAX: Final = 500
PACKET_BYTES: Final = 1024 * 1024
"""What is appended in one packet, so that it stays within the command's time bound."""


logger = logging.getLogger(__name__)


class Feed:
    """The streams of a database and one consumer group on them, the audit role's."""

    def __init__(
        self,
        client: redis.Redis,
        streams: Sequence[str],
        group: str,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis: Any = client
        self._script = Script("publish")
        self._monotonic_s, self._full_until_s = monotonic_s, float("-inf")
        self._streams = tuple(streams)
        self._group = group

    @cached_property
    def _link(self) -> Link:
        return link_over(self._redis)

    def ends(self) -> dict[str, StreamId]:
        """The last entry of each stream now: a barrier. Whatever was published before this call lies before it."""
        answers = self._ask(lambda pipeline, stream: pipeline.eval(INFO, 1, stream), 1)
        return {
            stream: BEGINNING if answer is None else _parse(stream_info(answer).last)
            for stream, (answer,) in answers.items()
        }

    def reached(self) -> dict[str, StreamId]:
        """Up to where the group has acknowledged every entry.

        Nothing can come any more from a stream that is gone, nor after the last entry of one that lost its end, so that
        counts as reached. A stream without the group is waited for: the role's loop makes its group at the beginning.
        """

        def ask(pipeline: Any, stream: str) -> None:
            # Delivered first: an entry that is delivered by then is either pending or acknowledged in the next answer.
            pipeline.eval(INFO, 1, stream)
            pipeline.xinfo_groups(stream)
            pipeline.xpending(stream, self._group)

        answers = self._ask(ask, 3)
        return {stream: self._reached(*three) for stream, three in answers.items()}

    def _reached(self, stream: Any, groups: Any, pending: Any) -> StreamId:
        if stream is None:
            return END
        group = next((g for g in groups or () if _text(_field(g, "name")) == self._group), None)
        if group is None or pending is None:
            return NOWHERE
        if pending["pending"]:
            return _before(_parse(pending["min"]))
        delivered = _parse(_field(group, "last-delivered-id"))
        last = stream_info(stream).last_entry
        return END if last is None or _parse(last) <= delivered else delivered

    def _ask(self, ask: Any, count: int) -> dict[str, Sequence[Any]]:
        """`count` answers a stream; None stands for a stream or group that does not exist."""
        pipeline = self._redis.pipeline(transaction=False)
        for stream in self._streams:
            ask(pipeline, stream)
        answers = [_absent_is_none(answer) for answer in pipeline.execute(raise_on_error=False)]
        return {stream: answers[n * count : (n + 1) * count] for n, stream in enumerate(self._streams)}

    def publish(self, events: Sequence[tuple[str, Event]]) -> bool:
        """Append events, each to its stream. False: one of them has no room (any of them may have been appended), and
        is to be offered again when `has_room` says so.
        """
        pages: dict[str, list[Event]] = {}
        for stream, event in events:
            page = pages.setdefault(stream, [])
            page.append(event)
            if sum(len(each.body) for each in page) >= PACKET_BYTES or len(page) >= PACKET_MAX:
                del pages[stream]
                if not self._append(stream, page):
                    return False
        return all(self._append(stream, page) for stream, page in pages.items())

    def _append(self, stream: str, page: Sequence[Event]) -> bool:
        if append(self._link, self._script, stream, page, len(self._streams)):
            return True
        self._full_until_s = self._monotonic_s() + FULL_S
        logger.warning("%s has no room for %d events that are missing in it; they are offered again", stream, len(page))
        return False

    @property
    def has_room(self) -> bool:
        """False for a while after it had none."""
        return self._monotonic_s() >= self._full_until_s


def has_passed(reached: Mapping[str, StreamId], barrier: Mapping[str, StreamId]) -> bool:
    """Whether everything before the barrier is acknowledged."""
    return all(reached[stream] >= end for stream, end in barrier.items())


def _absent_is_none(answer: Any) -> Any:
    if not isinstance(answer, Exception):
        return answer
    if isinstance(answer, redis.ResponseError) and any(text in str(answer) for text in _ABSENT):
        return None
    raise answer


def _field(answer: Mapping[Any, Any], name: str) -> Any:
    """A field of XINFO's answer, whose names are text or bytes by protocol version."""
    return answer[name] if name in answer else answer[name.encode()]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _parse(entry: str | bytes) -> StreamId:
    moment, _, number = _text(entry).partition("-")
    return int(moment), int(number)


def _before(entry: StreamId) -> StreamId:
    return (entry[0], entry[1] - 1) if entry[1] else (entry[0] - 1, 2**64)
