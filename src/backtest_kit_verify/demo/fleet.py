"""The processes of the demo: hosts that are started, watched, killed and started again."""

from __future__ import annotations

import json
import queue
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from backtest_kit.identity import MINUTE_MS
from backtest_kit_verify.children import Process
from backtest_kit_verify.demo.errors import DemoError
from backtest_kit_verify.demo.host import Task

__all__ = ["WORKER", "Fleet", "HostRun", "Killed"]

HOST: Final = (sys.executable, "-m", "backtest_kit_verify.demo.host")
WORKER: Final = (sys.executable, "-m", "backtest_kit_worker")
KILL_BETWEEN: Final = (0.2, 0.8)
"""Somewhere in this part of its minutes each host is killed."""
KILL_WITHIN_S: Final = 0.05
SILENCE_S: Final = 60
"""A fleet that says nothing for so long hangs."""

Report = dict[str, Any]
SUMMED: Final = ("seconds", "writes", "hits", "misses")


@dataclass(slots=True)
class Killed:
    """A process that was killed on purpose.

    Attributes:
        at_ms: the minute that it reported last.
        holds: the position that it held then; empty: none.
        resumed_ms: the minute with which the next process began.
    """

    pid: int
    at_ms: int
    holds: str
    exit_code: int = 0
    resumed_ms: int = 0


@dataclass(slots=True)
class HostRun:
    """One host over all its processes.

    Attributes:
        last: the latest report of the running process; `before` the sums over those that ended.
        kill_at: after so many minutes it is killed; None: never.
        failure: what a process said that ended by itself with an error.
    """

    task: Task
    kill_at: int | None = None
    process: Process | None = None
    last: Report = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMMED, 0.0))
    killed: Killed | None = None
    failure: str = ""

    @property
    def minutes(self) -> int:
        """Lived so far."""
        return (int(self.last.get("now_ms", self.task.start_ms)) - self.task.start_ms) // MINUTE_MS

    def total(self, name: str) -> float:
        return float(self.before[name] + self.last.get(name, 0))


class Fleet:
    """All hosts at once; those that have a `kill_at` are killed there and started again."""

    def __init__(self, runs: Sequence[HostRun], environment: Mapping[str, str]) -> None:
        self._runs, self._environment = runs, environment
        self._inbox: queue.Queue[tuple[HostRun, Report | int]] = queue.Queue()
        self._running = 0

    def run(self, on_progress: Callable[[HostRun], None]) -> None:
        """Start all hosts and wait until they have ended.

        Raises:
            DemoError: none of them says anything any more.
        """
        try:
            for run in self._runs:
                self._start(run)
            while self._running:
                run, report = self._inbox.get(timeout=SILENCE_S)
                if isinstance(report, int):
                    self._ended(run, report)
                else:
                    self._reported(run, report)
                on_progress(run)
        except queue.Empty:
            raise DemoError(f"No host has made progress for {SILENCE_S} s; they were ended.") from None
        finally:
            for run in self._runs:
                if run.process is not None:
                    run.process.end(signal.SIGKILL, timeout_s=5)

    def _start(self, run: HostRun) -> None:
        def on_line(line: str) -> None:
            if line.startswith("{"):
                self._inbox.put((run, json.loads(line)))

        run.process = Process(HOST, self._environment, on_line, lambda code: self._inbox.put((run, code)))
        run.process.begin(run.task.to_json())
        self._running += 1

    def _reported(self, run: HostRun, report: Report) -> None:
        if run.killed is not None and not run.killed.resumed_ms:
            if run.process is not None and run.killed.pid != run.process.pid:
                run.killed.resumed_ms = report["first_ms"]
            else:
                run.killed.at_ms, run.killed.holds = report["now_ms"], report["holds"]
        run.last = report
        if run.kill_at is not None and run.minutes >= run.kill_at and run.process is not None:
            run.kill_at = None
            # At any point of a call, also between MongoDB and Redis: the event that then has no sender is recovered.
            time.sleep(random.uniform(0, KILL_WITHIN_S))
            run.killed = Killed(run.process.pid, report["now_ms"], report["holds"])
            run.process.send(signal.SIGKILL)

    def _ended(self, run: HostRun, exit_code: int) -> None:
        self._running -= 1
        process, run.process = run.process, None
        assert process is not None
        for name in SUMMED:
            run.before[name] += run.last.pop(name, 0)
        if run.killed is not None and run.killed.pid == process.pid:
            run.killed.exit_code = exit_code
            self._start(run)
        elif exit_code:
            run.failure = "\n".join(process.output) or f"exit code {exit_code}"
