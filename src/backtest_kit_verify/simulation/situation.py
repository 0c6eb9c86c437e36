"""Everything that the simulated world consists of, in small integers and places in plans."""

from __future__ import annotations

from typing import Any, TypeAlias

from backtest_kit_verify.simulation.driver import Step
from backtest_kit_verify.simulation.workload import Rig, Workload

Frozen: TypeAlias = tuple[Any, ...]


class Situation:
    """How far a schedule has come. Use it again with `reset`; copy it with `freeze` and `thaw`.

    Attributes:
        steps: where each operation is. begun: mask of operations.
        held: token number of each operation's lease or install right, -1 for none.
        known: revisions that are contained in what the operation read or wrote, as a mask.
        need: the revision that each operation must see at least.
        due: ticks until MongoDB refuses the operation's write.
        again: 1 while the operation's present step is sent a second time.
        sent: writes that are on their way and whose sender no longer waits, with the step that stores them.
        flying: tokens of leased writes that may still reach MongoDB; preborn: those older than the incarnation's birth.
        late: steps that Redis may still execute although nobody waits.
        left: steps that were sent to Redis, whose operations have returned and whose answers are not read yet.
        stalled: mask of operations whose write MongoDB may commit after its deadline; overdue: revisions of such, by
            operation, until its COMMIT has come; unrelayed: of those that others may miss until then.
        unannounced: mask of operations of whose write Redis was not told yet, and nobody keeps that it must be.
        down: mask of clients that go past Redis; lost: of those that cannot reach it; missed: of those that owe it a
            deletion;
            waited: of those that could have come back at the last tick.
        alive: ticks that the token lives; asked: ticks that what each client's keeper asked Redis for is good, and
            looked: mask of those that saw no flag since. asking: mask of operations that found no token, asked for the
            time, and will look for flags; fresh: ticks that this is good for a token; vouched: of those that looked.
        wait: of each client: -1 without a flag, else the ticks until it may pass; by: mask of operations that write
            past Redis; struck: of those that are taken for settled; owes: of clients that have done so, and not
            delivered it; dead: of those that crashed.
        kept: MongoDB as a restore brings it back; past: operations that were under way when it did.
        returned: the newest revision that any operation returned; own: what each client wrote last.
        merged: the end of each client's last merge, with what it remembers.
    """

    def __init__(self, rig: Rig, workload: Workload) -> None:
        self.rig = rig
        self.redis_states, self.truth_states = rig.redis, rig.truth
        self.views, self.revs = rig.redis.views, rig.truth.revs
        self.reset(workload)

    def reset(self, workload: Workload) -> None:
        self.workload = workload
        self.client, steps = self.rig.prepared(workload)
        count, clients = len(steps), max(self.client) + 1
        self.redis = self.saved = self.rig.redis.start
        self.truth = 0
        self.steps = list(steps)
        self.held = [-1] * count
        self.known = [0] * count
        self.need = [0] * count
        self.due = [-1] * count
        self.again = [0] * count
        self.own = [0] * clients
        self.merged: list[Step | None] = [None] * clients
        self.sent: dict[int, Step] = {}
        self.late: tuple[tuple[int, Step, int], ...] = ()
        self.left: dict[int, Step] = {}
        self.overdue: dict[int, int] = {}
        self.live = (1 << count) - 1
        self.begun = self.flying = self.preborn = self.down = self.missed = self.unrelayed = self.returned = 0
        self.lost = self.waited = self.kept = self.past = self.stalled = self.unannounced = 0
        self.alive = self.looked = self.by = self.struck = self.owes = self.dead = self.asking = self.vouched = 0
        self.asked, self.wait, self.fresh = [0] * clients, [-1] * clients, [0] * count

    def freeze(self) -> Frozen:
        """Everything that the future depends on, as a value."""
        return (
            self.redis, self.saved, self.truth, self.live, self.begun, self.flying, self.preborn, self.down,
            self.missed, self.unrelayed, self.returned, self.lost, self.waited, self.kept, self.past,
            self.stalled, self.unannounced, tuple(self.left.items()), tuple(self.overdue.items()),
            self.late, tuple(self.sent.items()), tuple(self.steps),
            tuple(self.held), tuple(self.known), tuple(self.need), tuple(self.due), tuple(self.again), tuple(self.own),
            tuple(self.merged), self.alive, self.looked, self.by, self.struck, self.owes, self.dead, tuple(self.asked),
            tuple(self.wait), self.asking, self.vouched, tuple(self.fresh),
        )  # fmt: skip

    def thaw(self, frozen: Frozen) -> None:
        (
            self.redis, self.saved, self.truth, self.live, self.begun, self.flying, self.preborn, self.down,
            self.missed, self.unrelayed, self.returned, self.lost, self.waited, self.kept, self.past,
            self.stalled, self.unannounced, left, overdue, self.late,
            sent, steps, held, known, need, due, again, own, merged,
            self.alive, self.looked, self.by, self.struck, self.owes, self.dead, asked, wait, self.asking, self.vouched,
            fresh,
        ) = frozen  # fmt: skip
        self.sent, self.left, self.overdue = dict(sent), dict(left), dict(overdue)
        self.steps, self.held, self.known, self.need = list(steps), list(held), list(known), list(need)
        self.due, self.again, self.own = list(due), list(again), list(own)
        self.merged = list(merged)
        self.asked, self.wait, self.fresh = list(asked), list(wait), list(fresh)
