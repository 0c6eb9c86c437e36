"""A stop after every effect of a run, each followed by a restart in the same minute and in a later one; also with a
broker that refuses an order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from math import isclose
from typing import Any, Final, NamedTuple

from backtest_kit.effects import Gate, Next
from backtest_kit.rules import Rules
from backtest_kit_verify.engine.process import Process
from backtest_kit_verify.engine.world import Executed, Market, Reported, Row, World, client_order_id

DELAYS: Final = (1, 2, 1, 12, 1, 2, 1, 45)
"""Minutes that a late restart comes late, in turn."""
AGAIN: Final = 16
"""A restarted process is stopped again after 1, 2 .. effects, at most so many."""
AROUND_REFUSAL: Final = 2
"""Minutes in which a process is stopped after an order was refused, that of the refusal among them."""
LATEST: Final = max(DELAYS) + 3
"""Minutes after a stop in which its restarts end."""


@dataclass(slots=True)
class Moment:
    """An undisturbed run at the end of a minute."""

    state: Row
    rows: Row
    kept_rows: Row
    risk: Sequence[Any]
    reported_count: int


@dataclass(slots=True)
class Reference:
    """An undisturbed run.

    Attributes:
        moments: by minute.
        proposed: minute in which each signal was accepted, by id.
    """

    moments: dict[int, Moment] = field(default_factory=dict)
    reported: dict[str, Reported] = field(default_factory=dict)
    orders: dict[str, Executed] = field(default_factory=dict)
    proposed: dict[str, int] = field(default_factory=dict)


class Stop(NamedTuple):
    """Attributes:
    minute: that was reported last.
    delay: minutes from there to the restart.
    again: the restarted process is stopped as well, after so many effects, and started once more; 0: it is not.
    """

    minute: int
    delay: int
    again: int


@dataclass(slots=True)
class Tally:
    """Attributes:
    points: places at which a process was stopped.
    restarts: from them.
    lost: restarts that lost an answer of the strategy.
    refused: orders that the broker refused, one at a time.
    """

    vectors: int = 0
    refused: int = 0
    points: int = 0
    restarts: int = 0
    lost: int = 0
    violations: list[str] = field(default_factory=list)


def essence(process: Process) -> dict[str, Any]:
    """The state without the bookkeeping of time."""
    row = dict(process.state.to_rows()["strategy"] or {})
    engine = dict(row.pop("engine"))
    del engine["asOf"], engine["servedSlot"]
    return {**row, "engine": engine}


def readers_rows(world: World) -> dict[Any, Any]:
    """The rows that are derived from the state."""
    return {name: row for name, row in world.rows.items() if name[0] != "strategy"}


def undisturbed(market: Market, rules: Rules, process_class: type[Process], world: World | None = None) -> Reference:
    """Args:
    world: where it begins, at the market's start; by default a new one.
    """
    world, reference = world or World(), Reference()
    process = process_class(world, market, rules, market.start)
    while process.lived < market.end:
        effect = process.step()
        if isinstance(effect, Next) and process.lived >= market.start:
            reference.moments[process.lived] = Moment(
                essence(process), readers_rows(world), dict(world.kept_rows), world.risk, len(world.reported)
            )
    reference.reported, reference.orders = world.reported, world.orders
    # What the broker refused at once has no row of the history.
    reference.proposed = {one.signal: market.index(one.at) for one in world.reported.values()}
    reference.proposed |= {id_: market.index(row["scheduledAt"]) for id_, row in world.kept_rows.items()}
    return reference


def crash_everywhere(
    vector: Row,
    rules: Rules,
    tally: Tally,
    *,
    every: int = 1,
    last: int | None = None,
    process_class: type[Process] = Process,
) -> None:
    """Stop after every `every`-th effect of the vector's life, until a violation is found.

    Args:
        last: only so many minutes of it.
    """
    market = _market(vector, rules, last)
    trial = Trial(market, rules, undisturbed(market, rules, process_class), process_class, tally)
    tally.vectors += 1
    trial.stop_everywhere(World(), market.end - LATEST, every, f"vector {vector.get('seed', tally.vectors)}")


def refuse_everywhere(
    vector: Row,
    rules: Rules,
    tally: Tally,
    *,
    every: int = 1,
    last: int | None = None,
    process_class: type[Process] = Process,
) -> None:
    """Have every `every`-th order of the vector's life refused, each in a run of its own that begins in the minute of
    the order and is stopped after every effect, until a violation is found.
    """
    market = _market(vector, rules, last)
    world = World()
    process = process_class(world, market, rules, market.start)
    before, count = world.copy(), 0
    tally.vectors += 1
    while process.next_index < market.end - LATEST - AROUND_REFUSAL and not tally.violations:
        effect = process.step()
        if isinstance(effect, Next):
            before = world.copy()
        elif isinstance(effect, Gate):
            count += 1
            if count % every == 0:
                name = f"vector {vector.get('seed', tally.vectors)}, the broker refuses its order {count}"
                refused = replace(before.copy(), refused=frozenset({client_order_id(effect.order)}))
                _refuse(market, rules, tally, process_class, refused, process.next_index - 1, name)


def _refuse(
    market: Market, rules: Rules, tally: Tally, process_class: type[Process], world: World, minute: int, name: str
) -> None:
    around = copy(market)
    around.start, around.end = minute, minute + AROUND_REFUSAL + LATEST
    tally.refused += 1
    trial = Trial(around, rules, undisturbed(around, rules, process_class, world.copy()), process_class, tally)
    trial.stop_everywhere(world, minute + AROUND_REFUSAL, 1, name)


def _market(vector: Row, rules: Rules, last: int | None) -> Market:
    market = Market(vector, rules)
    market.end = min(market.end, market.start + last) if last else market.end
    return market


@dataclass(frozen=True, slots=True)
class Trial:
    """A vector, its undisturbed run, and what is restarted."""

    market: Market
    rules: Rules
    reference: Reference
    process_class: type[Process]
    tally: Tally

    def start(self, world: World, now: int) -> Process:
        self.tally.restarts += 1
        return self.process_class(world, self.market, self.rules, now)

    def stop_everywhere(self, world: World, until: int, every: int, name: str) -> None:
        """Live in `world` until minute `until` is over, and stop after every `every`-th effect."""
        tally, process = self.tally, self.process_class(world, self.market, self.rules, self.market.start)
        count, tried = 0, (-1, -1)
        while process.lived < until and not tally.violations:
            effect = process.step()
            count += 1
            if count % every:
                continue
            tally.points += 1
            if (world.version, process.next_index) == tried:
                continue  # Nothing changed since the last stop: a restart would find the same.
            tried = world.version, process.next_index
            number = count // every
            restarts = [(0, 0), (DELAYS[number % len(DELAYS)], 0)]
            if not number % 3:
                restarts.append((0, 1 + number % AGAIN))
            for delay, again in restarts:
                found = list(self.violations(world, Stop(process.next_index - 1, delay, again)))
                where = f"{name}, stopped after effect {count} {effect!r:.90}"
                restart = (
                    f"restarted {delay} minutes later, stopped again after {again} effects" if again else f"+{delay}"
                )
                tally.violations += [f"{where}, {restart}: {violation}" for violation in found]

    def violations(self, world: World, stop: Stop) -> Iterator[str]:
        """Restart on a copy of the world, live to the end of the minute after the present one, and look."""
        stopped_at = max(stop.minute, self.market.start)
        process = self.start(world.copy(), stopped_at + stop.delay)
        if stop.again:
            for _ in range(stop.again):
                process.step()
            process = self.start(process.world, max(process.now, process.next_index - 1))
        until = process.now + 1
        process.live(until)
        yield from process.world.violations
        yield from _alone(process)
        known = {*process.world.kept_rows, *(reported.signal for reported in process.world.reported.values())}
        proposed = self.reference.proposed.items()
        lost = {id_ for id_, minute in proposed if stopped_at <= minute < until and id_ not in known}
        if lost:
            self.tally.lost += 1
            yield from _without_trace(process, lost)
        else:
            yield from _equal(process, self.reference.moments[until], self.reference, self.market.at(until))


def _alone(process: Process) -> Iterator[str]:
    """What must hold whatever happened."""
    world, state = process.world, process.state
    signal, schedule = world.rows.get(("signal", "")), world.rows.get(("schedule", ""))
    if (state.signal and state.schedule) or (signal and schedule):
        yield "L1: a signal is open and one is scheduled"
    held = state.held.id if state.held else None
    for id_, row in world.kept_rows.items():
        if row["status"] in ("opened", "scheduled") and id_ != held:
            yield f"L3: the history says that {id_} is {row['status']}, and it is not held"
    yield from _executed(process)
    places = [row["openTimestamp"] for _, row in world.risk]
    if places != ([state.signal.pending_at] if state.signal else []):
        yield f"L7: places of {places} are taken, open is {state.signal and state.signal.pending_at}"


def _executed(process: Process) -> Iterator[str]:
    """What the broker executed is what is held: all of it of the open position, nothing of others."""
    signal, bought = process.state.signal, defaultdict[str, float](float)
    for order in process.world.orders.values():
        bought[order.signal] += order.cost if order.action in ("open", "average") else -order.cost
    if signal is not None:
        held, basis = signal.remaining(), bought.pop(signal.id, 0.0)
        if not isclose(held, basis, rel_tol=1e-9, abs_tol=1e-6):
            yield f"L2: {held:g} of {signal.id} are held, and the broker executed {basis:g}"
    for id_, rest in bought.items():
        if abs(rest) > 1e-6:
            yield f"L2: of {id_}, which is not held, {rest:g} are left at the broker"


def _equal(process: Process, moment: Moment, reference: Reference, until: int) -> Iterator[str]:
    """What an undisturbed run has at the end of the same minute."""
    world = process.world
    if world.kept_rows != moment.kept_rows:
        yield f"L3: the history differs: {_differing(world.kept_rows, moment.kept_rows)}"
    if essence(process) != moment.state:
        yield f"L4: the state differs: {_differing(essence(process), moment.state)}"
    if readers_rows(world) != moment.rows:
        yield f"L4: the readers' rows differ: {_differing(readers_rows(world), moment.rows)}"
    if list(world.risk) != list(moment.risk):
        yield f"L7: the risk's rows differ: {world.risk}, not {moment.risk}"
    executed = [order for order in reference.orders.values() if order.at <= until]
    if sorted(world.orders.values()) != sorted(executed):
        yield f"L2: the broker's orders differ: {set(world.orders.values()) ^ set(executed) or 'one was sent twice'}"
    if len(world.reported) != moment.reported_count or not world.reported.items() <= reference.reported.items():
        expected = {id_: reported for id_, reported in reference.reported.items() if reported.at <= until}
        yield f"L5: events differ: {_differing(world.reported, expected)}"


def _without_trace(process: Process, lost: set[str]) -> Iterator[str]:
    """A signal whose proposal was lost exists nowhere."""
    world = process.world
    for law, signals in (
        ("L2: an order", [order.signal for order in world.orders.values()]),
        ("L5: an event", [reported.signal for reported in world.reported.values()]),
        ("L3: a row", world.kept_rows),
    ):
        if traces := lost.intersection(signals):
            yield f"{law} of a signal that was never stored: {traces}"


def _differing(found: Any, expected: Any) -> dict[Any, Any]:
    names = [name for name in {*found, *expected} if found.get(name) != expected.get(name)]
    return {name: (found.get(name), expected.get(name)) for name in names[:2]}
