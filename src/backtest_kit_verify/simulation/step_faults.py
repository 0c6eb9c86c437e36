"""What goes wrong around steps: scripts that are answered late or never, clients that lose Redis, die or come back,
Redis itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence import steps as st
from backtest_kit_mongo.errors import Contended
from backtest_kit_verify.simulation.near_process import copied
from backtest_kit_verify.simulation.step_parties import KEYS, TICK_MS, TO_REDIS, Run
from backtest_kit_verify.simulation.step_world import Operations


class World(Operations):
    """A situation and everything that can happen in it. The methods in `ACTS` return False, and change nothing, if it
    cannot happen now.
    """

    # -- faults of scripts and clients

    def timeout(self, number: int) -> bool:
        """Redis executes the script, but its answer does not come, so the client takes Redis for gone."""
        run = self._sending(number)
        if run is None:
            return False
        self._execute(run.effect, self._token_for(run, run.effect), None)
        run.client.is_down = True
        self._ask_redis(run, run.effect, "")
        return True

    def delay(self, number: int) -> bool:
        """The script will be executed at some later time, or never; the client takes Redis for gone."""
        run = self._sending(number)
        if run is None:
            return False
        self.late.append((run.effect, self._token_for(run, run.effect)))
        run.client.is_down = True
        self._ask_redis(run, run.effect, "")
        return True

    def retry(self, number: int) -> bool:
        """The script was sent on a connection that broke, and will be sent again."""
        run = self._sending(number)
        if run is None:
            return False
        self.late.append((run.effect, self._token_for(run, run.effect)))
        return True

    def leave(self, number: int) -> bool:
        """COMMIT is sent, and its answer is read later."""
        run = self._sending(number)
        if run is None or run.plan is None or not isinstance(run.effect, fx.Commit | st.CommitAll):
            return False
        self.left.append((run.effect, run.client))
        self._go_on(run, run.plan.send, None)
        return True

    def settle(self, _: int) -> bool:
        """Redis executes a COMMIT that was left, or its client learns that it was not."""
        if not self.left:
            return False
        effect, client = self.left.pop(0)
        if client.is_down and client.is_alive:
            client.missed.update(dict.fromkeys(effect.keys if isinstance(effect, st.CommitAll) else (effect.key,)))
        else:
            self._execute(effect, "", None)
        return True

    def _sending(self, number: int) -> Run | None:
        run = self.runs[number]
        return None if type(run.effect) not in TO_REDIS or run.client.is_down else run

    def deliver(self, _: int) -> bool:
        if not self.late:
            return False
        effect, token = self.late.pop(0)
        self._execute(effect, token, None)
        return True

    def cut(self, number: int) -> bool:
        client = self.clients[number]
        if client.is_down or not client.is_alive:
            return False
        client.is_down = True
        return True

    def heal(self, number: int) -> bool:
        """The client reaches Redis again, and delivers what it missed before it does anything else."""
        client = self.clients[number]
        if not client.is_down or not client.is_alive:
            return False
        client.is_down = False
        if client.missed:
            self._execute(fx.Defer(tuple(client.missed)), "", None)
            client.missed.clear()
        return True

    def crash(self, number: int) -> bool:
        client = self.clients[number]
        if not client.is_alive:
            return False
        client.is_alive = False
        for run in self.runs:
            if run.client is client and not run.has_ended:
                self._crash(run)
        return True

    def _crash(self, run: Run) -> None:
        mine = [one for one in self.mongo.open if one.run is run]
        if isinstance(run.effect, fx.Upsert) and not self._is_late(run):
            self._leave(run)
        elif mine:
            mine[0].is_sent = True
        else:
            self._ground(run)
        if run.plan is not None:
            run.plan.close()
        run.has_ended, run.effect = True, None

    # -- time and the world

    def tick(self, _: int) -> bool:
        self.redis.now_ms += TICK_MS
        alive = list(self.mongo.open)
        self.mongo.end_old(self.redis.now_ms)
        for transaction in alive:
            if transaction not in self.mongo.open:
                run = transaction.run
                self._ground(run)
                if isinstance(run.effect, st.Atomic) and not run.has_ended:
                    self._throw(run, Contended())
        return True

    def relay(self, _: int) -> bool:
        """The recovery worker has seen all changes."""
        keys = tuple(key for key, revs in self.untold.items() if revs)
        if keys:
            self._execute(fx.Defer(keys), "", None)
        return bool(keys)

    def save(self, _: int) -> bool:
        self.saved = copied(self.redis)
        return True

    def restart(self, _: int) -> bool:
        """Redis is back, as another incarnation, with what it held when it was saved."""
        kept, redis = copied(self.saved), self.redis
        redis.entries, redis.rights, redis.leases, redis.born = kept.entries, kept.rights, kept.leases, kept.born
        redis.restart()
        self._reported(KEYS)
        for run in self.runs:
            run.was_cut = True  # What it released may be back.
        return True

    def flush(self, _: int) -> bool:
        self.redis.flush()
        self.events_seen = 0
        self._reported(KEYS)
        return True

    def evict_entry(self, _: int) -> bool:
        had_any = bool(self.redis.entries)
        self.redis.entries.clear()
        return had_any

    def evict_right(self, _: int) -> bool:
        had_any = bool(self.redis.rights)
        self.redis.rights.clear()
        return had_any


ACTS: Mapping[str, Callable[[World, int], bool]] = {
    "step": World.step, "timeout": World.timeout, "delay": World.delay, "retry": World.retry, "unknown": World.unknown,
    "lose": World.lose, "refuse": World.refuse, "leave": World.leave, "settle": World.settle,
    "cut": World.cut, "heal": World.heal, "crash": World.crash,
    "tick": World.tick, "land": World.land, "deliver": World.deliver, "relay": World.relay, "save": World.save,
    "restart": World.restart, "flush": World.flush, "evict-entry": World.evict_entry, "evict-right": World.evict_right,
}  # fmt: skip
