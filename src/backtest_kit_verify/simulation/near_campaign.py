"""Schedules of the near cache's simulator: their text, and random ones by seed.

    write@a read@b read@b:y | 0 1 hear:b tick 1 lose:b ask:b

As in `schedules.py`: left of the bar who does what (`:y` for the second key), right of it what happens. A number is a
step of that operation, a word is something else, with the operation (number) or process (letter) that it concerns.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple, TypeAlias

from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.errors import InvariantViolation
from backtest_kit_verify.simulation import found
from backtest_kit_verify.simulation.near import ACTS, STALENESS_TICKS, World
from backtest_kit_verify.simulation.near_process import PROCESSES, SHIPPED, Op, Variant, Workload
from backtest_kit_verify.simulation.states import LEASE_TICKS, WRITE_TICKS

Action: TypeAlias = tuple[str, int]
Faults: TypeAlias = tuple[tuple[str, ...], ...]

MEANING = {
    # Of an operation.
    "step": "the next step is performed and answered",
    "timeout": "performed by Redis, but no answer comes",
    "unknown": "sent to MongoDB, but no answer comes",
    "refuse": "refused by MongoDB",
    "leave": "COMMIT is sent and the operation returns",
    # Of a process.
    "ask": "a heartbeat is asked for",
    "hear": "the process hears what was said next",
    "lose": "it is lost without a word",
    "break": "everything that was said and not heard is lost without a word",
    "lost": "the connection is lost, and the process knows",
    "evict-copy": "the copies of the process go",
    "cut": "the process cannot reach Redis, but still hears it",
    "heal": "the process reaches Redis again and delivers what it missed",
    "crash": "the process dies",
    "settle": "Redis executes a COMMIT that was left",
    # Of the world.
    "tick": (
        f"time passes: D is {STALENESS_TICKS} tick, a lease lasts {LEASE_TICKS}, its write may land for {WRITE_TICKS}"
    ),
    "land": "MongoDB commits a write whose sender no longer waits",
    "relay": "the recovery worker has seen all changes",
    "save": "what Redis holds now is what a restart will bring back",
    "restart": "Redis restarts, or another takes over, without what happened since it was saved",
    "flush": "FLUSHALL",
    "evict-entry": "Redis evicts all entries",
    "evict-right": "Redis evicts all install rights",
}
VERBS = tuple(MEANING)
OF_OPERATIONS, OF_PROCESSES, OF_THE_WORLD = VERBS[:5], VERBS[5:15], VERBS[15:]
KINDS = ("read", "write", "remove")


class Schedule(NamedTuple):
    workload: Workload
    actions: tuple[Action, ...]

    def __str__(self) -> str:
        return f"{' '.join(map(str, self.workload))} | {' '.join(map(action_text, self.actions))}"


Counterexample: TypeAlias = found.Counterexample[Schedule]
Found: TypeAlias = found.Found[Schedule]


def action_text(action: Action) -> str:
    verb, subject = action
    if verb == "step":
        return str(subject)
    if verb in OF_THE_WORLD:
        return verb
    return f"{verb}:{PROCESSES[subject] if verb in OF_PROCESSES else subject}"


def parse_schedule(text: str) -> Schedule:
    """Read what `str(schedule)` wrote.

    Raises:
        ValueError: it is no schedule; the message says why.
    """
    left, bar, right = text.partition("|")
    workload = parse_workload(left)
    if not bar:
        raise ValueError("a schedule is operations, a bar and what happens, for example: write@a read@b | 0 1 hear:b 1")
    return Schedule(workload, tuple(parse_action(word, len(workload)) for word in right.split()))


def parse_workload(text: str) -> Workload:
    """Read `write@a read@b:y`.

    Raises:
        ValueError: it is no workload; the message says why.
    """
    workload = tuple(map(_parse_op, text.split()))
    if not workload:
        raise ValueError("no operations; write for example write@a read@b")
    return workload


def _parse_op(word: str) -> Op:
    kind, _, rest = word.partition("@")
    process, _, key = rest.partition(":")
    if kind not in KINDS or len(process) != 1 or process not in PROCESSES or key not in ("", "y"):
        raise ValueError(f"{word!r} is no operation; write for example write@a, read@b or remove@b:y")
    return Op(kind, PROCESSES.index(process), int(key == "y"))


def parse_action(word: str, count: int) -> Action:
    """Read what `action_text` wrote, where there are so many operations.

    Raises:
        ValueError: it is no action; the message says why.
    """
    verb, _, whom = f"step:{word}".partition(":") if word.isdigit() else word.partition(":")
    if verb in OF_THE_WORLD and not whom:
        return verb, 0
    if verb in OF_PROCESSES and len(whom) == 1 and whom in PROCESSES:
        return verb, PROCESSES.index(whom)
    if verb in OF_OPERATIONS and whom.isdigit() and int(whom) < count:
        return verb, int(whom)
    raise ValueError(f"{word!r} is nothing that can happen; write for example 0, timeout:0, hear:a or tick")


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
        if all(run.has_ended for run in world.runs):
            world.check_quiet()
    except InvariantViolation as error:
        return violation(error, schedule.workload, done)
    return None


def violation(error: InvariantViolation, workload: Workload, actions: Sequence[Action]) -> Counterexample:
    return found.counterexample(error, Schedule(workload, tuple(actions)))


# -- random schedules

FAULTS = (
    ("lose",),
    ("lose", "break"),
    ("lost",),
    ("evict-copy",),
    ("evict-entry", "evict-entry", "evict-right"),
    ("save", "restart", "restart", "lose", "lose"),
    ("flush", "lose", "lose"),
    ("cut", "cut", "heal", "relay"),
    ("timeout", "timeout", "heal"),
    ("unknown", "unknown", "land"),
    ("refuse",),
    ("crash", "land"),
)
"""Faults and what ends them; a verb is tried as often as it stands there."""
FAULTS_AT_ONCE = (1, 1, 2, 3)
"""How many of them a schedule draws from."""
EARS = ((1, 1), (1, 2), (3, 1), (6, 2))
"""How often messages are heard and heartbeats asked for: from far behind to at once."""
TICKS = (1, 2, 3)
FAULT_SHARES, EAR_SHARES = (0.0, 0.1, 0.2, 0.3), (0.15, 0.3, 0.45)
"""Shares of an action's choices."""
OPS = ("read", "read", "read", "read", "read", "write", "write", "write", "remove")
OPS_MIN, OPS_MAX = 3, 8
TWO_KEYS_SHARE = 0.4
ROLES_SHARES = (0.5, 0.8, 1.0)
"""How likely it is that the first process writes, and that the second reads."""
STAYS = (0.0, 0.6, 0.9)
"""How likely the next step is of the same operation as the last one: from all at once to one after the other."""
STALL_SHARE, PATIENCE = 0.5, 0.1
"""How likely one operation is held up for long, and how likely a step of it happens all the same."""
LEFT_SHARE, SETTLE_SHARE = 0.5, 0.3
"""How likely an operation does not wait for the answer to COMMIT, and how likely that comes next."""
AT_ONCE_MAX = 3
"""Operations under way, not counting the one that is held up."""
ENDING = frozenset((*OF_OPERATIONS, "crash"))
"""What may end operations."""


