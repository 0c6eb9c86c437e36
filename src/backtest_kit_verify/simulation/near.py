"""The near cache under simulation: two processes with copies, one Redis, one MongoDB, and what each process hears.

What runs is what is shipped: `Copies`, the plans, the memory backends, and `Store`, which performs each step and drops
own copies. A process hears one ordered channel, a queue here: what Redis says enters it at once and is *heard* later,
one message after the other, or is lost without a word. An action is one indivisible thing that happens; the promises
below are checked at each answer of a read and at the end.

*What is modelled and not executed:* the thread of `backends/near_cache.py`. Steps that Redis executes late are left to
the simulator of the protocol, which shows that entries stay right.

*Bypass.* Others may miss what a process without Redis wrote until D after it is *reported*: an invalidation of that key
is published, by that process when it is back, by the recovery worker or by any writer. The process itself never misses
it.

A world starts warm: each document is stored once and is an entry, each process has just heard a heartbeat and has no
copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from backtest_kit_mongo.backends.memory_cache import MemoryCache, MemoryRedis, counter
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.record import Change, Key, Record
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.errors import (
    InvariantViolation,
    ServerUnreachable,
    WriteOutcomeUnknown,
    WriteRefused,
)
from backtest_kit_verify.simulation.near_process import (
    KEYS,
    PROCESSES,
    SHIPPED,
    TO_REDIS,
    Heartbeat,
    Invalidation,
    Past,
    Process,
    Run,
    Variant,
    Workload,
    copied,
)
from backtest_kit_verify.simulation.states import LEASE_TICKS, WRITE_TICKS

STALENESS_TICKS = 1
"""D. A larger one only adds states."""
PROMISES = {
    "N0": "a read returns what was stored under its revision",
    "N1": "a read misses no write that had returned D before it began",
    "N2": "no read of a process returns an older revision than one that ended before it began",
    "N3": "a read of a process that begins after a write of it returned sees that or a newer one",
    "N4": "when all is quiet and a heartbeat was heard, no copy differs from MongoDB",
}

STORING = (fx.Upsert, fx.SoftRemove)


def broken(name: str, detail: str) -> InvariantViolation:
    return InvariantViolation(f"{name} ({PROMISES[name]}) does not hold: {detail}")


class World:
    """Everything at one moment. The methods in `ACTS` are what can happen, to the operation or process of that number;
    they return False, and change nothing, if it cannot happen now.

    Attributes:
        flying: writes that may still reach MongoDB although nobody waits.
    """

    def __init__(self, workload: Workload, variant: Variant = SHIPPED) -> None:
        self.variant = variant
        self.truth = Past()
        self.redis = MemoryRedis(born=(1, -LEASE_TICKS - 1))
        self._tokens = counter("")
        for key in KEYS:
            self.redis.entries[key] = (1, self.truth.put(fx.Upsert(Change(key, {"by": []}, pack({"by": []})), None)))
        self.processes = [self._make_process(name) for name in PROCESSES]
        self.redis.listeners.append(self._publish)
        self.runs = [Run(number, op, self.processes[op.process]) for number, op in enumerate(workload)]
        self.flying: list[Any] = []
        self.saved = copied(self.redis)
        for process in range(len(PROCESSES)):
            self.ask(process)
            self.hear(process)

    def _make_process(self, name: str) -> Process:
        variant = self.variant
        copies = variant.copies_type(1 << 20, STALENESS_TICKS)
        return Process(name, copies, self._make_cache(), self.truth, lambda: self.redis.now_ms, variant.drops_own)

    def _make_cache(self) -> MemoryCache:
        return self.variant.cache_type(self.redis, self._tokens, LEASE_TICKS, WRITE_TICKS)

    def _publish(self, number: int, key: Key) -> None:
        message = Invalidation(number, key)
        for process in self.processes:
            if process.is_alive:
                process.queue.append(message)
        for stored in self.truth.history[key]:
            if stored.reported == inf:
                stored.reported = self.redis.now_ms

    # -- operations

    def step(self, number: int) -> bool:
        run = self.runs[number]
        if run.has_ended:
            return False
        if run.plan is None:
            if run.op.kind == "read":
                self._begin_read(run)
                return True
            run.make_plan()
        if isinstance(run.effect, STORING) and self._is_late(run.effect):
            self._throw(run, ServerUnreachable())
        else:
            self._perform(run)
        return True

    def _begin_read(self, run: Run) -> None:
        run.floors = self._floors(run)
        copy = run.process.get(run.key)
        if copy is None:
            run.make_plan()
            return
        self._end(run, copy)
        # Callers do as they like with what they were given.
        copy.payload["by"].append("its reader")

    def _perform(self, run: Run) -> None:
        assert run.plan is not None
        try:
            answer = run.process.perform(run.effect)
        except fx.CacheDown as error:
            self._throw(run, error)
        else:
            self._go_on(run, run.plan.send, answer)

    def _throw(self, run: Run, error: Exception) -> None:
        assert run.plan is not None
        self._go_on(run, run.plan.throw, error)

    def _go_on(self, run: Run, resume: Callable[[Any], fx.Effect[Any]], answer: Any) -> None:
        run.answers = (*run.answers, answer)
        try:
            run.effect = resume(answer)
        except StopIteration as done:
            self._end(run, done.value)
        except (ServerUnreachable, WriteOutcomeUnknown, WriteRefused):
            run.finish()

    def leave(self, number: int) -> bool:
        """COMMIT is sent, and the operation returns."""
        run = self.runs[number]
        link = run.process.link
        if link.is_down or not isinstance(run.effect, fx.Commit):
            return False
        link.leaves = True
        self._perform(run)
        link.leaves = False
        return True

    def _is_late(self, effect: Any) -> bool:
        """Whether MongoDB does not commit this write any more."""
        return effect.deadline_s is not None and self.redis.now_ms / 1000 > effect.deadline_s

    # -- promises

    def _floors(self, run: Run) -> tuple[tuple[str, int], ...]:
        """What a read that begins now must see at least."""
        process, history = run.process, self.truth.history[run.key]
        old = self.redis.now_ms - STALENESS_TICKS
        rev = len(history) - 1
        while history[rev].returned >= old or history[rev].reported >= old:
            rev -= 1
        seen = process.seen.get(run.key, 0)
        while history[seen].reported >= old:
            seen -= 1
        return (("N3", process.written.get(run.key, 0)), ("N2", seen), ("N1", rev))

    def _end(self, run: Run, record: Record | None) -> None:
        run.finish()
        if record is None:
            return  # There was nothing to remove.
        rev, process, key = record.rev, run.process, run.key
        if run.op.kind != "read":
            self.truth.history[key][rev].returned = self.redis.now_ms
            process.written[key] = max(process.written.get(key, 0), rev)
            return
        for name, floor in run.floors:
            if rev < floor:
                raise broken(name, f"{run.op} returned revision {rev}; it must not fall below {floor}")
        if not self.truth.has(record):
            raise broken("N0", f"{run.op} returned revision {rev} with {record.payload}")
        process.seen[key] = max(process.seen.get(key, 0), rev)

    def check_quiet(self) -> None:
        """All operations have ended: let processes come back, the worker relay, and all that was said be heard.

        Raises:
            InvariantViolation: N4 does not hold.
        """
        alive = [number for number, process in enumerate(self.processes) if process.is_alive]
        for number in alive:
            while self.processes[number].link.settle():
                pass
            self.heal(number)
        self.relay(0)
        for number in alive:
            self.ask(number)
            while self.hear(number):
                pass
            self._check_copies(self.processes[number])

    def _check_copies(self, process: Process) -> None:
        for key in KEYS:
            copy, newest = process.get(key), len(self.truth.history[key]) - 1
            if copy is not None and (copy.rev != newest or not self.truth.has(copy)):
                raise broken("N4", f"process {process.name} serves revision {copy.rev}; MongoDB has {newest}")

    # -- faults of operations

    def timeout(self, number: int) -> bool:
        """Redis performs the step, but its answer does not come, so the process takes Redis for gone."""
        run = self.runs[number]
        link = run.process.link
        if link.is_down or type(run.effect) not in TO_REDIS:
            return False
        getattr(link.cache, TO_REDIS[type(run.effect)])(run.effect)
        link.is_down = True
        self._perform(run)
        return True

    def unknown(self, number: int) -> bool:
        """The write was sent to MongoDB, but no answer came."""
        run = self.runs[number]
        if not isinstance(run.effect, STORING) or self._is_late(run.effect):
            return False
        self.flying.append(run.effect)
        self._throw(run, WriteOutcomeUnknown())
        return True

    def refuse(self, number: int) -> bool:
        run = self.runs[number]
        if not isinstance(run.effect, STORING):
            return False
        self._throw(run, WriteRefused())
        return True

    def land(self, _: int) -> bool:
        """MongoDB commits the oldest write whose sender no longer waits, or never will."""
        if not self.flying:
            return False
        effect = self.flying.pop(0)
        if not self._is_late(effect):
            if isinstance(effect, fx.Upsert):
                self.truth.upsert(effect)
            else:
                self.truth.remove(effect)
        return True

    # -- what processes hear

    def ask(self, number: int) -> bool:
        """A heartbeat: asked for, and executed at once. How long it takes does not matter; when the answer is heard
        does.
        """
        process = self.processes[number]
        if not process.is_alive or process.link.is_down:
            return False
        heartbeat = Heartbeat(self.redis.now_ms, *process.link.cache.heartbeat(STATE.name))
        process.queue.insert(0 if self.variant.heartbeats_overtake else len(process.queue), heartbeat)
        return True

    def hear(self, number: int) -> bool:
        process = self.processes[number]
        if not process.queue:
            return False
        message = process.queue.pop(0)
        if self.variant.counts_from_receipt and isinstance(message, Heartbeat):
            message = message._replace(asked=self.redis.now_ms)
        process.hear(message)
        return True

    def lose(self, number: int) -> bool:
        """One message is lost without a word, as when the client library connects again by itself."""
        queue = self.processes[number].queue
        return bool(queue) and bool(queue.pop(0))

    def break_off(self, number: int) -> bool:
        queue = self.processes[number].queue
        had_any = bool(queue)
        queue.clear()
        return had_any

    def lost(self, number: int) -> bool:
        """The connection is lost, and the process knows."""
        process = self.processes[number]
        process.queue.clear()
        process.copies.lost()
        return process.is_alive

    def evict_copy(self, number: int) -> bool:
        copies = self.processes[number].copies
        had_any = len(copies) > 0
        for key in KEYS:
            copies._remove(key)
        return had_any

    # -- faults of processes

    def cut(self, number: int) -> bool:
        process = self.processes[number]
        if process.link.is_down or not process.is_alive:
            return False
        process.link.is_down = True
        return True

    def heal(self, number: int) -> bool:
        process = self.processes[number]
        if not process.link.is_down or not process.is_alive:
            return False
        process.link.come_back()
        return True

    def crash(self, number: int) -> bool:
        process = self.processes[number]
        if not process.is_alive:
            return False
        process.is_alive = False
        process.queue.clear()
        for run in self.runs:
            if run.process is process:
                if isinstance(run.effect, STORING):
                    self.flying.append(run.effect)
                if run.plan is not None:
                    run.plan.close()
                run.finish()
        return True

    # -- faults of the world

    def tick(self, _: int) -> bool:
        self.redis.now_ms += 1
        return True

    def relay(self, _: int) -> bool:
        """The recovery worker reports what was written past Redis."""
        cache, reported = self._make_cache(), False
        for key, history in self.truth.history.items():
            if any(stored.reported == inf for stored in history):
                cache.relay(key, len(history) - 1)
                reported = True
        return reported

    def save(self, _: int) -> bool:
        self.saved = copied(self.redis)
        return True

    def restart(self, _: int) -> bool:
        """Redis is back, as another incarnation, with what it held when it was saved."""
        kept, redis = copied(self.saved), self.redis
        redis.entries, redis.rights, redis.leases = kept.entries, kept.rights, kept.leases
        redis.born, redis.numbers = kept.born, kept.numbers
        redis.restart()
        return True

    def flush(self, _: int) -> bool:
        """FLUSHALL. It takes time, if only a millisecond: no Redis is first seen twice in one moment."""
        self.redis.flush()
        return self.tick(0)

    def evict_entry(self, _: int) -> bool:
        had_any = bool(self.redis.entries)
        self.redis.entries.clear()
        return had_any

    def evict_right(self, _: int) -> bool:
        had_any = bool(self.redis.rights)
        self.redis.rights.clear()
        return had_any


ACTS: Mapping[str, Callable[[World, int], bool]] = {
    "step": World.step, "timeout": World.timeout, "unknown": World.unknown, "refuse": World.refuse,
    "leave": World.leave, "settle": lambda world, process: world.processes[process].link.settle(),
    "ask": World.ask, "hear": World.hear, "lose": World.lose, "break": World.break_off, "lost": World.lost,
    "evict-copy": World.evict_copy, "cut": World.cut, "heal": World.heal, "crash": World.crash,
    "tick": World.tick, "land": World.land, "relay": World.relay, "save": World.save, "restart": World.restart,
    "flush": World.flush, "evict-entry": World.evict_entry, "evict-right": World.evict_right,
}  # fmt: skip
