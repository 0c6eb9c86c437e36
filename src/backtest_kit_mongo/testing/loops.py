"""A registry as a program with an event loop uses it, for tests that call it without one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Future
from contextvars import copy_context
from functools import cache
from typing import Any

from backtest_kit_mongo import aio
from backtest_kit_mongo.adapters.registry import Registry
from backtest_kit_mongo.drivers.offloading import Offloading


class Looped:
    """A registry whose methods are awaited by the event loop of another thread."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._offloading = type(getattr(aio, registry.name))(registry)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._offloading, name, None)
        if method is None or name in vars(Offloading):
            return getattr(self._registry, name)

        def call(*args: Any, **named: Any) -> Any:
            asked = method(*args, **named)
            return iter(awaited(_all(asked))) if isinstance(asked, AsyncIterator) else awaited(asked)

        return call


async def _all(elements: AsyncIterator[Any]) -> list[Any]:
    return [element async for element in elements]


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="test-loop", daemon=True).start()
    return loop


def awaited(asked: Coroutine[Any, Any, Any]) -> Any:
    """What the coroutine returns; it runs in this thread's context."""
    answer: Future[Any] = Future()
    context = copy_context()

    async def run() -> None:
        try:
            answer.set_result(await asked)
        except BaseException as cause:
            answer.set_exception(cause)

    _loop().call_soon_threadsafe(lambda: asyncio.create_task(run(), context=context))
    return answer.result()
