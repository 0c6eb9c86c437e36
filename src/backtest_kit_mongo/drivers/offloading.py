"""Calls that wait for servers, made for an event loop by threads: the loop itself never waits (ADR 0028).

At most `THREADS` calls are under way at once; the others wait for their turn. A call takes the context of its task
with it, so the simulation time, the step and the tracing of the task hold in the thread as well.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial, wraps
from itertools import islice
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeVar

from backtest_kit_mongo import locks
from backtest_kit_mongo.errors import CallerError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

logger = locks.logger(__name__)

THREADS: Final = 16
"""A write waits three times for servers; with so many at once one core is busy."""
PAGE: Final = 200
"""Elements of an iteration that are fetched by one hop to a thread."""
_pool: ThreadPoolExecutor | None = None
_threads = THREADS


def use_threads(count: int) -> None:
    """How many calls may be under way at once, from now on; those that are under way end as they are.

    Raises:
        CallerError: `count` is below 1.
    """
    global _pool, _threads
    if count < 1:
        raise CallerError(f"at least one thread, not {count}")
    before, _pool, _threads = _pool, None, count
    if before is not None:
        before.shutdown(wait=False)


def _executor() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(_threads, thread_name_prefix="backtest-kit-aio")
    return _pool


def _forget_after_fork() -> None:
    global _pool
    _pool = None  # A child has none of its parent's threads.


os.register_at_fork(after_in_child=_forget_after_fork)


async def offload(call: Callable[P, R], /, *args: P.args, **named: P.kwargs) -> R:
    """What the call returns or raises, without blocking the event loop.

    A task that is cancelled meanwhile ends at once. A call that still waited for its turn is then not made; one that is
    under way goes on to its end in its thread, within its own bounds, so its lease is given back as always, and what
    it writes is written. If it fails, the log says so.
    """
    return await offload_to(_executor(), call, *args, **named)


async def offload_to(executor: Executor, call: Callable[P, R], /, *args: P.args, **named: P.kwargs) -> R:
    """The same, by threads of the caller's."""
    errand = _Errand(partial(call, *args, **named))
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, copy_context().run, errand.run)
    except asyncio.CancelledError:
        errand.is_awaited = False
        raise


class _Errand(Generic[R]):
    """A call, and whether somebody still waits for what comes of it."""

    __slots__ = ("_call", "is_awaited")

    def __init__(self, call: partial[R]) -> None:
        self._call = call
        self.is_awaited = True

    def run(self) -> R:
        try:
            return self._call()
        except Exception as cause:
            if not self.is_awaited:
                name = getattr(self._call.func, "__qualname__", self._call.func)
                logger.warning("%s went on after its task was cancelled, and failed: %s", name, cause)
            raise


async def offload_each(call: Callable[P, Iterator[T]], /, *args: P.args, **named: P.kwargs) -> AsyncIterator[T]:
    """The elements of what the call returns, page by page, each page by a thread."""
    found = await offload(call, *args, **named)
    while page := await offload(_page, found):
        for element in page:
            yield element


def _page(elements: Iterator[Any]) -> list[Any]:
    return list(islice(elements, PAGE))


def as_coroutine(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]:
    """A method of an `Offloading` class: the other class's one, made by a thread."""

    @wraps(method)
    async def offloaded(self: Offloading[Any], /, *args: P.args, **named: P.kwargs) -> R:
        return await offload(method, self.sync, *args, **named)

    return offloaded


def as_async_iterator(
    method: Callable[Concatenate[Any, P], Iterator[T]],
) -> Callable[Concatenate[Any, P], AsyncIterator[T]]:
    """The same of a method that iterates."""

    @wraps(method)
    def offloaded(self: Offloading[Any], /, *args: P.args, **named: P.kwargs) -> AsyncIterator[T]:
        return offload_each(method, self.sync, *args, **named)

    return offloaded


class Offloading(Generic[T]):
    """Does as another object does, for event loops.

    Attributes:
        sync: the other object.
    """

    def __init__(self, sync: T) -> None:
        self.sync = sync

    def __repr__(self) -> str:
        return f"<{self.sync!r}, as coroutines>"
