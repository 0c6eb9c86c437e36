"""SIGKILL for workers of a pool, at random moments of a sweep."""

from __future__ import annotations

import math
import os
import random
import signal

import psutil

__all__ = ["Killer"]


class Killer:
    """Informed of a sweep's progress. After a random number of runs it kills so many workers that the share of all
    that were seen has died.

    Attributes:
        killed, seen: process ids.
    """

    def __init__(self, share: float, runs: int, seed: int) -> None:
        self.killed: list[int] = []
        self.seen: set[int] = set()
        self._share, self._source, self._between = share, random.Random(seed), max(2, runs // 40)
        self._next = self._source.randint(1, self._between)

    def __call__(self, done: int, total: int, failed: int) -> None:
        if done < self._next or done == total:
            return
        self._next = done + self._source.randint(1, self._between)
        workers = [one.pid for one in psutil.Process().children(recursive=True) if _is_worker(one)]
        self.seen.update(workers)
        missing = math.ceil(self._share * len(self.seen)) - len(self.killed)
        for pid in self._source.sample(workers, max(0, min(missing, len(workers)))):
            self.killed.append(pid)
            os.kill(pid, signal.SIGKILL)


def _is_worker(process: psutil.Process) -> bool:
    """Of a pool: a child of the server that forks them, not that one itself."""
    try:
        command = " ".join(process.cmdline())
        return "multiprocessing" in command and "resource_tracker" not in command and process.ppid() != os.getpid()
    except psutil.Error:
        return False
