"""A failure of the near cache's simulator: the shortest schedule that breaks the same promise, and its story."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from backtest_kit_mongo.errors import InvariantViolation
from backtest_kit_verify.simulation import found
from backtest_kit_verify.simulation.near import ACTS, World
from backtest_kit_verify.simulation.near_campaign import (
    MEANING,
    OF_OPERATIONS,
    Counterexample,
    Schedule,
    action_text,
    parse_action,
    play,
)
from backtest_kit_verify.simulation.near_process import SHIPPED, Heartbeat, Invalidation, Variant
from backtest_kit_verify.simulation.report import Line


def shrink(broken: Counterexample, variant: Variant = SHIPPED) -> Counterexample:
    """Leave out stretches of actions, single actions and operations for as long as the same promise breaks."""
    return found.shrink(broken, partial(play, variant=variant), _smaller)


def _smaller(schedule: Schedule) -> Iterator[Schedule]:
    workload, actions = schedule
    for fewer in found.without_a_stretch(actions):
        yield Schedule(workload, fewer)
    for number in range(len(workload)):
        if len(workload) > 1:
            yield _without_operation(schedule, number)


def _without_operation(schedule: Schedule, dropped: int) -> Schedule:
    actions = tuple(
        (verb, subject - (verb in OF_OPERATIONS and subject > dropped))
        for verb, subject in schedule.actions
        if verb not in OF_OPERATIONS or subject != dropped
    )
    return Schedule(schedule.workload[:dropped] + schedule.workload[dropped + 1 :], actions)


def narrate(schedule: Schedule, variant: Variant = SHIPPED) -> Iterator[Line]:
    """Tell what happens, up to the first violation. What cannot happen at its place is left out."""
    world = World(schedule.workload, variant)
    acts = [(action_text(action), partial(ACTS[action[0]], world, action[1])) for action in schedule.actions]
    for text, act in acts:
        what, broken = _about(world, text), ""
        try:
            if not act():
                continue
        except InvariantViolation as error:
            broken = str(error)
        yield _line(world, text, what, broken)
        if broken:
            return
    if all(run.has_ended for run in world.runs):
        try:
            world.check_quiet()
        except InvariantViolation as error:
            yield _line(world, "", "all is quiet, everybody is back, everything is heard", str(error))


def _about(world: World, text: str) -> str:
    """What the next action is about, as it is before it."""
    verb, subject = parse_action(text, len(world.runs))
    if verb in OF_OPERATIONS:
        run = world.runs[subject]
        first = "begins" if run.op.kind == "read" else "Lease"
        asked = first if run.effect is None else type(run.effect).__name__
        return f"{run.op}: {asked}{'' if verb == 'step' else f', {MEANING[verb]}'}"
    if verb in ("hear", "lose"):
        queue = world.processes[subject].queue
        return f"{MEANING[verb]}: {_message(queue[0])}" if queue else MEANING[verb]
    return MEANING[verb]


def _message(message: Invalidation | Heartbeat) -> str:
    if isinstance(message, Invalidation):
        return f"invalidation {message.number} of {message.key.item}"
    return f"heartbeat asked at {message.asked}, numbers are at {message.number}"


def _line(world: World, text: str, what: str, broken: str) -> Line:
    entries = [
        f"{key.item} rev {record.rev}"
        for key, (incarnation, record) in world.redis.entries.items()
        if incarnation == world.redis.incarnation
    ]
    copies = [
        f"{process.name} has {key.item} rev {copy.rev}{'' if process.get(key) else ' (not served)'}"
        for process in world.processes
        for key, copy in process.copies._copies.items()
    ]
    held = f"at {world.redis.now_ms}: entries {', '.join(entries) or 'none'}; {', '.join(copies) or 'no copies'}"
    return Line(text, what, held, max(len(history) for history in world.truth.history.values()) - 1, broken)