class Menu(NamedTuple):
    """What disturbances a schedule draws from: what time and subscribers do, and faults."""

    usual: tuple[Action, ...]
    faults: tuple[Action, ...]
    usual_share: float
    fault_share: float


def random_workload(random: Random) -> Workload:
    draw = random.random
    keys = 2 if draw() < TWO_KEYS_SHARE else 1
    share = random.choice(ROLES_SHARES)
    ops = []
    for _ in range(random.randint(OPS_MIN, OPS_MAX)):
        kind = OPS[int(draw() * len(OPS))]
        ops.append(Op(kind, int((kind == "read") == (draw() < share)), int(draw() * keys)))
    return tuple(ops)


def random_menu(random: Random, count: int, faults: Faults) -> Menu:
    """Of a schedule with so many operations. Without faults only time passes, and messages are late."""
    hears, asks = random.choice(EARS)
    usual = [("tick", 0)] * random.choice(TICKS)
    chosen: list[Action] = []
    for process in range(len(PROCESSES)):
        usual += [("hear", process)] * hears + [("ask", process)] * asks
    for verbs in random.sample(faults, min(len(faults), random.choice(FAULTS_AT_ONCE))):
        chosen += [(verb, subject) for verb in verbs for subject in _subjects(verb, count)]
    return Menu(tuple(usual), tuple(chosen), random.choice(EAR_SHARES), random.choice(FAULT_SHARES) if chosen else 0.0)


