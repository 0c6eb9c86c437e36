"""The processes of the demo: hosts that are started, watched, killed and restarted, and the worker."""

import json
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backtest_kit_verify.demo.errors import DemoError
from backtest_kit_verify.demo.trader import Task

__all__ = ["WORKER", "Fleet", "HostRun", "Killed", "Process"]

TRADER = (sys.executable, "-m", "backtest_kit_verify.demo.trader")
WORKER = (sys.executable, "-m", "backtest_kit_worker")
KILL_WITHIN_S = 0.05
SILENCE_S = 60
"""A fleet that says nothing for so long hangs."""
KEPT_LINES = 15
RESTART_PAUSE_S = 1.0

Report = dict[str, Any]
SUMMED = ("seconds", "reads", "writes", "compared", "mismatched", "hits", "misses")


class Process:
    """A child process whose output is read by a thread.

    Args:
        on_line: takes each line of its output; the last ones are also kept in `output`, for an error message.
        on_exit: takes the exit code, after the last line.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        on_line: Callable[[str], None] = lambda line: None,
        on_exit: Callable[[int], None] = lambda code: None,
    ) -> None:
        self.output: deque[str] = deque(maxlen=KEPT_LINES)
        self._on_line = on_line
        self._on_exit = on_exit
        self._popen = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def begin(self, task: str = "") -> None:
        """Hand over the task and listen."""
        assert self._popen.stdin is not None
        try:
            with self._popen.stdin as pipe:
                pipe.write(task)
        except BrokenPipeError:
            pass  # It is dead already; its exit code tells.
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as lines:
            for line in lines:
                self.output.append(line.rstrip())
                self._on_line(line)
        self._on_exit(self._popen.wait())

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def end(self, number: signal.Signals, timeout_s: float) -> int:
        """Send a signal and wait; SIGKILL after the timeout. The exit code."""
        self.send(number)
        try:
            code = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            code = self._popen.wait()
        self._reader.join(timeout_s)
        return code


@dataclass(slots=True)
class Killed:
    """A process that was killed on purpose; `resumed_at` is the bar on which the next one went on."""

    pid: int
    after_bars: int
    exit_code: int
    resumed_at: int | None = None


@dataclass(slots=True)
class HostRun:
    """One host over all its processes.

    Attributes:
        last: the latest report of the running process; `before` the sums over those that ended.
        failure: what a process said that ended by itself with an error, and was not started again.
        failures: the same of those that were.
    """

    task: Task
    bars_total: int
    process: Process | None = None
    last: Report = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMMED, 0.0))
    mismatches: list[str] = field(default_factory=list)
    killed: Killed | None = None
    failure: str = ""
    failures: list[str] = field(default_factory=list)
    is_doomed: bool = False

    @property
    def bars(self) -> int:
        return int(self.last.get("bars", 0))

    def total(self, name: str) -> float:
        return float(self.before[name] + self.last.get(name, 0))

    def fold(self) -> None:
        """Move the numbers of a process that ended to the sums."""
        for name in SUMMED:
            self.before[name] += self.last.pop(name, 0)
        self.mismatches += self.last.pop("mismatches", [])


class Fleet:
    """All hosts at once.

    Args:
        kill_at: this share of its bars done, the first host is killed and started again.
        restarts: how often hosts that failed are started again, in all. What a host can do about a server that is away
            for longer than its patience is to end; whoever watches over it starts it again.
    """

    def __init__(
        self, runs: Sequence[HostRun], environment: Mapping[str, str], kill_at: float | None, restarts: int = 0
    ) -> None:
        self._runs = runs
        self._environment = environment
        self._kill_at = kill_at
        self._restarts = restarts
        self._inbox: queue.Queue[tuple[HostRun, Report | int]] = queue.Queue()
        self._running = 0

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        for run in self._runs:
            if run.process is not None:
                run.process.end(signal.SIGKILL, timeout_s=5)

    def run(self, on_progress: Callable[[HostRun], None]) -> None:
        """Start all hosts and wait until they have ended.

        Raises:
            DemoError: none of them says anything any more.
        """
        for run in self._runs:
            self._start(run)
        while self._running:
            try:
                run, report = self._inbox.get(timeout=SILENCE_S)
            except queue.Empty:
                raise DemoError(f"No host has made progress for {SILENCE_S} s; they were ended.") from None
            if isinstance(report, int):
                self._ended(run, report)
            else:
                self._reported(run, report)
            on_progress(run)

    def _start(self, run: HostRun) -> None:
        def on_line(line: str) -> None:
            if line.startswith("{"):
                self._inbox.put((run, json.loads(line)))

        run.process = Process(TRADER, self._environment, on_line, lambda code: self._inbox.put((run, code)))
        run.process.begin(run.task.to_json())
        self._running += 1

    def _reported(self, run: HostRun, report: Report) -> None:
        if run.killed is not None and run.killed.resumed_at is None:
            run.killed.resumed_at = report["first"]
        run.last = report
        if self._kill_at is not None and run is self._runs[0] and run.bars >= self._kill_at * run.bars_total:
            self._kill_at = None
            run.is_doomed = True
            assert run.process is not None
            # At any point of a call, also between MongoDB and Redis: the event that then has no sender is recovered.
            time.sleep(random.uniform(0, KILL_WITHIN_S))
            run.process.send(signal.SIGKILL)

    def _ended(self, run: HostRun, exit_code: int) -> None:
        self._running -= 1
        process, run.process = run.process, None
        assert process is not None
        run.fold()
        if run.is_doomed:
            run.is_doomed = False
            run.killed = Killed(process.pid, run.bars, exit_code)
            self._start(run)
        elif exit_code:
            failure = "\n".join(process.output) or f"exit code {exit_code}"
            if not self._restarts:
                run.failure = failure
                return
            self._restarts -= 1
            run.failures.append(failure)
            time.sleep(RESTART_PAUSE_S)
            self._start(run)
