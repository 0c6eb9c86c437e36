"""The clients as processes: started, hurt, and started again."""

import json
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

from backtest_kit_verify.chaos.client import READY, Task
from backtest_kit_verify.chaos.errors import ChaosError
from backtest_kit_verify.children import Process

__all__ = ["CLIENT", "Fleet", "Member"]

CLIENT = (sys.executable, "-m", "backtest_kit_verify.chaos.client")
RESTART_S = 0.5
STOP_S = 60.0
POLL_S = 0.02
AUDIT_S = 180.0


@dataclass(slots=True, eq=False)
class Member:
    """One slot of the fleet and its process of the moment.

    Attributes:
        counts: what its processes reported, ended ones included in `before`.
        exited: exit code and CLOCK_MONOTONIC ns, set by the thread that reads its output.
    """

    task: Task
    process: Process | None = None
    is_ready: bool = False
    is_stopped: bool = False
    is_cut: bool = False
    is_doomed: bool = False
    exited: tuple[int, int] | None = None
    restart_at_s: float | None = None
    counts: dict[str, int] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)

    def on_line(self, line: str) -> None:
        if line.startswith("{"):
            self.counts = json.loads(line)
        elif line.strip() == READY:
            self.is_ready = True

    def total(self, name: str) -> int:
        return self.before.get(name, 0) + self.counts.get(name, 0)


class Fleet:
    """All clients of a run.

    Args:
        command: runs one of them; or what makes that of a slot.

    Attributes:
        killed_ns: when each killed process was gone, by the process's name.
        stopped_ns: when processes were stopped and resumed, by name; without an end those that were killed meanwhile.
        crashes: what clients said that ended by themselves.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        seed: str,
        command: Sequence[str] | Callable[[str], Sequence[str]],
        environment: dict[str, str],
    ) -> None:
        self.members = [Member(task) for task in tasks]
        self.killed_ns: dict[str, int] = {}
        self.stopped_ns: dict[str, list[tuple[int, float]]] = {}
        self.crashes: list[str] = []
        self._rng = random.Random(f"{seed}/fleet")
        self._command = command
        self._environment = environment

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            if member.process is not None:
                member.process.end(signal.SIGKILL, timeout_s=5)

    # -- life

    def start(self) -> None:
        for member in self.members:
            self._start(member)

    def _start(self, member: Member) -> None:
        def on_exit(code: int) -> None:
            member.exited = (code, time.monotonic_ns())

        member.is_ready = member.is_stopped = member.is_cut = member.is_doomed = False
        member.exited, member.restart_at_s = None, None
        command = self._command(member.task.slot) if callable(self._command) else self._command
        member.process = Process(command, self._environment, member.on_line, on_exit)
        member.process.begin(member.task.to_json())

    def tick(self) -> None:
        """Notice who ended, and start again who was killed."""
        now_s = time.monotonic()
        for member in self.members:
            if member.process is not None and member.exited is not None:
                self._ended(member, *member.exited)
            elif member.restart_at_s is not None and now_s >= member.restart_at_s:
                name = member.task.slot
                turn = member.task.turn + 1
                journal = Path(member.task.journal).with_name(f"{name}.{turn}.jsonl")
                member.task = replace(member.task, turn=turn, journal=str(journal))
                self._start(member)

    def _ended(self, member: Member, code: int, at_ns: int) -> None:
        process, member.process = member.process, None
        assert process is not None
        for name in member.counts:
            member.before[name] = member.total(name)
        member.counts = {}
        if member.is_doomed:
            self.killed_ns[member.task.name] = at_ns
            member.restart_at_s = time.monotonic() + self._rng.random() * RESTART_S
        elif code or member.task.role != "auditor":
            said = "\n".join(process.output)
            self.crashes.append(f"{member.task.name} ended by itself with exit code {code}:\n{said}")

    # -- harm

    def candidates(self, *, unhurt: bool) -> list[Member]:
        """Members that run; with `unhurt` neither stopped nor cut off."""
        return [
            member
            for member in self.members
            if member.process is not None
            and member.exited is None
            and member.is_ready
            and not member.is_doomed
            and not (unhurt and (member.is_stopped or member.is_cut))
        ]

    def kill(self, member: Member) -> None:
        member.is_doomed = True
        _send(member, signal.SIGKILL)

    def stop(self, member: Member, is_stopped: bool) -> None:
        member.is_stopped = is_stopped
        spans = self.stopped_ns.setdefault(member.task.name, [])
        if is_stopped:
            spans.append((time.monotonic_ns(), inf))
            _send(member, signal.SIGSTOP)
        else:
            _send(member, signal.SIGCONT)
            spans[-1] = (spans[-1][0], time.monotonic_ns())

    def cut(self, member: Member, is_cut: bool) -> None:
        member.is_cut = is_cut
        _send(member, signal.SIGUSR1 if is_cut else signal.SIGUSR2)

    @contextmanager
    def held(self) -> Iterator[None]:
        """All processes stand still, those that are starting too."""
        held = [one for one in self.members if one.process is not None and one.exited is None and not one.is_stopped]
        for member in held:
            self.stop(member, True)
        try:
            yield
        finally:
            for member in held:
                self.stop(member, False)

    def heal(self) -> None:
        """Nobody is stopped or cut off."""
        for member in self.members:
            if member.is_stopped:
                self.stop(member, False)
            if member.is_cut:
                self.cut(member, False)

    # -- the end

    def dismiss(self) -> None:
        """Let every client finish its call and deliver what it keeps for Redis. Precondition: none is being killed.

        Raises:
            ChaosError: one of them does not end.
        """
        for member in self.members:
            member.restart_at_s = None
            _send(member, signal.SIGTERM)
        for member in self.members:
            process, member.process = member.process, None
            if process is None:
                continue
            # Not SIGTERM once more: an interpreter that is about to exit no longer handles it.
            code = process.end(signal.SIGCONT, STOP_S)
            said = "\n".join(process.output)
            if code == -signal.SIGKILL:
                raise ChaosError(f"{member.task.name} did not stop within {STOP_S:g} s:\n{said}")
            if code:
                self.crashes.append(f"{member.task.name} stopped with exit code {code}:\n{said}")

    def audit(self, task: Task) -> None:
        """Run one more process to its end, one that reads everything.

        Raises:
            ChaosError: it fails or hangs.
        """
        auditor = Member(task)
        self.members.append(auditor)
        self._start(auditor)
        deadline_s = time.monotonic() + AUDIT_S
        while auditor.exited is None:
            if time.monotonic() > deadline_s:
                raise ChaosError(f"reading everything back took more than {AUDIT_S:g} s")
            time.sleep(POLL_S)
        self._ended(auditor, *auditor.exited)


def _send(member: Member, number: signal.Signals) -> None:
    if member.process is not None:
        member.process.send(number)
