"""What goes wrong around the operations: clients that lose Redis and find it again, Redis, MongoDB, and the worker's
relay.

Each method is one action (`actions.py`); it says whether it could happen.
"""

from __future__ import annotations

from backtest_kit_verify.simulation.checker import broken
from backtest_kit_verify.simulation.situation import Situation


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

    def _timers(self) -> None:
        """Who could reach Redis for a whole tick has tried."""
        for client in range(len(self.own)):
            if self.waited >> client & 1 and self.down & ~self.lost & (1 << client):
                if self.rig.variant.timer:
                    self.come_back(client)
                elif self.missed >> client & 1:
                    broken("P6", f"client {client} could reach Redis for two ticks and has not given it what it wrote")
        self.waited = self.down & ~self.lost

    # -- the world

    def _forget(self) -> None:
        self.redis = self.redis_states.suffer("forget", self.redis)
        self.unrelayed = 0

    def relay(self, _: int) -> bool:
        if not self.unrelayed:
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
        self.unrelayed = self.preborn = 0
        return True

    def flush(self, _: int) -> bool:
        self.redis = self.redis_states.suffer("flush", self.redis)
        self.unrelayed = self.preborn = 0
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
        self.redis = self.redis_states.suffer("begin_era", self.redis)
        self.unrelayed = self.preborn = self.returned = self.unannounced = 0
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
