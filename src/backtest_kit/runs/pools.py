"""Executors that batches are handed to: one that somebody gives, a pool of this host that is made anew when a worker
dies, or none.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from multiprocessing.context import BaseContext
from typing import Any, Final, Literal, TypeAlias

from backtest_kit.errors import DeclarationError

__all__ = ["Kind", "Pool"]

Kind: TypeAlias = Literal["processes", "serial"]

IDLE_BREAKS_MAX: Final = 4
"""A pool whose workers die so often before they have done anything will not do better."""


class Serial(Executor):
    """This process, at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        found: Future[Any] = Future()
        try:
            found.set_result(fn(*args, **kwargs))
        except Exception as error:
            found.set_exception(error)
        return found


class Pool:
    """Attributes:
    name: of this pool's workers as holders of claims; another one each time that it is made anew.
    dead: names of the pools before it: none of their workers lives.
    slots: how many batches are handed out at once.
    """

    def __init__(self, executor: Executor | Kind | None, workers: int | None, *, has_file: bool) -> None:
        count = _count(workers)
        self._made: Executor | None = None
        self.name, self.dead = _new_name(), list[str]()
        self._idle_breaks = 0
        if isinstance(executor, Executor):
            self._given: Executor | None = executor
            known = getattr(executor, "_max_workers", None)
            self.slots = 2 * (known if isinstance(known, int) and workers is None else count)
        elif executor == "serial":
            self._given, self.slots = Serial(), 1
        elif executor in (None, "processes"):
            self._given, self.slots = None, 2 * count
            self._context = _context(has_file=has_file)
            self._count = count
        else:
            raise DeclarationError(
                f"executor is None, 'processes', 'serial' or a concurrent.futures.Executor, not {executor!r:.60}. Of "
                "Dask it is client.get_executor(). Nothing was run."
            )

    def submit(self, function: Callable[..., Any], argument: Any) -> Future[Any]:
        """Raises:
        DeclarationError: the executor takes nothing any more.
        BrokenExecutor: a worker has died.
        """
        try:
            return self._executor().submit(function, argument)
        except BrokenExecutor:
            raise
        except RuntimeError as cause:
            raise DeclarationError(
                f"the executor takes no work: {cause}. Runs that have a result keep it; no other was run."
            ) from cause

    def _executor(self) -> Executor:
        if self._given is not None:
            return self._given
        if self._made is None:
            self._made = ProcessPoolExecutor(self._count, mp_context=self._context, initializer=_leave_interrupts)
        return self._made

    def renew(self, *, was_idle: bool, cause: BaseException) -> None:
        """After a worker has died: a new pool, if it is ours.

        Args:
            was_idle: nothing was done since the last time.

        Raises:
            DeclarationError: it was given, or its workers do nothing but die.
        """
        self._idle_breaks = self._idle_breaks + 1 if was_idle else 0
        if self._given is not None or self._idle_breaks >= IDLE_BREAKS_MAX:
            why = "the executor's workers died" if self._given else "workers die before they have done anything"
            raise DeclarationError(
                f"{why} ({cause}). Their own messages are above; what is done stays done, and the same call goes on."
            ) from cause
        self.close()
        self.dead.append(self.name)
        self.name = _new_name()

    def close(self) -> None:
        """End what was made here, and wait for it."""
        if self._made is not None:
            self._made.shutdown(wait=True, cancel_futures=True)
            self._made = None


def _context(*, has_file: bool) -> BaseContext:
    """How workers start. What was written at a prompt is known to a fork alone; else a server that has imported all
    that they need forks them, so that one that died costs little.
    """
    if not has_file:
        return multiprocessing.get_context("fork")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["backtest_kit.runs.work"])
    return context


def _new_name() -> str:
    return secrets.token_hex(4)


def _count(workers: int | None) -> int:
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if type(workers) is not int or not 1 <= workers <= 1024:
        raise DeclarationError(f"workers= is a number from 1 to 1024, not {workers!r:.40}")
    return workers


def _leave_interrupts() -> None:
    """Ctrl-C is the parent's; a worker ends with its batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
