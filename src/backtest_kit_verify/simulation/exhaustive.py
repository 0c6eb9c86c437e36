"""Every order in which a small workload can happen, with every way to spend a budget of faults.

Two schedules that lead to the same situation have the same future, so each situation is visited once. What happens is
only restricted by the budgets: how many faults begin, how often time passes, and that Redis is saved once for each
restart, MongoDB for each restore. Faults end (a client reaches Redis again, a late step or write arrives, the worker
relays) at any time or never.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from backtest_kit_mongo.errors import InvariantViolation
from backtest_kit_verify.simulation.actions import (
    BACKUP,
    BURY,
    CRASH,
    CUT,
    DELIVER,
    EVICT_ENTRY,
    EVICT_RIGHT,
    FLUSH,
    HEAL,
    LAND,
    LEAVE,
    LOWER,
    OF_CLIENTS,
    OF_OPERATIONS,
    REFUSE,
    RELAY,
    RESTART,
    RESTORE,
    RETRY,
    RETURN,
    SAVE,
    SUBJECTS,
    TICK,
    TIMEOUT,
    UNKNOWN,
)
from backtest_kit_verify.simulation.checker import check_quiet
from backtest_kit_verify.simulation.schedules import Counterexample, violation
from backtest_kit_verify.simulation.situation import Frozen
from backtest_kit_verify.simulation.workload import KINDS, LIST, Rig, Workload
from backtest_kit_verify.simulation.world import World

Trace: TypeAlias = "tuple[int, Trace] | None"

ALL_FAULTS = (CRASH, CUT, TIMEOUT, RETRY, UNKNOWN, REFUSE, RESTART, FLUSH, EVICT_ENTRY, EVICT_RIGHT)


class Budget(NamedTuple):
    """What may still happen. `faults` counts those of the kinds in `Limits.kinds`."""

    faults: int
    ticks: int
    saves: int


@dataclass(frozen=True)
class Limits:
    """How much is tried.

    Attributes:
        kinds: the verbs of faults that may happen.
        leaves: COMMIT may be left.
        situations: give up after so many, before the memory is full.
    """

    faults: int = 1
    ticks: int = 3
    kinds: tuple[int, ...] = ALL_FAULTS
    leaves: bool = False
    situations: int = 1_000_000


class TooMany(Exception):
    """The limits allow more situations than `Limits.situations`."""


class Explored(NamedTuple):
    situations: int
    actions: int
    violation: Counterexample | None


def explore(rig: Rig, workload: Workload, limits: Limits = Limits()) -> Explored:
    """Visit every situation that the workload can get into, or stop at the first violation.

    Raises:
        TooMany: there are more situations than the limits allow.
    """
    with _no_cycles_are_looked_for():
        return _explore(World(rig, workload), workload, limits)


@contextmanager
def _no_cycles_are_looked_for() -> Iterator[None]:
    """Situations are many, live to the end and have no cycles: to look through them again and again takes a quarter
    of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _explore(world: World, workload: Workload, limits: Limits) -> Explored:
    budget = Budget(limits.faults, limits.ticks, limits.faults if {RESTART, RESTORE} & {*limits.kinds} else 0)
    todo: list[tuple[Frozen, Budget, Trace]] = [(world.freeze(), budget, None)]
    seen = {(todo[0][0], budget)}
    alike = _alike(workload)
    count = 0
    while todo:
        frozen, budget, trace = todo.pop()
        world.thaw(frozen)
        for action in list(_possible(world, budget, limits, alike)):
            count += 1
            try:
                if not world.apply(action):
                    continue
                if not world.live:
                    check_quiet(world)
            except InvariantViolation as error:
                return Explored(len(seen), count, violation(error, workload, _unrolled((action, trace))))
            after = _spent(budget, action)
            _simplify(world, after)
            situation, count_before = (world.freeze(), after), len(seen)
            seen.add(situation)  # Without asking first: to hash it takes longest.
            if len(seen) > count_before:
                todo.append((*situation, (action, trace)))
            world.thaw(frozen)
        if len(seen) > limits.situations:
            raise TooMany(f"more than {limits.situations:,} situations; use smaller limits")
    return Explored(len(seen), count, None)


def _possible(world: World, budget: Budget, limits: Limits, alike: tuple[int, ...]) -> Iterator[int]:
    """Actions to try. Some of them turn out not to be possible."""
    live = [number for number in range(len(world.steps)) if world.live >> number & 1]
    yield from (number for number in live if alike[number] < 0 or world.begun >> alike[number] & 1)
    if limits.leaves:
        yield from (LEAVE * SUBJECTS + one for one in live if world.steps[one].kind in world.rig.variant.left)
    yield from (LAND * SUBJECTS + number for number in world.sent)
    yield from (DELIVER * SUBJECTS + index for index in range(len(world.late)))
    if not live:
        return
    if world.down or max(world.wait) >= 0:
        verbs = (HEAL, RETURN, LOWER, BURY)
        yield from (verb * SUBJECTS + client for verb in verbs for client in set(world.client))
    yield RELAY * SUBJECTS
    if budget.ticks:
        yield TICK * SUBJECTS
    if budget.saves:
        yield (SAVE if RESTART in limits.kinds else BACKUP) * SUBJECTS
    if budget.faults:
        for verb in limits.kinds:
            if verb in OF_OPERATIONS:
                yield from (verb * SUBJECTS + number for number in live)
            elif verb in OF_CLIENTS:
                yield from (verb * SUBJECTS + client for client in {world.client[number] for number in live})
            else:
                yield verb * SUBJECTS


def _spent(budget: Budget, action: int) -> Budget:
    faults, ticks, saves = budget
    verb = action // SUBJECTS
    if verb == TICK:
        ticks -= 1
    elif verb in (SAVE, BACKUP):
        saves -= 1
    elif verb in ALL_FAULTS or verb == RESTORE:
        faults -= 1
    return Budget(faults, ticks, saves if faults else 0)


def _simplify(world: World, budget: Budget) -> None:
    """Forget what makes no difference any more."""
    if not budget.faults:
        world.saved = world.rig.redis.start
        world.kept = world.truth
    if world.rig.variant.deadline_in_command:
        world.forget_refused()
    if world.begun == (1 << len(world.steps)) - 1:
        world.returned = 0
        world.own = [0] * len(world.own)


def _alike(workload: Workload) -> tuple[int, ...]:
    """For each operation an earlier one that it could change places with, or -1: the earlier one may as well begin
    first.
    """
    clients = [op.client for op in workload]
    alone = [clients.count(op.client) == 1 for op in workload]
    found = []
    for number, op in enumerate(workload):
        twins = [other for other in range(number) if workload[other].kind == op.kind and alone[other]]
        found.append(twins[-1] if twins and alone[number] and KINDS[op.kind] is not LIST else -1)
    return tuple(found)


def _unrolled(trace: Trace) -> list[int]:
    actions = []
    while trace is not None:
        action, trace = trace
        actions.append(action)
    return actions[::-1]