def _subjects(verb: str, count: int) -> range:
    return range(count if verb in OF_OPERATIONS else len(PROCESSES) if verb in OF_PROCESSES else 1)


def random_run(world: World, random: Random, menu: Menu, actions: list[Action]) -> None:
    """Play the world to its end in an order that `random` chooses. What happens is appended to `actions`.

    Raises:
        InvariantViolation: the last action broke something.
    """
    draw, acts, runs = random.random, ACTS, world.runs
    faults, usual = menu.faults, menu.usual
    usual_share = menu.fault_share + menu.usual_share
    stalled = int(draw() / STALL_SHARE * len(runs))
    stay = STAYS[int(draw() * len(STAYS))]
    last, may_leave = -1, world.variant.leaves
    waiting = list(range(len(runs)))
    while waiting:
        chance = draw()
        if chance < menu.fault_share:
            action = faults[int(draw() * len(faults))]
        elif chance < usual_share:
            action = usual[int(draw() * len(usual))]
        else:
            if last not in waiting or draw() > stay:
                last = waiting[int(draw() * min(len(waiting), AT_ONCE_MAX))]
            if last == stalled and draw() > PATIENCE:
                last = waiting[(waiting.index(last) + 1) % len(waiting)]
            left = [number for number, process in enumerate(world.processes) if process.link.left]
            if left and draw() < SETTLE_SHARE:
                action = ("settle", left[0])
            else:
                leaves = may_leave and isinstance(runs[last].effect, fx.Commit) and draw() < LEFT_SHARE
                action = ("leave" if leaves else "step", last)
        actions.append(action)
        if not acts[action[0]](world, action[1]):
            actions.pop()
        elif action[0] in ENDING:
            waiting = [number for number in waiting if not runs[number].has_ended]
    if world.flying and draw() < 0.5:
        actions.append(("land", 0))
        world.land(0)
    world.check_quiet()


class Campaign(found.Blocks[Schedule]):
    """Random schedules.

    Attributes:
        hit_count: reads of them that were served a copy.
    """

    def __init__(self, seed: int, variant: Variant = SHIPPED, faults: Faults = FAULTS) -> None:
        super().__init__()
        self._seed = seed
        self._variant = variant
        self._faults = faults
        self._blocks = 0
        self.hit_count = 0

    def run_block(self, at_most: int = found.BLOCK) -> Found | None:
        random = Random(self._seed << 40 | self._blocks)
        self._blocks += 1
        for _ in range(min(at_most, found.BLOCK)):
            workload = random_workload(random)
            menu = random_menu(random, len(workload), self._faults)
            world = World(workload, self._variant)
            actions: list[Action] = []
            self.done += 1
            try:
                random_run(world, random, menu, actions)
            except InvariantViolation as error:
                return Found(self.done, violation(error, workload, actions))
            self.hit_count += sum(process.copies.hit_count for process in world.processes)
        return None
