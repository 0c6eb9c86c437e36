"""Every order in which a small workload of the near cache's simulator can happen, with a budget of everything else.

Two schedules that lead to the same situation have the same future, so each situation is visited once. A situation is
reached again by playing the schedule that led to it: plans under way cannot be copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple, TypeAlias

from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence.near import Copies, Fetch
from backtest_kit_mongo.coherence.record import Record
from backtest_kit_mongo.errors import InvariantViolation
from backtest_kit_verify.simulation.exhaustive import TooMany
from backtest_kit_verify.simulation.near import ACTS, STALENESS_TICKS, World
from backtest_kit_verify.simulation.near_campaign import OF_OPERATIONS, OF_PROCESSES, Action, Counterexample, violation
from backtest_kit_verify.simulation.near_process import SHIPPED, Process, Run, Variant, Workload

Content: TypeAlias = tuple[Any, ...]

ALL_FAULTS = (
    "timeout", "unknown", "refuse", "lose", "break", "lost", "evict-copy", "cut", "crash", "restart", "flush",
    "evict-entry", "evict-right",
)  # fmt: skip
ENDS = ("heal", "land", "relay")
"""What ends them: at any time, or never."""


@dataclass(frozen=True)
class Limits:
    """How much is tried.

    Attributes:
        faults: how many of the verbs in `kinds` may happen.
        ticks, heartbeats: how often time may pass, and heartbeats may be asked for.
        subscribers: numbers of the processes whose hearing is tried; others hear nothing before the end.
        situations: give up after so many, before the memory is full.
    """

    faults: int = 1
    ticks: int = 2
    heartbeats: int = 1
    kinds: tuple[str, ...] = ALL_FAULTS
    subscribers: tuple[int, ...] = (1,)
    situations: int = 1_000_000


class Explored(NamedTuple):
    situations: int
    violation: Counterexample | None


Budget: TypeAlias = tuple[int, int, int]
"""Ticks, heartbeats and faults that may still happen."""


def explore(workload: Workload, limits: Limits, variant: Variant = SHIPPED) -> Explored:
    """Visit every situation that the workload can get into, or stop at the first violation.

    Raises:
        TooMany: there are more situations than the limits allow.
    """
    world = World(workload, variant)
    budget = (limits.ticks, limits.heartbeats, limits.faults)
    seen = {(content_of(world), budget)}
    todo: list[tuple[tuple[Action, ...], Budget, Action]] = [
        ((), budget, action) for action in _possible(world, budget, limits)
    ]
    played: tuple[Action, ...] = ()
    while todo:
        before, budget, action = todo.pop()
        if before != played:
            world = World(workload, variant)
            for earlier in before:
                ACTS[earlier[0]](world, earlier[1])
        played = (*before, action)
        try:
            if not ACTS[action[0]](world, action[1]):
                played = before
                continue
            after = _spent(budget, action, limits)
            situation = (content_of(world), after)
            if situation in seen:
                continue
            seen.add(situation)
            if all(run.has_ended for run in world.runs):
                # Nobody is left to read. What is checked now is not what may follow, so this world is of no more use.
                todo.extend((played, after, ("land", 0)) for _ in world.flying[:1])
                world.check_quiet()
                world, played = World(workload, variant), ()
                continue
        except InvariantViolation as error:
            return Explored(len(seen), violation(error, workload, played))
        if len(seen) > limits.situations:
            raise TooMany(f"more than {limits.situations:,} situations; use smaller limits")
        todo.extend((played, after, following) for following in _possible(world, after, limits))
    return Explored(len(seen), None)


def _possible(world: World, budget: Budget, limits: Limits) -> Iterator[Action]:
    """Actions to try. Some of them turn out not to be possible."""
    ticks, heartbeats, faults = budget
    live = [run for run in world.runs if not run.has_ended]
    # Of operations that are alike, the first one may as well begin first.
    waiting = {run.op: run.number for run in reversed(live) if run.plan is None}
    yield from (("step", run.number) for run in live if run.plan is not None or waiting[run.op] == run.number)
    yield from (("leave", run.number) for run in live if isinstance(run.effect, fx.Commit))
    yield from (("settle", number) for number, process in enumerate(world.processes) if process.link.left)
    yield from (("hear", subscriber) for subscriber in limits.subscribers if world.processes[subscriber].queue)
    if ticks:
        yield ("tick", 0)
    if heartbeats:
        yield from (("ask", subscriber) for subscriber in limits.subscribers)
    for verb in (*(limits.kinds if faults else ()), *(ENDS if limits.faults else ())):
        if verb in OF_OPERATIONS:
            yield from ((verb, run.number) for run in live if run.plan is not None)
        else:
            yield from ((verb, subject) for subject in range(len(world.processes) if verb in OF_PROCESSES else 1))


def _spent(budget: Budget, action: Action, limits: Limits) -> Budget:
    ticks, heartbeats, faults = budget
    verb = action[0]
    return ticks - (verb == "tick"), heartbeats - (verb == "ask"), faults - (verb in limits.kinds)


# -- situations as values: everything that the future depends on, with times relative to now


def content_of(world: World) -> Content:
    redis, now = world.redis, world.redis.now_ms
    return (
        redis.incarnation,
        redis.born and (redis.born[0], max(redis.born[1] - now, -9)),
        tuple(redis.numbers.values()),
        tuple((key.item, incarnation, record.rev) for key, (incarnation, record) in redis.entries.items()),
        tuple(redis.rights.values()),
        tuple((token, max(end - now, -1)) for leases in redis.leases.values() for token, end in leases.items()),
        tuple(stored.body for history in world.truth.history.values() for stored in history),
        tuple(_process(process, now) for process in world.processes),
        tuple(_run(run, now) for run in world.runs),
        tuple((type(effect), _deadline(effect, now)) for effect in world.flying),
        _promised(world)
        if any(run.op.kind == "read" and run.plan is None and not run.has_ended for run in world.runs)
        else (),
    )


def _promised(world: World) -> Content:
    """What reads that have not begun must see."""
    now = world.redis.now_ms
    old = now - STALENESS_TICKS
    return (
        tuple(
            (stored.bypassed, _age(stored.returned, old, now), _age(stored.reported, old, now))
            for history in world.truth.history.values()
            for stored in history
        ),
        tuple((tuple(process.seen.items()), tuple(process.written.items())) for process in world.processes),
    )


def _run(run: Run, now: int) -> Content:
    if run.has_ended:
        return ()
    return (run.plan is not None, run.floors, tuple(_answer(answer, now) for answer in run.answers))


def _age(moment: float, old: float, now: int) -> float:
    return -inf if moment < old else moment - now


def _deadline(effect: Any, now: int) -> int | None:
    return None if effect.deadline_s is None else round(effect.deadline_s * 1000) - now


def _answer(answer: Any, now: int) -> Any:
    match answer:
        case fx.Leased():
            return answer.token, round(answer.deadline_s * 1000) - now
        case fx.Right():
            return answer.token
        case Record():
            return answer.rev
        case Fetch():
            return None
        case _:
            return type(answer)


def _process(process: Process, now: int) -> Content:
    queue = tuple((type(said), said.number, _said(said, now)) for said in process.queue)
    missed = tuple(key.item for key in process.link.missed)
    left = tuple((effect.key.item, effect.token, effect.entry.rev) for effect in process.link.left)
    return process.is_alive, process.link.is_down, missed, left, queue, _copies(process.copies, now)


def _said(message: Any, now: int) -> Any:
    return message.key.item if hasattr(message, "key") else (message.asked - now, message.incarnation)


def _copies(copies: Copies, now: int) -> Content:
    states = list(copies._states.values())

    def place(state: Any) -> int:
        return next((number for number, current in enumerate(states) if current is state), -1)

    return (
        tuple((state.incarnation, state.number, max(state.fresh_until_s - now, -1)) for state in states),
        tuple((key.item, copy.rev, place(copy.state)) for key, copy in copies._copies.items()),
        tuple(
            (key.item, place(fetch.state), fetch.floor, fetch.may_keep)
            for key, fetches in copies._fetches.items()
            for fetch in fetches
        ),
    )
