"""Kill bots at random moments, stop them until another takes over, and let the last one finish."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import Any, Final

import redis

import backtest_kit_mongo as bk
from backtest_kit_mongo.coherence.events import decode
from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_verify.bots.child import DONE, LOST, Task, start
from backtest_kit_verify.bots.desk import Desk
from backtest_kit_verify.bots.plan import LAST_MINUTES
from backtest_kit_verify.bots.verdict import Verdict, crashes, joined, judge
from backtest_kit_verify.made_up import START_MS

LIVES_MAX: Final = 10
"""Minutes that a bot lives before it is killed or stopped, at most."""

OnLine = Callable[[str], None]


@dataclass(slots=True)
class Outcome:
    """Attributes:
    late_writes: change events that a stopped process published after another had taken over.
    """

    kills: int = 0
    takeovers: int = 0
    late_writes: int = 0
    problems: list[str] = field(default_factory=list)
    verdict: Verdict | None = None


def run_lanes(tasks: Sequence[Task], kills: int, takeovers: int, on_line: OnLine) -> Outcome:
    """Campaigns beside one another, for most of each is waiting: kills and takeovers are dealt out to them."""
    count = len(tasks)
    with ProcessPoolExecutor(count, mp_context=get_context("fork")) as pool:
        lanes = [
            pool.submit(run_campaign, task, _share(kills, count, n), _share(takeovers, count, n), on_line)
            for n, task in enumerate(tasks)
        ]
        outcomes = [lane.result() for lane in lanes]
    return Outcome(
        sum(one.kills for one in outcomes),
        sum(one.takeovers for one in outcomes),
        sum(one.late_writes for one in outcomes),
        [problem for one in outcomes for problem in one.problems],
        joined(one.verdict for one in outcomes if one.verdict is not None),
    )


def _share(whole: int, count: int, number: int) -> int:
    return whole // count + (number < whole % count)


def run_campaign(task: Task, kills: int, takeovers: int, on_line: OnLine) -> Outcome:
    """Until all kills are done and what is open then has ended."""
    draw, outcome = random.Random(task.seed), Outcome()
    steps = ["kill"] * kills + ["stop"] * takeovers
    draw.shuffle(steps)
    for number, step in enumerate(steps):
        is_over = _kill(task, draw, outcome) if step == "kill" else _stop(task, draw, outcome)
        if number % 10 == 9:
            on_line(f"{task.seed}: {outcome.kills} kills, {outcome.takeovers} takeovers")
        if is_over:
            outcome.problems.append("the last minute was lived before all kills: give it more minutes")
            break
    desk = Desk(task.directory / "desk.sqlite", START_MS)
    task = replace(task, minutes=min(task.minutes, desk.end_in(LAST_MINUTES + 1, START_MS)))
    code = _code(_wait(start(task)))
    if code != DONE:
        outcome.problems.append(f"the last process ended with {code}")
    outcome.problems += crashes(task.directory)
    bk.setup(**task.settings)
    outcome.verdict = judge(task, desk)
    return outcome


def _kill(task: Task, draw: random.Random, outcome: Outcome) -> bool:
    """True: it had finished before."""
    pid = start(task)
    if draw.random() < 0.85:  # Mostly while it trades, sometimes while it starts.
        _live_some(task, pid, draw)
    time.sleep(draw.uniform(0.0, 0.4))
    os.kill(pid, signal.SIGKILL)
    outcome.kills += 1
    return _code(_wait(pid)) == DONE


def _live_some(task: Task, pid: int, draw: random.Random) -> None:
    """So many minutes of the bot, not seconds: a slow machine kills as many positions as a fast one."""
    minutes = draw.randint(1, LIVES_MAX)
    _until(lambda: _has_ticked(task, pid, minutes), 60.0)


def _stop(task: Task, draw: random.Random, outcome: Outcome) -> bool:
    """A sleeper, its successor, and what the sleeper does when it wakes."""
    begin = _newest(task)
    sleeper = start(task)
    _live_some(task, sleeper, draw)
    time.sleep(draw.uniform(0.0, 0.4))
    os.kill(sleeper, signal.SIGSTOP)
    successor = start(task)
    _until(lambda: _has_ticked(task, successor), 60.0)
    os.kill(sleeper, signal.SIGCONT)
    _until(lambda: _has_ended(sleeper), 60.0)
    if not _has_ended(sleeper):
        outcome.problems.append("a stopped process goes on although another took over, or none did")
        os.kill(sleeper, signal.SIGKILL)
    code = _code(_wait(sleeper))
    os.kill(successor, signal.SIGKILL)
    ended = _code(_wait(successor))
    outcome.takeovers += 1
    outcome.late_writes += _late_writes(task, begin, sleeper, successor)
    if code not in (LOST, DONE, -signal.SIGKILL):
        outcome.problems.append(f"a stopped process ended with {code}")
    return ended == DONE


def _has_ticked(task: Task, pid: int, minutes: int = 1) -> bool:
    """Whether the process has the lease and has lived so many minutes; also true when it has ended."""
    if _has_ended(pid):
        return True
    desk = Desk(task.directory / "desk.sqlite", START_MS)
    try:
        return desk.waited_by(pid) > minutes
    finally:
        desk.close()


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _until(holds: Callable[[], bool], patience_s: float) -> None:
    end_s = time.monotonic() + patience_s
    while not holds() and time.monotonic() < end_s:
        time.sleep(0.05)


def _wait(pid: int) -> int:
    return os.waitpid(pid, 0)[1]


def _code(status: int) -> int:
    return os.waitstatus_to_exitcode(status)


def _feed(task: Task) -> redis.Redis:
    return redis.Redis(host=task.settings["redis_host"], port=task.settings["redis_port"])


def _newest(task: Task) -> bytes:
    """The place of the newest change event."""
    with _feed(task) as client:
        entries: Any = client.xrevrange(streams(task.database, 1)[0], count=1)
    return entries[0][0] if entries else b"-"


def _late_writes(task: Task, begin: bytes, sleeper: int, successor: int) -> int:
    """How many writes of a process came after one of its successor to the same document.

    By revision, not by place in the stream: what it wrote before it fell asleep may be published when it wakes.
    """
    with _feed(task) as client:
        entries: Any = client.xrange(streams(task.database, 1)[0], min=begin)
    events = [decode(fields) for _, fields in entries]
    first: dict[str, int] = {}
    for event in events:
        if event.origin.process == successor:
            first[event.document] = min(event.rev, first.get(event.document, event.rev))
    return sum(event.origin.process == sleeper and event.rev > first.get(event.document, event.rev) for event in events)
