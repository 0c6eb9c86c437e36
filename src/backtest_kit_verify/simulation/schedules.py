"""Schedules: random ones by seed, and the text in which any of them is printed and read back.

    write@a read@b | 0 1 crash:a tick restart 1

Left of the bar stands the workload, right of it what happens: a number is a step of that operation (counted from 0),
a word is a fault, with the operation (number), client (letter) or late duplicate (number) that it concerns.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple, TypeAlias

from backtest_kit_mongo.errors import InvariantViolation
from backtest_kit_verify.simulation import found
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
    KEEP,
    LAND,
    LEAVE,
    LOWER,
    REFUSE,
    RELAY,
    RESTART,
    RESTORE,
    RETRY,
    RETURN,
    SAVE,
    STALL,
    SUBJECTS,
    TICK,
    TIME_PASSES,
    TIMEOUT,
    UNKNOWN,
    VERBS,
    VOUCH,
    action_text,
    parse_action,
)
from backtest_kit_verify.simulation.checker import check, check_quiet
from backtest_kit_verify.simulation.workload import OPS_MAX, Op, Workload, parse_workload, workload_text
from backtest_kit_verify.simulation.world import World


class Schedule(NamedTuple):
    workload: Workload
    actions: tuple[int, ...]

    def __str__(self) -> str:
        return f"{workload_text(self.workload)} | {' '.join(map(action_text, self.actions))}"


def parse_schedule(text: str) -> Schedule:
    """Read what `str(schedule)` wrote.

    Raises:
        ValueError: it is no schedule; the message says why.
    """
    workload, bar, actions = text.partition("|")
    if not bar:
        raise ValueError("a schedule is a workload, a bar and what happens, for example: write@a read@b | 0 1 0 1 0 1")
    return Schedule(parse_workload(workload), tuple(map(parse_action, actions.split())))


Counterexample: TypeAlias = found.Counterexample[Schedule]


def play(world: World, schedule: Schedule) -> Counterexample | None:
    """Perform a schedule, leaving out what cannot happen at its place, and let the world come to rest at its end if all
    operations have ended.
    """
    world.reset(schedule.workload)
    done = []
    try:
        for action in schedule.actions:
            done.append(action)
            if not world.apply(action):
                done.pop()
        if not world.live:
            check_quiet(world)
    except InvariantViolation as error:
        return violation(error, schedule.workload, done)
    return None


def violation(error: InvariantViolation, workload: Workload, actions: Sequence[int]) -> Counterexample:
    return found.counterexample(error, Schedule(workload, tuple(actions)))


TIME = (TICK, TICK)
FAULTS = (
    (CRASH, CRASH, LAND),
    (TIMEOUT, TIMEOUT, DELIVER, DELIVER, RETURN),
    (RETRY, RETRY, RETRY, DELIVER, DELIVER),
    (UNKNOWN, UNKNOWN, LAND, LAND),
    (STALL, STALL, STALL, TICK, TICK, UNKNOWN, LAND),
    (STALL, STALL, STALL, STALL, TICK, TICK, TICK, TIMEOUT, CUT),
    (REFUSE,),
    (CUT, CUT, CUT, CUT, HEAL, HEAL, RETURN, RETURN, LOWER, RELAY),
    (CUT, CUT, CUT, HEAL, RETURN, *(KEEP,) * 9),
    (CUT, CUT, CUT, CRASH, CRASH, BURY, LAND, HEAL),
    (SAVE, SAVE, RESTART),
    (FLUSH,),
    (EVICT_ENTRY,),
    (EVICT_RIGHT,),
    (BACKUP, BACKUP, RESTORE),
)
"""Faults and what ends them; a verb is tried as often as it stands there."""
SLOW = (RETRY, STALL)
"""After these the operation is held up. A repetition succeeds first: only so does the original come last."""
FAULTS_AT_ONCE = (2, 3, 4)
"""How many of them a schedule draws from. A few at a time reach deeper than all of them together."""

CALM, USUAL, WILD = 0.0, 0.2, 0.45
"""Shares of disturbances in a schedule's actions."""
SHARES = (CALM, USUAL, USUAL, WILD)
STAYS = (0.0, 0.0, 0.5, 0.8)
"""How likely the next step is of the same operation as the last one: from all at once to one after the other."""
STALL_SHARE = 0.5
"""How likely one operation is held up for long."""
PATIENCE = 0.08
"""How likely a step of it happens all the same when its turn comes."""
LEFT_SHARE = 0.5
"""How likely an operation does not wait for the answer to what it need not wait for."""
DILIGENT = 0.6
"""How likely keepers prolong the token as soon as it ends."""
LATE_SHARE = 0.5
"""How likely what was sent, and nobody waits for, arrives after all operations have ended."""

