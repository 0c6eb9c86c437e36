"""The shortest schedule that still breaks the same invariant."""

from __future__ import annotations

from collections.abc import Iterator

from backtest_kit_verify.simulation.actions import OF_OPERATIONS, SUBJECTS
from backtest_kit_verify.simulation.found import without_a_stretch
from backtest_kit_verify.simulation.schedules import Counterexample, Schedule, play
from backtest_kit_verify.simulation.workload import Rig
from backtest_kit_verify.simulation.world import World


def shrink(rig: Rig, found: Counterexample) -> Counterexample:
    """Leave out operations, stretches of actions and single actions for as long as the same invariant breaks.

    `play` skips what has become impossible, so any part of a schedule is a schedule.
    """
    world = World(rig, found.schedule.workload)
    best = found
    shorter: Counterexample | None = found
    while shorter is not None:
        best = shorter
        shorter = next(
            filter(None, (_fails(world, found.name, best, smaller) for smaller in _smaller(best.schedule))), None
        )
    return best


def _fails(world: World, name: str, best: Counterexample, schedule: Schedule) -> Counterexample | None:
    found = play(world, schedule)
    if found is None or found.name != name or _size(found.schedule) >= _size(best.schedule):
        return None
    return found


def _size(schedule: Schedule) -> tuple[int, int]:
    return len(schedule.workload), len(schedule.actions)


def _smaller(schedule: Schedule) -> Iterator[Schedule]:
    workload, actions = schedule
    for number in range(len(workload) if len(workload) > 1 else 0):
        yield _without_operation(schedule, number)
    for fewer in without_a_stretch(actions):
        yield Schedule(workload, fewer)


def _without_operation(schedule: Schedule, dropped: int) -> Schedule:
    actions = []
    for action in schedule.actions:
        verb, subject = divmod(action, SUBJECTS)
        if verb not in OF_OPERATIONS:
            actions.append(action)
        elif subject != dropped:
            actions.append(action - (subject > dropped))
    workload = schedule.workload[:dropped] + schedule.workload[dropped + 1 :]
    return Schedule(workload, tuple(actions))
