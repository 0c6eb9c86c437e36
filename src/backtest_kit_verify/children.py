"""Child processes whose output is read while they run."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

__all__ = ["Process"]

KEPT_LINES: Final = 15


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
