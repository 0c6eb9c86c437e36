"""What goes wrong around the operations: clients that lose Redis and find it again, Redis, MongoDB, and the worker's
relay.

Each method is one action (`actions.py`); it says whether it could happen.
"""

from __future__ import annotations

from backtest_kit_verify.simulation.checker import broken
from backtest_kit_verify.simulation.driver import DEFER, LEASE
from backtest_kit_verify.simulation.situation import Situation
from backtest_kit_verify.simulation.states import SERVE_TICKS


class Faults(Situation):
    """A situation, and the faults that need no operation's step."""

    def cut(self, client: int) -> bool:
        if client not in self.client or self.down >> client & 1:
            return False
        self.down |= 1 << client
        self.lost |= 1 << client
        return True

    def heal(self, client: int) -> bool:
        """Redis can be reached again. The client does not know, and goes past it until it tries."""
        if not self.lost >> client & 1:
            return False
        self.lost &= ~(1 << client)
        return True

    def come_back(self, client: int) -> bool:
        """The client tries Redis, by its timer or because it is used, and delivers what it missed."""
        bit = 1 << client
        if not self.down & ~self.lost & bit:
            return False
        self.down &= ~bit
        if self.missed & bit:
            self.missed &= ~bit
            self._forget()
        return True

    # -- flags and tokens

    def _needs_flag(self, number: int, kind: int) -> bool:
        """Whoever would write past Redis, or has written after his lease and cannot say so."""
        return kind == LEASE or (kind == DEFER and number in self.overdue and self.rig.variant.shuts_if_overdue)

    def _at_the_door(self, client: int) -> bool:
        """He raises a flag, and waits."""
        if self.wait[client] > 0:
            return False
        self.wait[client] = SERVE_TICKS if self.rig.variant.waits else 0
        return True

    def _vouches(self, number: int, kind: int) -> bool:
        """There is no token, and somebody wants an entry: he asks Redis for its time, then looks for flags, prolongs
        the token if there are none, and only then asks for the entry. Whether this is such a step.
        """
        bit = 1 << number
        if self.asking & bit:
            self.asking &= ~bit
            if self.is_flagged:
                self.vouched |= bit
            else:
                self._prolong(self.fresh[number])
        elif self.vouched & bit or (kind == LEASE and not self.rig.is_list):
            return False
        else:
            self.asking |= bit
            self.fresh[number] = SERVE_TICKS
        return True

    @property
    def is_flagged(self) -> bool:
        """What a look finds."""
        return any(wait >= 0 and self.rig.variant.sees_flag(client) for client, wait in enumerate(self.wait))

    def keep(self, client: int) -> bool:
        """The next of three steps, any of which may come late."""
        client %= len(self.asked)
        if (self.down | self.dead) >> client & 1:
            return False
        bit = 1 << client
        if not self.asked[client]:
            self.asked[client], self.looked = SERVE_TICKS, self.looked & ~bit
        elif not self.looked & bit:
            if self.is_flagged:
                self.asked[client] = 0
            else:
                self.looked |= bit
        else:
            self._prolong(self.asked[client])
            self.asked[client], self.looked = 0, self.looked & ~bit
        return True

    def _prolong(self, ticks: int) -> None:
        self.alive = max(self.alive, ticks)

    def vouch(self, _: int) -> bool:
        if self.alive or self.is_flagged:
            return False
        self._prolong(SERVE_TICKS)
        return True

    def _is_passing(self, client: int) -> bool:
        """Whether a write past Redis may still be stored."""
        return any(
            (self.by & ~self.struck) >> number & 1 and owner == client and self.due[number] >= 0
            for number, owner in enumerate(self.client)
        )

    def lower(self, client: int) -> bool:
        """Back at Redis, deliver and take the flag away."""
        if client >= len(self.wait) or (self.down | self.dead) >> client & 1:
            return False
        if self.wait[client] < 0 or (self.rig.variant.lowers_settled and self._is_passing(client)):
            return False
        if self.owes >> client & 1 and self.rig.variant.delivers_before:
            self._forget()
            self.owes &= ~(1 << client)
        self.wait[client] = -1
        return True

    def bury(self, client: int) -> bool:
        """The client is dead, and what it wrote past Redis is stored or never will be."""
        if not self.dead >> client & 1 or self.wait[client] < 0 or self._is_passing(client):
            return False
        if self.owes >> client & 1:
            if self.rig.variant.buries_in_era:
                self._suffer("begin_era")
            self.owes &= ~(1 << client)
        self.wait[client] = -1
        return True

    def _suffer(self, what: str) -> None:
        """Something after which no token is good."""
        self.redis = self.redis_states.suffer(what, self.redis)
        self._end_tokens()

    def _end_tokens(self) -> None:
        self.alive = self.looked = self.preborn = self.unrelayed = 0
        self.asked, self.fresh = [0] * len(self.asked), [0] * len(self.fresh)

    def _age(self) -> None:
        if self.alive:
            self.alive -= 1
        for ages in (self.asked, self.fresh) if self.rig.variant.asks_before else ():
            for place, left in enumerate(ages):
                if left:
                    ages[place] = left - 1
        for client, left in enumerate(self.wait):
            if left > 0:
                self.wait[client] = left - 1
            elif left == 0:
                self.lower(client) or self.bury(client)

    def _timers(self) -> None:
        """Who could reach Redis for a whole tick has tried."""
        for client in range(len(self.own)):
            if self.waited >> client & 1 and self.down & ~self.lost & (1 << client):
                if self.rig.variant.timer:
                    self.come_back(client)
                elif self.missed >> client & 1:
                    broken("P6", f"client {client} could reach Redis for two ticks and has not given it what it wrote")
        self.waited = self.down & ~self.lost

    # -- time

    def tick(self, _: int) -> bool:
        redis, saved = self.redis, self.saved
        self.redis = self.redis_states.suffer("tick", redis)
        self.saved = self.redis if saved == redis else self.redis_states.suffer("tick", saved)
        if self.flying or self.sent:
            self._approach_deadlines()
        if self.down or self.waited:
            self._timers()
        self._age()
        return True

    def _approach_deadlines(self) -> None:
        for number, left in enumerate(self.due):
            if left >= 0:
                self.due[number] = left - 1
            if left == 0 and self.held[number] >= 0:
                self.flying &= ~(1 << self.held[number])

    # -- the world

    def _forget(self) -> None:
        self.redis = self.redis_states.suffer("forget", self.redis)
        self.unrelayed = 0

    def relay(self, _: int) -> bool:
        if not (self.owes or self.unrelayed):
            return False
        self._forget()
        return True

    def save(self, _: int) -> bool:
        if self.saved == self.redis:
            return False
        self.saved = self.redis
        return True

    def restart(self, _: int) -> bool:
        self.redis = self.saved = self.redis_states.restart(self.redis, self.saved)
        self._end_tokens()
        return True

    def flush(self, _: int) -> bool:
        self._suffer("flush")
        return True

    def backup(self, _: int) -> bool:
        if self.kept == self.truth:
            return False
        self.kept = self.truth
        return True

    def restore(self, _: int) -> bool:
        """MongoDB is set back. What is under way may still report what was before; whatever begins now must not."""
        if self.kept == self.truth:
            return False
        self.truth = self.kept
        self._suffer("begin_era")
        self.returned = self.unannounced = 0
        self.overdue.clear()
        self.own = [0] * len(self.own)
        self.past = self.begun & self.live
        for number in range(len(self.steps)):
            self.need[number] = 0
        return True

    def evict_entry(self, _: int) -> bool:
        return self._evict("evict_entry")

    def evict_right(self, _: int) -> bool:
        return self._evict("evict_right")

    def evict_leases(self, _: int) -> bool:
        return self._evict("evict_leases")

    def _evict(self, what: str) -> bool:
        redis = self.redis_states.suffer(what, self.redis)
        changed = redis != self.redis
        self.redis = redis
        return changed
