"""What must hold after every action, by the names of `coherence/invariants.py`, and what callers are promised.

I6 and I11 hold by construction here: a token comes from an operation's first step, and an operation is in one place of
its plan. I9 follows from how `Held.is_open` is computed; I8 and I10 are checked where a state of Redis is first seen.
What I13 is for is seen as I7 (what a stamp's owner knows) and as P5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backtest_kit_mongo.coherence.invariants import INVARIANTS, require
from backtest_kit_mongo.errors import InvariantViolation
from backtest_kit_verify.simulation.driver import COMMIT, DONE, FILL, LOOK, Step
from backtest_kit_verify.simulation.states import LEASE_TICKS
from backtest_kit_verify.simulation.workload import OPS_MAX, Op, op_rows

if TYPE_CHECKING:
    from backtest_kit_verify.simulation.situation import Situation

PROMISES = {
    "P1": "a read that begins after a revision was returned returns that one or a newer one, as it was stored",
    "P2": "no stale entry remains when all is quiet",
    "P4": "a dead client keeps its key from being cached for one lease time at most",
    "P6": "what a client missed is delivered soon after it can reach Redis again, although it does nothing more",
    "P8": "the event of a write that returned is appended, or somebody alive keeps it",
    "P5": "rows that were given to a merge or a put were stored so at some moment of the call",
}
PROBE = Op("read", 0)
PROBE_NUMBER = 2 * OPS_MAX
"""A token number that no operation of a workload has."""


def broken(name: str, detail: str) -> None:
    """Report a broken invariant or promise.

    Raises:
        InvariantViolation: always; the message begins with the name.
    """
    if name in INVARIANTS:
        require(name, False, detail)
    raise InvariantViolation(f"{name} ({PROMISES[name]}) does not hold: {detail}")


def check(world: Situation) -> None:
    """The invariants, after any action.

    Raises:
        InvariantViolation: one does not hold.
    """
    entry, _, right, leases, is_born, is_open = world.views[world.redis]
    flying = world.flying
    if world.owes or world.by or world.alive:
        _check_flags(world)
    if world.owes:
        entry = right = -1  # Whatever they are, nobody is served, and they go before anybody is.
    if entry >= 0:
        if flying:
            broken("I2", f"{_where(world)}; writes in flight: {_tokens(flying)}")
        missing = _missing(world, _entry_knows(world))
        if missing:
            broken("I1", f"{_where(world)}; the entry misses rev {_tokens(missing)}")
    if right >= 0 and right in world.held:
        _check_holders(world, right, flying)
    if flying:
        if right >= 0 and flying & ~(1 << right):
            broken("I4", f"{_where(world)}; in flight beside the right's owner: {_tokens(flying & ~(1 << right))}")
        unleased = flying & ~leases
        if unleased and is_open:
            broken("I3", f"{_where(world)}; in flight without a lease: {_tokens(unleased)}")
        if unleased & ~world.preborn and is_born:
            broken("I3b", f"{_where(world)}; in flight without a lease: {_tokens(unleased & ~world.preborn)}")


def _check_flags(world: Situation) -> None:
    if world.alive and 0 in world.wait:
        broken("I14", f"{_where(world)}; the token lives, and client {world.wait.index(0)} may pass")
    for number, client in enumerate(world.client):
        if world.by >> number & 1 and world.due[number] >= 0 and not world.owes >> client & 1:
            broken("I15", f"{_where(world)}; operation {number} may still be stored, and its client has no flag")
    for client, wait in enumerate(world.wait):
        if world.owes >> client & 1 and wait:
            broken("I15", f"{_where(world)}; client {client} has written past Redis, and has no flag")


def _entry_knows(world: Situation) -> int:
    view = world.views[world.redis]
    return world.known[view.stamp % OPS_MAX] if view.stamp >= 0 else (2 << view.entry) - 1


def _missing(world: Situation, known: int) -> int:
    """Revisions that are stored but not known, except those that were stored too late."""
    return ((2 << world.revs[world.truth]) - 1) & ~known & ~world.unrelayed


def _check_holders(world: Situation, right: int, flying: int) -> None:
    for number, token in enumerate(world.held):
        if token != right:
            continue
        kind = world.steps[number].kind
        if kind == COMMIT or number in world.left:
            missing = _missing(world, world.known[number])
            if flying or missing:
                broken("I7", f"{_where(world)}; operation {number} does not know rev {_tokens(missing)}")
        elif world.workload[number].kind == "read" and kind in (FILL, LOOK):
            if flying:
                broken("I5a", f"{_where(world)}; reader {number}; writes in flight: {_tokens(flying)}")
            missing = kind == FILL and _missing(world, world.known[number])
            if missing:
                broken("I5b", f"{_where(world)}; reader {number} does not know rev {_tokens(missing)}")


def check_end(world: Situation, number: int, step: Step) -> None:
    """An operation returned: what it says must be true, and nobody may see less from now on.

    Raises:
        InvariantViolation: P1 or P5 does not hold.
    """
    client = world.client[number]
    if world.past >> number & 1:
        return  # It began before MongoDB was set back, and may report either state state.
    if world.rig.is_list:
        _check_merge(world, number)
        world.merged[client] = step
        return
    if step.result is None:
        return  # There was nothing to remove.
    rev: int = step.result.rev
    if world.workload[number].kind == "read":
        _check_read(world, number, step, rev)
    elif rev > world.own[client]:
        world.own[client] = rev
    if rev > world.returned:
        world.returned = rev


def _check_read(world: Situation, number: int, step: Step, rev: int) -> None:
    need = world.need[number]
    stored = world.truth_states.contents[world.truth]
    if rev < need:
        broken("P1", f"operation {number} returned rev {rev}; rev {need} was returned before it began")
    if rev >= len(stored) or stored[rev] != step.content:
        broken("P1", f"operation {number} returned rev {rev} as it was never stored")


def _check_merge(world: Situation, number: int) -> None:
    contents = world.truth_states.contents[world.truth][world.need[number] :]
    for change in op_rows(world.workload[number]):
        if not any(row[0] == change.key and row[4] == change.body for stored in contents for row in stored):
            broken("P5", f"operation {number} returned, but {change.key} was not as it says")


def check_quiet(world: Situation) -> None:
    """All operations have ended. Let clients come back and time pass, and see that nothing is left behind.

    Raises:
        InvariantViolation: P2, P4 or P8 does not hold.
    """
    for number, step in enumerate(world.steps):
        if world.unannounced >> number & 1 and step.kind == DONE:
            broken("P8", f"operation {number} returned, and nobody says so")
    redis = world.redis
    if world.missed or world.owes or world.unrelayed:
        redis = world.redis_states.suffer("forget", redis)
    elif world.views[redis].entry >= 0:
        missing = _missing(world, _entry_knows(world))
        if missing:
            broken("P2", f"{_where(world)}; the entry misses rev {_tokens(missing)}")
    if not world.rig.is_list and (redis, world.truth) not in world.rig.quiet:
        _check_cacheable(world, redis)
        world.rig.quiet.add((redis, world.truth))


def _check_cacheable(world: Situation, redis: int) -> None:
    """After one lease time a read installs, and the next one hits. An incarnation that nobody saw must be seen
    first.
    """
    for _ in range(2 if world.views[redis].is_born else 3):
        for _ in range(LEASE_TICKS + 1):
            redis = world.redis_states.suffer("tick", redis)
        redis, step, hops = _probe(world, redis)
        if step.content != world.truth_states.contents[world.truth][-1]:
            broken("P2", f"{world.redis_states.held[redis]}; a read returns {step.result}")
    if hops != 1:
        broken("P4", f"{world.redis_states.held[redis]}; a read is still no hit")


def _probe(world: Situation, redis: int) -> tuple[int, Step, int]:
    """One undisturbed read: the state after it, its end, and how many steps it took."""
    step, hops = world.rig.first_step(PROBE, PROBE_NUMBER), 0
    while step.kind != DONE:
        if step.kind == LOOK:
            answer = world.truth_states.perform(world.truth, step)[1]
        else:
            redis, answer = world.redis_states.perform(redis, step, PROBE_NUMBER)
        step = step.follow(answer)
        hops += 1
    return redis, step, hops


def _tokens(mask: int) -> str:
    return ", ".join(str(number) for number in range(mask.bit_length()) if mask >> number & 1)


def _where(world: Situation) -> str:
    return f"Redis has {world.redis_states.held[world.redis]}; MongoDB has rev {world.revs[world.truth]}"
