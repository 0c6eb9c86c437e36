"""Random schedules of steps, all determined by one seed, their text, and the shortest one that breaks the same promise.

    one step@a write@b:y | 0 0 1 0 unknown:0 tick

Left of the bar stands whether the documents are in one partition or two, and the operations; right of it what happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random
from typing import NamedTuple, TypeAlias

from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence import steps as st
from backtest_kit_mongo.errors import InvariantViolation
from backtest_kit_verify.simulation import found
from backtest_kit_verify.simulation.step_checks import check, check_quiet
from backtest_kit_verify.simulation.step_faults import ACTS, World
from backtest_kit_verify.simulation.step_parties import CLIENTS, KINDS, SHIPPED, Op, Variant, Workload

Action: TypeAlias = tuple[str, int]
MEANING = {
    "step": "the operation's next step is performed and answered",
    "timeout": "Redis executes the script, but no answer comes in time",
    "delay": "the script may be executed at any later time; no answer comes in time",
    "retry": "the script was sent on a connection that broke, and will be sent again",
    "unknown": "the write or the commit was sent to MongoDB, but no answer came; it may arrive later",
    "lose": "the connection to MongoDB breaks before the commit is sent; the transaction stays open for its time",
    "refuse": "MongoDB refuses the write",
    "leave": "COMMIT is sent and the client goes on",
    "cut": "the client loses Redis, which others keep",
    "heal": "the client reaches Redis again, and tells what it missed",
    "crash": "the client dies",
    "tick": "time passes",
    "settle": "Redis executes a COMMIT that was left",
    "land": "a commit or write of which nobody waits for the answer arrives at MongoDB",
    "deliver": "Redis executes a script whose sender no longer waits",
    "relay": "the recovery worker has seen all changes",
    "save": "what Redis holds now is what a restart will bring back",
    "restart": "Redis restarts, or another takes over, without what happened since it was saved",
    "flush": "FLUSHALL",
    "evict-entry": "Redis evicts all entries",
    "evict-right": "Redis evicts all install rights",
}
VERBS = tuple(MEANING)
OF_OPERATIONS, OF_CLIENTS, OF_THE_WORLD = VERBS[:8], VERBS[8:11], VERBS[11:]

FAULTS = (
    ("unknown", "unknown", "land"),
    ("crash", "crash", "land"),
    ("lose",),
    ("refuse",),
    ("timeout", "heal"),
    ("delay", "deliver", "deliver", "heal"),
    ("retry", "retry", "deliver", "deliver"),
    ("cut", "heal", "heal", "relay"),
    ("save", "save", "restart"),
    ("flush",),
    ("evict-entry", "evict-right"),
)
"""Faults and what ends them; a verb is tried as often as it stands there."""
FAULTS_AT_ONCE = (1, 2, 2, 3)
FAULT_SHARES, TICK_SHARES = (0.05, 0.15, 0.25), (0.0, 0.05, 0.15)
OPS = ("step", "step", "step", "cas", "write", "write", "read", "read", "read")
OPS_MIN, OPS_MAX = 2, 6
LEFT_SHARE, SETTLE_SHARE = 0.5, 0.2
"""How likely a client does not wait for the answer to COMMIT, and how likely that one comes next."""
STAYS = (0.0, 0.5, 0.8)
"""How likely the next step is of the same operation as the last one."""


class Schedule(NamedTuple):
    workload: Workload
    actions: tuple[Action, ...]

    def __str__(self) -> str:
        return f"{self.workload} | {' '.join(map(_action_text, self.actions))}"


Counterexample: TypeAlias = found.Counterexample[Schedule]
Found: TypeAlias = found.Found[Schedule]


def _action_text(action: Action) -> str:
    verb, subject = action
    if verb == "step":
        return str(subject)
    return verb if verb in OF_THE_WORLD else f"{verb}:{CLIENTS[subject] if verb in OF_CLIENTS else subject}"


def parse_schedule(text: str) -> Schedule:
    """Read what `str(schedule)` wrote.

    Raises:
        ValueError: it is no schedule; the message says why.
    """
    left, bar, right = text.partition("|")
    spread, *words = left.split() or [""]
    if not bar or spread not in ("one", "two") or not words:
        raise ValueError("a schedule is for example: one step@a write@b:y | 0 0 1 0 tick")
    ops = tuple(map(_parse_op, words))
    return Schedule(Workload(ops, spread == "one"), tuple(_parse_action(word, len(ops)) for word in right.split()))


def _parse_op(word: str) -> Op:
    kind, _, rest = word.partition("@")
    client, _, key = rest.partition(":")
    if kind not in KINDS or len(client) != 1 or client not in CLIENTS or key not in ("", "y"):
        raise ValueError(f"{word!r} is no operation; write for example step@a, cas@b, write@b:y or read@c")
    return Op(kind, CLIENTS.index(client), int(key == "y"))


def _parse_action(word: str, count: int) -> Action:
    verb, _, whom = f"step:{word}".partition(":") if word.isdigit() else word.partition(":")
    if verb in OF_THE_WORLD and not whom:
        return verb, 0
    if verb in OF_CLIENTS and len(whom) == 1 and whom in CLIENTS:
        return verb, CLIENTS.index(whom)
    if verb in OF_OPERATIONS and whom.isdigit() and int(whom) < count:
        return verb, int(whom)
    raise ValueError(f"{word!r} is nothing that can happen; write for example 0, unknown:0, crash:a or tick")


def play(schedule: Schedule, variant: Variant = SHIPPED) -> Counterexample | None:
    """Perform a schedule, leaving out what cannot happen at its place, and let the world come to rest at its end if all
    operations have ended.
    """
    world = World(schedule.workload, variant)
    done: list[Action] = []
    try:
        for action in schedule.actions:
            done.append(action)
            if not ACTS[action[0]](world, action[1]):
                done.pop()
            else:
                check(world)
        if all(run.has_ended for run in world.runs):
            check_quiet(world)
    except InvariantViolation as error:
        return _violation(error, schedule.workload, done)
    return None


def _violation(error: InvariantViolation, workload: Workload, actions: list[Action]) -> Counterexample:
    return found.counterexample(error, Schedule(workload, tuple(actions)))


def shrink(broken: Counterexample, variant: Variant = SHIPPED) -> Counterexample:
    """Leave out stretches of actions for as long as the same promise breaks."""
    return found.shrink(broken, partial(play, variant=variant), _smaller)


def _smaller(schedule: Schedule) -> Iterator[Schedule]:
    workload, actions = schedule
    for fewer in found.without_a_stretch(actions):
        yield Schedule(workload, fewer)


def random_workload(random: Random) -> Workload:
    count = random.randint(OPS_MIN, OPS_MAX)
    ops = tuple(
        Op(random.choice(OPS), random.randrange(len(CLIENTS)), int(random.random() < 0.3)) for _ in range(count)
    )
    return Workload(ops, random.random() < 0.5)


def random_menu(random: Random, count: int, *, faults: bool = True) -> list[Action]:
    """What goes wrong in a schedule with so many operations."""
    chosen = random.sample(FAULTS, random.choice(FAULTS_AT_ONCE)) if faults else []
    return [(verb, subject) for verbs in chosen for verb in verbs for subject in range(_subjects(verb, count))]


def _subjects(verb: str, count: int) -> int:
    return count if verb in OF_OPERATIONS else len(CLIENTS) if verb in OF_CLIENTS else 1


def random_run(world: World, random: Random, menu: list[Action], actions: list[Action]) -> None:
    """Play the world to its end in an order that `random` chooses. What happens is appended to `actions`.

    Raises:
        InvariantViolation: the last action broke something.
    """
    draw, runs = random.random, world.runs
    stay = random.choice(STAYS)
    fault_share = random.choice(FAULT_SHARES) if menu else 0.0
    usual_share = fault_share + random.choice(TICK_SHARES)
    last, waited = 0, 0
    while waiting := [run.number for run in runs if not run.has_ended]:
        chance = draw()
        if chance < fault_share:
            action = menu[int(draw() * len(menu))]
        elif chance < usual_share or waited > len(runs):
            action, waited = ("tick", 0), 0
        elif world.left and draw() < SETTLE_SHARE:
            action = ("settle", 0)
        else:
            if last not in waiting or draw() > stay:
                last = waiting[int(draw() * len(waiting))]
            leaves = isinstance(runs[last].effect, fx.Commit | st.CommitAll) and draw() < LEFT_SHARE
            action = ("leave" if leaves else "step", last)
        actions.append(action)
        if ACTS[action[0]](world, action[1]):
            check(world)
        else:
            actions.pop()
            waited += action[0] == "step"
    check_quiet(world)


class Campaign(found.Blocks[Schedule]):
    """Random schedules.

    Attributes:
        stored_count: steps of them that MongoDB committed.
    """

    def __init__(self, seed: int, variant: Variant = SHIPPED, *, faults: bool = True) -> None:
        super().__init__()
        self._seed, self._variant, self._faults = seed, variant, faults
        self._blocks = 0
        self.stored_count = 0

    def run_block(self, at_most: int = found.BLOCK) -> Found | None:
        random = Random(self._seed << 40 | self._blocks)
        self._blocks += 1
        for _ in range(min(at_most, found.BLOCK)):
            workload = random_workload(random)
            menu = random_menu(random, len(workload.ops), faults=self._faults)
            world = World(workload, self._variant)
            actions: list[Action] = []
            self.done += 1
            try:
                random_run(world, random, menu, actions)
            except InvariantViolation as error:
                return Found(self.done, _violation(error, workload, actions))
            self.stored_count += sum(run.is_step and run.number in world.mongo.committed for run in world.runs)
        return None
