"""The simulated world: clients half-way through their plans, one Redis, one MongoDB, and everything that may go wrong.

An action (`actions.py`) is one indivisible thing that happens: a step of an operation, or a fault. `apply` performs
it, or says that it cannot happen now, and then checks the invariants (`checker.py`).

A write that was sent may arrive at MongoDB at any later time; MongoDB refuses it once its deadline has passed. What the
model takes for granted, as the protocol does: that deadline lies before the lease's end, leases are not evicted, Redis'
clock does not jump.

*Bypass.* A client that is cut off from Redis writes MongoDB without a lease: behind a flag, when no token can live any
more. Until it has delivered what it wrote, entries may be old, and no read is served one. So no cut excuses a read.
`unrelayed` are revisions that MongoDB committed after their leases, because it stood still: until their writers return,
others may miss them.
"""

from __future__ import annotations

from typing import Any

from backtest_kit_mongo.coherence.effects import Plan
from backtest_kit_mongo.errors import BacktestKitError
from backtest_kit_verify.simulation.actions import OF_OPERATIONS, SUBJECTS
from backtest_kit_verify.simulation.checker import check, check_end
from backtest_kit_verify.simulation.driver import (
    COMMIT,
    DEFER,
    DONE,
    FILL,
    LEASE,
    LOOK,
    NO_RIGHT,
    NOT_SENT,
    NOTHING,
    OUTCOME_UNKNOWN,
    READ,
    REFUSED,
    STORE,
    UNREACHED,
    Answer,
    Step,
)
from backtest_kit_verify.simulation.faults import Faults
from backtest_kit_verify.simulation.states import WRITE_TICKS
from backtest_kit_verify.simulation.workload import OPS_MAX, Rig, Workload


def _crashed() -> Plan[None]:
    raise BacktestKitError("the client died")


CRASHED = Step(_crashed)


