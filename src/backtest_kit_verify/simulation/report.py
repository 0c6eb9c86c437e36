"""A schedule as a story, for people: what happened, who asked what, and what Redis and MongoDB held then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rich.table import Table

from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence.record import Record
from backtest_kit_mongo.errors import InvariantViolation
from backtest_kit_mongo.terminal import escape
from backtest_kit_verify.simulation.actions import MEANING, SUBJECTS, VERBS, action_text
from backtest_kit_verify.simulation.checker import check_quiet
from backtest_kit_verify.simulation.driver import DONE, FAILED, Answer, Step
from backtest_kit_verify.simulation.schedules import Schedule
from backtest_kit_verify.simulation.workload import Rig
from backtest_kit_verify.simulation.world import CRASHED, World


class Line(NamedTuple):
    """One action of a schedule. `redis` and `rev` are what is held after it; `broken` says what it broke."""

    action: str
    what: str
    redis: str
    rev: int
    broken: str


def narrate(rig: Rig, schedule: Schedule) -> Iterator[Line]:
    """Tell what happens, up to the first violation. What cannot happen at its place is left out."""
    world = World(rig, schedule.workload)
    for action in schedule.actions:
        before = list(world.steps)
        broken = ""
        try:
            if not world.apply(action):
                continue
        except InvariantViolation as error:
            broken = str(error)
        yield _line(world, action_text(action), _what(world, action, before), broken)
        if broken:
            return
    if not world.live:
        try:
            check_quiet(world)
        except InvariantViolation as error:
            yield _line(world, "", "all is quiet; clients that were cut off are back", str(error))


def _line(world: World, action: str, what: str, broken: str) -> Line:
    return Line(action, what, str(world.redis_states.held[world.redis]), world.revs[world.truth], broken)


def _what(world: World, action: int, before: list[Step]) -> str:
    verb, subject = divmod(action, SUBJECTS)
    if verb:
        meaning = MEANING[VERBS[verb]]
        changed = [number for number, step in enumerate(before) if step is not world.steps[number]]
        return "; ".join([meaning, *(_reported(world, number, before[number]) for number in changed)])
    return _reported(world, subject, before[subject])


def _reported(world: World, number: int, before: Step) -> str:
    step = world.steps[number]
    story = f"{world.workload[number]}: {type(before.effect).__name__}"
    if step is CRASHED:
        return f"{story} is never answered"
    if step.answers:
        story += f" -> {_answer(step.answers[-1])}"
    if step.kind == DONE:
        story += f"; returns {_value(step.result)}"
    elif step.kind == FAILED:
        story += f"; ends with {type(step.result).__name__}"
    return story


def _answer(answer: Answer) -> str:
    return answer.error.__name__ if answer.error else _value(answer.value)


def _value(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case Record():
            return f"rev {value.rev}"
        case fx.Leased():
            return f"lease {value.token}"
        case fx.Right():
            return f"right {value.token}" if value.token else "no right"
        case tuple():
            return f"{len(value)} rows written"
        case Mapping():
            return f"{len(value)} rows"
    return "a snapshot"


def as_table(lines: list[Line]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "action", "what happens", "Redis then", "rev"):
        table.add_column(heading, justify="right" if heading in ("", "rev") else "left", overflow="fold")
    for number, line in enumerate(lines, 1):
        style = "red" if line.broken else None
        table.add_row(str(number), line.action, escape(line.what), escape(line.redis), str(line.rev), style=style)
    return table
