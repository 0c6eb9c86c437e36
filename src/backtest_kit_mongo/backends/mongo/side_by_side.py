"""Several calls at once, also where threads can no longer be started."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

R = TypeVar("R")


def results(calls: Iterable[Callable[[], R]], threads: int) -> Iterator[R]:
    """What the calls return, in their order; they run ahead in threads of their own (those of a kept pool are gone
    after a fork).

    After the main thread has ended, as in `atexit`, Python starts no thread: then each runs when its result is wanted.
    """
    with ThreadPoolExecutor(threads) as pool:
        ahead = deque(_started(pool, call) for call in calls)
        while ahead:
            yield ahead.popleft()()


def _started(pool: ThreadPoolExecutor, call: Callable[[], R]) -> Callable[[], R]:
    try:
        return pool.submit(call).result
    except RuntimeError:
        return call