class World(Faults):
    """A situation, and what can happen in it."""

    def __init__(self, rig: Rig, workload: Workload) -> None:
        super().__init__(rig, workload)
        self.acts = (
            self.step, self.timeout, self.retry, self.unknown, self.refuse, self.land, self.leave, self.stall,
            self.crash, self.cut, self.heal, self.come_back, self.keep, self.lower, self.bury, self.deliver, self.tick,
            self.vouch, self.relay, self.save, self.restart, self.flush, self.evict_entry, self.evict_right,
            self.evict_leases, self.backup, self.restore,
        )  # fmt: skip
        """By verb."""

    def apply(self, action: int) -> bool:
        """Perform an action and check everything; False, and no change, if it cannot happen now.

        Raises:
            InvariantViolation: an invariant or a promise is broken; the message begins with its name.
        """
        verb, subject = divmod(action, SUBJECTS)
        if verb in OF_OPERATIONS and subject >= len(self.steps):
            return False
        done = self.acts[verb](subject)
        if done:
            check(self)
        return done

    # -- steps of operations

    def step(self, number: int) -> bool:
        step = self.steps[number]
        kind = step.kind
        if kind >= DONE:
            return number in self.left and self._settle(number)
        if not self.begun >> number & 1:
            step = self._begin(number)
        if kind > DEFER:
            following = self._ask_truth(number, step, kind)
        elif self.down and self.down >> self.client[number] & 1:
            if self.wait[self.client[number]] and self._needs_flag(number, kind):
                return self._at_the_door(self.client[number])
            following = step.follow(self._unreached(number, kind))
        elif not self.alive and kind <= LEASE and self.rig.variant.reads_token and self._vouches(number, kind):
            return True
        else:
            following = self._ask_cache(number, step, kind)
        self._follow(number, following)
        return True

    def _begin(self, number: int) -> Step:
        self.begun |= 1 << number
        if self.rig.is_list:
            # A merge confirms rows as they are stored at some moment inside the call.
            seen = (2 << self.revs[self.truth]) - 1
            last = self.merged[self.client[number]]
            snapshot = last.result.snapshot if last else None
            self.steps[number] = self.rig.first_step(self.workload[number], number, snapshot)
        else:
            seen = (2 << self.returned) - 1
        # The newest of these that was stored under its lease, or is kept from being missed.
        need = (seen & ~self.unrelayed).bit_length() - 1
        own = self.own[self.client[number]]
        self.need[number] = need if need > own else own
        return self.steps[number]

    def _follow(self, number: int, step: Step) -> None:
        kind = step.kind
        self.steps[number] = step
        if kind in (STORE, LOOK):
            return
        if self.flying and number not in self.sent and self.held[number] >= 0:
            # The outcome is known: whatever the operation still does, it writes no more.
            self.flying &= ~(1 << self.held[number])
            self.due[number] = -1
        if kind >= DONE:
            if kind == DONE:
                check_end(self, number, step)
            if number not in self.left:
                self.live &= ~(1 << number)
                self._leave(number)

    def _leave(self, number: int) -> None:
        self.need[number] = self.again[number] = 0
        self.asking &= ~(1 << number)
        self.vouched &= ~(1 << number)
        if number not in self.sent:
            self.held[number] = self.due[number] = -1
            self.by &= ~(1 << number)
            self.struck &= ~(1 << number)
        if not self.rig.is_list:
            self.known[number] = 0

    def _ask_cache(self, number: int, step: Step, kind: int) -> Step:
        again = self.again[number]
        found = step.performed.get(self.redis * 2 + again)
        if found is None:
            found = self._perform_on_cache(number, step, again)
        redis, answer, following = found
        if self.flying and self.views[redis].is_born and not self.views[self.redis].is_born:
            self.preborn = self.flying
        self.redis = redis
        if again:
            self.again[number] = 0
        if kind == READ:
            self.held[number] = answer.token
            if not self.alive and self.rig.variant.reads_token:
                self.held[number] = -1
                following = step.follow(NO_RIGHT)
        elif kind == LEASE:
            if not self.alive and answer.value.prior is not None and self.rig.variant.reads_token:
                answer = self.redis_states.without_prior(answer)
                following = step.follow(answer)
            self._leased(number, answer)
        elif kind in (COMMIT, DEFER):
            self._told(number, kind)
        return following

    def _told(self, number: int, kind: int) -> None:
        """Redis has executed an operation's COMMIT or DEFER."""
        self.unannounced &= ~(1 << number)
        if kind == DEFER:
            self._emptied()
        if number in self.overdue:
            # Whatever was cached too early is gone.
            self.unrelayed &= ~(1 << self.overdue.pop(number))

    def _emptied(self) -> None:
        """The entry is deleted, and whoever installs the next one reads or writes after it."""
        self.unrelayed = 0

    def _perform_on_cache(self, number: int, step: Step, again: int) -> tuple[int, Answer, Step]:
        redis, answer = self.redis_states.perform(self.redis, step, number + again * self.rig.retry_offset)
        found = step.performed[self.redis * 2 + again] = (redis, answer, step.follow(answer))
        return found

    def _leased(self, number: int, answer: Answer) -> None:
        self.held[number] = answer.token
        self.flying |= 1 << answer.token
        self.due[number] = WRITE_TICKS
        self._emptied()
        if answer.stamp >= 0:
            self.known[number] = self.known[answer.stamp % OPS_MAX]
        elif self.workload[number].kind == "put":
            # Under its stamp nobody remembers anything, so nothing is missed.
            self.known[number] = (2 << self.revs[self.truth]) - 1

    def _unreached(self, number: int, kind: int) -> Answer:
        self.again[number] = 0
        if kind == DEFER:
            self.missed |= 1 << self.client[number]
            self.unannounced &= ~(1 << number)
            if number in self.overdue:
                # Nobody is served any more; or, if nobody saw to that, from now on nobody may miss it.
                self.owes |= self.rig.variant.shuts_if_overdue << self.client[number]
                self.unrelayed &= ~(1 << self.overdue.pop(number))
        elif kind == LEASE:
            self.by |= 1 << number
            self.owes |= 1 << self.client[number]
            self.due[number] = WRITE_TICKS
        return UNREACHED[kind]

    def _ask_truth(self, number: int, step: Step, kind: int) -> Step:
        if kind == STORE:
            return step.follow(NOT_SENT) if self.is_late(number, step) else self._store(number, step)
        self.known[number] = (2 << self.revs[self.truth]) - 1
        return (step.performed.get(self.truth) or self._perform_on_truth(step))[2]

    def _perform_on_truth(self, step: Step) -> tuple[int, Answer, Step]:
        truth, answer = self.truth_states.perform(self.truth, step)
        found = step.performed[self.truth] = (truth, answer, step.follow(answer))
        return found

    def is_late(self, number: int, step: Step) -> bool:
        """Whether the client would not send this write to MongoDB any more, because its time is up."""
        effect: Any = step.effect
        if not self.stalled >> number & 1 and effect.deadline_s is not None and self.due[number] < 0:
            return self.held[number] >= 0 or self.by >> number & 1 == 1
        return False

    def _store(self, number: int, step: Step) -> Step:
        truth, _, following = step.performed.get(self.truth) or self._perform_on_truth(step)
        if truth != self.truth:
            self.truth = truth
            rev = self.revs[truth]
            self.unannounced |= 1 << number
            if self.stalled >> number & 1 and self.due[number] < 0:
                self.unrelayed |= 1 << rev
                self.overdue[number] = rev
            # A document's write replaces all; a merge adds its rows to what it knew.
            self.known[number] = self.known[number] | 1 << rev if self.rig.is_list else (2 << rev) - 1
        return following

    def timeout(self, number: int) -> bool:
        step = self._sendable(number, DEFER)
        if step is None or (step.kind == LEASE and self.again[number]):
            return False
        self._send_late(number, step)
        self.down |= 1 << self.client[number]
        if number in self.left:
            return self._settle(number)
        if step.kind == LEASE:
            self.again[number] = 1  # Back at Redis, or at the door and back, it leases with a fresh token.
            return True
        if self._needs_flag(number, step.kind):
            return True
        self._follow(number, step.follow(self._unreached(number, step.kind)))
        return True

    def retry(self, number: int) -> bool:
        step = self._sendable(number, FILL)
        if step is None or self.again[number]:
            return False
        self._send_late(number, step)
        self.again[number] = 1
        return True

    def _sendable(self, number: int, last_kind: int) -> Step | None:
        """The operation's step, if it goes to Redis and the client believes that it can reach it."""
        if self.down >> self.client[number] & 1:
            return None
        if number in self.left:
            return self.left[number]
        if self.steps[number].kind > last_kind:
            return None
        return self.steps[number] if self.begun >> number & 1 else self._begin(number)

    def _send_late(self, number: int, step: Step) -> None:
        self.late = (*self.late, (number, step, self.again[number]))

    def deliver(self, index: int) -> bool:
        if index >= len(self.late):
            return False
        number, step, again = self.late[index]
        self.late = (*self.late[:index], *self.late[index + 1 :])
        redis = self.redis_states.perform(self.redis, step, number + again * self.rig.retry_offset)[0]
        if self.views[redis].is_born and not self.views[self.redis].is_born:
            self.preborn = self.flying
        self.redis = redis
        if step.kind == LEASE:
            self._emptied()
        elif step.kind in (COMMIT, DEFER):
            self._told(number, step.kind)
        return True

    # -- steps whose answers nobody waits for

    def leave(self, number: int) -> bool:
        step, variant = self.steps[number], self.rig.variant
        is_down = self.down >> self.client[number] & 1
        if step.kind not in variant.left or (is_down and step.kind == COMMIT):
            return False
        if self.overdue.get(number) is not None:
            if variant.waits_if_overdue:
                return False
            self.unrelayed &= ~(1 << self.overdue.pop(number))  # It returns, so from now on nobody may miss it.
        self.left[number] = step
        self._follow(number, step.follow(NOTHING))
        return True

    def _settle(self, number: int) -> bool:
        """The answer of a step that was left is read, or does not come."""
        step = self.left.pop(number)
        if self.down >> self.client[number] & 1:
            if self.rig.variant.keeps_left:
                self._unreached(number, DEFER)
            if not self.rig.variant.settles_own:
                self.struck |= self.by
        else:
            self._ask_cache(number, step, step.kind)
        self.again[number] = 0
        self.live &= ~(1 << number)
        self._leave(number)
        return True

    def stall(self, number: int) -> bool:
        step, bit = self.steps[number], 1 << number
        if step.kind != STORE or self.rig.is_list or self.stalled & bit or self.held[number] < 0:
            return False
        if self.is_late(number, step):
            return False
        self.stalled |= bit
        return True

    def unknown(self, number: int) -> bool:
        step = self.steps[number]
        if step.kind != STORE or self.is_late(number, step):
            return False
        self._leave_to_mongo(number, step)
        self._follow(number, step.follow(OUTCOME_UNKNOWN))
        return True

    def _leave_to_mongo(self, number: int, step: Step) -> None:
        self.sent[number] = step
        effect: Any = step.effect
        if effect.deadline_s is None:
            self.due[number] = WRITE_TICKS

    def refuse(self, number: int) -> bool:
        if self.steps[number].kind != STORE:
            return False
        self._follow(number, self.steps[number].follow(REFUSED))
        return True

    def land(self, number: int) -> bool:
        if number not in self.sent:
            return False
        if self.due[number] >= 0 or self.stalled >> number & 1 or not self.rig.variant.deadline_in_command:
            self._store(number, self.sent[number])
        self._forget_sent(number)
        return True

    def _forget_sent(self, number: int) -> None:
        del self.sent[number]
        if self.held[number] >= 0:
            self.flying &= ~(1 << self.held[number])
        if self.steps[number].kind >= DONE:
            self._leave(number)

    def forget_refused(self) -> None:
        """Leave out the writes that MongoDB will refuse."""
        for number in [one for one in self.sent if self.due[one] < 0 and not self.stalled >> one & 1]:
            self._forget_sent(number)

    # -- faults of clients

    def crash(self, client: int) -> bool:
        mine = [number for number, owner in enumerate(self.client) if owner == client and self.live >> number & 1]
        for number in mine:
            step = self.steps[number]
            if step.kind == STORE and number not in self.sent and not self.is_late(number, step):
                self._leave_to_mongo(number, step)
            elif self.held[number] >= 0 and number not in self.sent:
                self.flying &= ~(1 << self.held[number])
            if number in self.left:
                self._send_late(number, self.left.pop(number))
            self.live &= ~(1 << number)
            self.begun |= 1 << number
            self.steps[number] = CRASHED
            self._leave(number)
        is_alive = bool(mine) or (client < len(self.wait) and self.wait[client] >= 0 and not self.dead >> client & 1)
        if is_alive:
            self.dead |= 1 << client
            self.missed &= ~(1 << client)
            self.down &= ~(1 << client)
            self.lost &= ~(1 << client)
        return is_alive