DOCUMENT_OPS, LIST_OPS = (
    tuple(tuple(Op(kind, client) for client, kind in enumerate(pair * 2)) for pair in kinds)
    for kinds in (
        (*[("read", "read")] * 3, *[("write", "write")] * 2, ("remove", "delete")),
        (*[("merge", "merge")] * 2, ("put", "put")),
    )
)
"""Operations to draw from, by kind (some more likely than others) and client: each second one deletes for good."""


CANDIDATES = tuple(tuple(number for number in range(OPS_MAX) if live >> number & 1) for live in range(1 << OPS_MAX))
"""The numbers in a mask of operations."""


def random_verbs(random: Random, faults: bool, extra: Sequence[str] = ()) -> tuple[int, ...]:
    """Verbs to draw disturbances from. Without faults only time passes."""
    chosen = random.sample(FAULTS, random.choice(FAULTS_AT_ONCE)) if faults else []
    named = [VERBS.index(name) for name in extra]
    return (*TIME, *(verb for verbs in chosen for verb in verbs), *named)


def random_workload(random: Random, is_list: bool, ops_max: int = 6, clients_max: int = 4) -> Workload:
    """Two to `ops_max` operations of up to `clients_max` clients on one key."""
    draw = random.random
    count = 2 + int(draw() * (ops_max - 1))
    clients = 1 + int(draw() * clients_max)
    kinds = LIST_OPS if is_list else DOCUMENT_OPS
    kind_count = len(kinds)
    return tuple([kinds[int(draw() * kind_count)][int(draw() * clients)] for _ in range(count)])


def random_run(world: World, random: Random, verbs: Sequence[int], actions: list[int]) -> None:
    """Play the world to its end in an order that `random` chooses. What happens is appended to `actions`.

    Raises:
        InvariantViolation: the last action broke something.
    """
    draw, step, acts = random.random, world.step, world.acts
    share = SHARES[int(draw() * len(SHARES))]
    stay = 1 - (1 - share) * STAYS[int(draw() * len(STAYS))]
    count, verb_count, last, left, is_kept = len(world.steps), len(verbs), 0, world.rig.variant.left, draw() < DILIGENT
    stalled = int(draw() / STALL_SHARE * count)
    # The workload's order is as random as this one: begin in that order, and fewer states differ in nothing but names.
    candidates, began, live = CANDIDATES[1], 0, world.live
    while live:
        _keep(world, is_kept, actions)
        chance = draw()
        if chance >= share:
            action = last if chance >= stay and last in candidates else candidates[int(draw() * len(candidates))]
            if action == stalled and draw() > PATIENCE:
                if len(candidates) > 1:
                    action = candidates[action == candidates[0]]
                else:
                    action = TIME_PASSES
                    stalled = stalled if draw() < 0.7 else -1
            last = action
            if action < count and world.steps[action].kind in left and draw() < LEFT_SHARE:
                action += LEAVE * SUBJECTS
        else:
            action = verbs[int(chance / share * verb_count)] * SUBJECTS
            if action < TIME_PASSES:
                action += int(draw() * (len(world.late) if action == DELIVER * SUBJECTS else count))
                if action >> 4 in SLOW and acts[action >> 4](action & 15):
                    actions.append(action)
                    stalled = action & 15
                    action = stalled if action < STALL * SUBJECTS else TIME_PASSES
        actions.append(action)
        # As in `World.apply`, for one call less.
        if not (step(action) if action < SUBJECTS else acts[action >> 4](action & 15)):
            actions.pop()
            continue
        check(world)
        if world.begun != began or world.live != live:
            began, live = world.begun, world.live
            candidates = CANDIDATES[live & (2 << began.bit_length()) - 1]
    _arrive_late(world, random, actions)
    check_quiet(world)


def _keep(world: World, is_kept: bool, actions: list[int]) -> None:
    """Prolong the token as soon as it has ended."""
    if is_kept and not world.alive and world.vouch(0):
        actions.append(VOUCH * SUBJECTS)


def _arrive_late(world: World, random: Random, actions: list[int]) -> None:
    """All operations have ended; let some of what nobody waits for arrive."""
    for action in [*(LAND * SUBJECTS + number for number in world.sent), *([DELIVER * SUBJECTS] * len(world.late))]:
        if random.random() < LATE_SHARE:
            actions.append(action)
            world.apply(action)
