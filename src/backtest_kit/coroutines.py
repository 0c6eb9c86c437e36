"""`def` and `async def` alike: a coroutine is run to its end, within a time limit."""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from types import TracebackType
from typing import Any

__all__ = ["Coroutines", "TookTooLong"]


class TookTooLong(Exception):
    """The time limit of a coroutine has passed; it was cancelled. A TimeoutError is the coroutine's own."""


class Coroutines:
    """One event loop for all coroutines of a run. Made on first use; close it (`with`).

    In a thread that has a running loop already (a notebook), coroutines run in a thread of their own.
    """

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._thread: ThreadPoolExecutor | None = None

    def finish(self, answer: Any, timeout_s: float | None = None) -> Any:
        """The answer itself, or if it is awaitable, what it comes to.

        Raises:
            TookTooLong: and was cancelled.
        """
        if not inspect.isawaitable(answer):
            return answer
        if _has_running_loop():
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "backtest-kit-coroutines")
            return self._thread.submit(copy_context().run, self._run, answer, timeout_s).result()
        return self._run(answer, timeout_s)

    def _run(self, awaitable: Any, timeout_s: float | None) -> Any:
        if self._runner is None:
            self._runner = asyncio.Runner()
        # In the context of this call, not of the first one: write limits, steps and stamps hold in there too.
        return self._runner.run(_within(awaitable, timeout_s), context=copy_context())

    def __enter__(self) -> Coroutines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.submit(self._close).result()
            self._thread.shutdown()
        self._close()

    def _close(self) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None


async def _within(awaitable: Any, timeout_s: float | None) -> Any:
    try:
        async with asyncio.timeout(timeout_s) as limit:
            return await awaitable
    except TimeoutError as cause:
        if limit.expired():
            raise TookTooLong from cause
        raise


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
