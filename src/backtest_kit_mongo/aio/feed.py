"""The change feed for event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from types import TracebackType
from typing import ParamSpec

from backtest_kit_mongo.drivers.offloading import offload, offload_to
from backtest_kit_mongo.feed.consume import ChangeEvent, ChangeFeed
from backtest_kit_mongo.feed.consume import consume as consume_by_thread

P = ParamSpec("P")


class AsyncChangeFeed:
    """Iterate it with `async for` to get `ChangeEvent`s; close it, or use it with `async with`. Made by `consume`.

    It waits in a thread of its own, so that a quiet feed keeps no other call waiting. One task iterates. A task that is
    cancelled while it waits loses no event: the next iteration gets it.
    """

    def __init__(self, connect: Callable[[], ChangeFeed]) -> None:
        self._connect = connect
        self._feed: ChangeFeed | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="backtest-kit-feed")
        self._is_closed = False
        self._coming: asyncio.Task[ChangeEvent | None] | None = None

    def __repr__(self) -> str:
        return "<feed, not opened>" if self._feed is None else repr(self._feed)

    def __aiter__(self) -> AsyncChangeFeed:
        if self._feed is not None:
            iter(self._feed)
        return self

    async def __anext__(self) -> ChangeEvent:
        """The next event; raises as `ChangeFeed.__next__` does, and at first as `consume` does."""
        if self._coming is None:
            self._coming = asyncio.ensure_future(offload_to(self._thread, self._next))
        coming = self._coming
        try:
            event = await asyncio.shield(coming)
        finally:
            if coming.done():
                self._coming = None
        if event is None:
            raise StopAsyncIteration
        return event

    def _next(self) -> ChangeEvent | None:
        return next(self._opened(), None)

    def _opened(self) -> ChangeFeed:
        if self._feed is None:
            self._feed = self._connect()
            iter(self._feed)
            if self._is_closed:
                self._feed.close()  # While it connected; nobody else would.
        return self._feed

    async def ack(self, *events: ChangeEvent) -> None:
        """Say that events have been dealt with; see `ChangeFeed.ack`. (`event.ack()` would make the loop wait.)"""
        if self._feed is not None:
            await offload(self._feed.ack, *events)

    async def close(self) -> None:
        """Stop iterating and hand back what was not acknowledged; see `ChangeFeed.close`."""
        self._is_closed = True
        if self._feed is not None:
            await offload(self._feed.close)
        if (coming := self._coming) is not None:
            await asyncio.wait([coming])
            coming.exception()  # Perhaps nobody else asks for it.
        self._thread.shutdown(wait=False)

    async def __aenter__(self) -> AsyncChangeFeed:
        await offload_to(self._thread, self._opened)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _for_loops(consume: Callable[P, ChangeFeed]) -> Callable[P, AsyncChangeFeed]:
    @wraps(consume)
    def feed(*args: P.args, **named: P.kwargs) -> AsyncChangeFeed:
        return AsyncChangeFeed(partial(consume, *args, **named))

    return feed


consume = _for_loops(consume_by_thread)
