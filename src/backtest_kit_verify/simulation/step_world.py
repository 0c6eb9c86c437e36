"""Steps under simulation: clients that write two documents together, beside others that write and read one of them.

What runs is what is shipped: the plans of steps and of single documents, and the memory model of the scripts. MongoDB
is modelled more closely than by the memory backend, because a transaction takes time: it is *open* once its documents
were written, which locks them, and is then committed or not. A commit that was sent may arrive at any time until
MongoDB ends the transaction because of its age. The scripts of the two documents are one or two, as in one or two
partitions.

An action is one indivisible thing that happens: `step_faults.py` has the list. After each, the promises of
`step_parties.py` are checked; at the end clients come back, time passes, and what is left must be right and cached
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from backtest_kit_mongo.backends.memory_cache import MemoryRedis
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence import plans
from backtest_kit_mongo.coherence import steps as st
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.record import Change, Key, Record
from backtest_kit_mongo.errors import (
    BacktestKitError,
    Conflict,
    Contended,
    ServerUnreachable,
    WriteOutcomeUnknown,
    WriteRefused,
)
from backtest_kit_verify.simulation.near_process import copied
from backtest_kit_verify.simulation.step_parties import (
    ATTEMPTS_MAX,
    CLIENTS,
    KEYS,
    LEASE_MS,
    SHIPPED,
    TO_REDIS,
    WRITE_MS,
    Client,
    Mongo,
    Run,
    Transaction,
    Variant,
    Workload,
    broken,
)

DOWN: Mapping[type[Any], Any] = {fx.Lease: None, st.LeaseAll: None, fx.CacheRead: fx.Right("", True)}
"""What a client that cannot reach Redis answers its plans. The other scripts raise `CacheDown`."""


class Operations:
    """Everything at one moment, and what operations do then.

    Attributes:
        late: scripts that Redis will execute although nobody waits.
        left: those that were sent last, whose clients go on and read their answers later.
        unheard: operations whose single write may still reach MongoDB although nobody waits.
        untold: by key, revisions that were written past Redis, which others may miss until they are reported.
    """

    def __init__(self, workload: Workload, variant: Variant = SHIPPED) -> None:
        self.workload, self.variant = workload, variant
        self.mongo = Mongo()
        self.redis = MemoryRedis(born=(1, -variant.open_ms - 1))
        self._token, self._tokens_given = "", 0
        for key in KEYS:
            self.redis.entries[key] = (1, self.mongo.find(key))
        self.clients = [Client(name, self.cache()) for name in CLIENTS]
        self.runs = [Run(number, op, self.clients[op.client]) for number, op in enumerate(workload.ops)]
        self.late: list[tuple[Any, str]] = []
        self.left: list[tuple[Any, Client]] = []
        self.unheard: list[Run] = []
        self.untold: dict[Key, set[int]] = {key: set() for key in KEYS}
        self.returned: dict[Key, int] = dict.fromkeys(KEYS, 1)
        self.saved = copied(self.redis)
        self.events_seen = 0

    def cache(self) -> Any:
        """A client's way to Redis; it remembers nothing."""
        return self.variant.cache_type(self.redis, self._tokens(), LEASE_MS, WRITE_MS, self.variant.open_ms)

    def _tokens(self) -> Iterator[str]:
        while True:
            yield self._token

    def _fresh(self) -> str:
        self._tokens_given += 1
        return f"t{self._tokens_given}"

    # -- operations

    def step(self, number: int) -> bool:
        run = self.runs[number]
        if run.has_ended:
            return False
        if run.plan is None:
            self._begin(run)
            return True
        effect = run.effect
        if type(effect) in TO_REDIS:
            self._ask_redis(run, effect, self._token_for(run, effect))
            return True
        if isinstance(effect, st.Again):
            self._go_on(run, run.plan.send, effect.attempt + 1 < ATTEMPTS_MAX)
            return True
        if isinstance(effect, fx.Find):
            self._go_on(run, run.plan.send, self.mongo.find(effect.key))
            return True
        return self._upsert(run) if isinstance(effect, fx.Upsert) else self._transact(run)

    def _begin(self, run: Run) -> None:
        own, key = run.client.own, run.key
        if run.op.kind == "read":
            run.floor = max(own.get(key, 0), self._newest_owed(key))
            plan: fx.Plan[Any] = plans.read(key)
        elif run.op.kind == "write":
            plan = plans.write(self._change(run, key))
        else:
            run.expected = self.mongo.rev(KEYS[0]) if run.op.kind == "cas" else None
            writes = tuple(st.Put(self._change(run, key), None if key is KEYS[1] else run.expected) for key in KEYS)
            groups = (KEYS,) if self.workload.is_one_partition else ((KEYS[0],), (KEYS[1],))
            plan = st.step(groups, writes, run.name, self.variant.lifetime_ms)
        run.plan = plan if self.variant.wrap is None else self.variant.wrap(plan)
        self._go_on(run, run.plan.send, None)

    def _newest_owed(self, key: Key) -> int:
        return max(rev for rev in range(self.returned[key] + 1) if rev not in self.untold[key])

    def _change(self, run: Run, key: Key) -> Change:
        payload = {"by": run.number}
        return Change(key, payload, pack(payload))

    def _go_on(self, run: Run, resume: Callable[[Any], Any], answer: Any) -> None:
        try:
            run.effect = resume(answer)
        except StopIteration as done:
            self._end(run, done.value)
        except BacktestKitError as error:
            self._end(run, error)

    def _throw(self, run: Run, error: BaseException) -> None:
        assert run.plan is not None
        self._go_on(run, run.plan.throw, error)

    def _end(self, run: Run, result: Any) -> None:
        run.has_ended, run.effect = True, None
        if isinstance(result, BacktestKitError):
            if run.is_step and not run.was_cut and not isinstance(result, WriteOutcomeUnknown):
                left = [key for key, token in run.leases.items() if token in self.redis.leases.get(key, {})]
                if left:
                    raise broken("A3", f"{run.op} ended with {type(result).__name__} and holds {len(left)}")
            return
        records = result.values() if run.is_step else (result,)
        for record in records:
            self._returned(run, record)

    def _returned(self, run: Run, record: Record) -> None:
        key, rev = record.key, record.rev
        history = self.mongo.history[key]
        if rev >= len(history) or history[rev].body != pack(record.payload):
            raise broken("P1", f"{run.op} returned revision {rev} as it was never stored")
        if run.op.kind == "read":
            if rev < run.floor:
                raise broken("P1", f"{run.op} returned revision {rev}; {run.floor} was returned before it began")
        else:
            run.client.own[key] = max(run.client.own.get(key, 0), rev)
        self.returned[key] = max(self.returned[key], rev)

    # -- Redis

    def _token_for(self, run: Run, effect: Any) -> str:
        is_again = isinstance(effect, st.LeaseAll) and bool(run.last_token)
        token = run.last_token if is_again and self.variant.same_token else self._fresh()
        if isinstance(effect, st.LeaseAll):
            run.last_token = token
        return token

    def _ask_redis(self, run: Run, effect: Any, token: str) -> None:
        assert run.plan is not None
        if not run.client.is_down:
            self._go_on(run, run.plan.send, self._execute(effect, token, run))
            return
        run.was_cut = True
        if isinstance(effect, fx.Defer):
            run.client.missed.update(dict.fromkeys(effect.keys))
            self._go_on(run, run.plan.send, None)
        elif type(effect) in DOWN:
            for key in effect.keys if isinstance(effect, st.LeaseAll) else (effect.key,):
                run.leases.pop(key, None)
                run.flying.pop(key, None)
                run.bypassed.add(key)
            self._go_on(run, run.plan.send, DOWN[type(effect)])
        else:
            self._throw(run, fx.CacheDown())

    def _execute(self, effect: Any, token: str, run: Run | None) -> Any:
        self._token = token
        answer = getattr(self.cache(), TO_REDIS[type(effect)])(effect)
        if isinstance(effect, fx.Lease | st.LeaseAll):
            for key in effect.keys if isinstance(effect, st.LeaseAll) else (effect.key,):
                self.untold[key].clear()
                if run is not None:
                    run.bypassed.discard(key)
                    run.leases[key] = token
                    run.flying[key] = self._until_ms(run)
        elif isinstance(effect, fx.Defer):
            self._reported(effect.keys)
        return answer

    def _until_ms(self, run: Run) -> int:
        """When what this operation sends to MongoDB can be committed last; of a step: begins to be."""
        return self.redis.now_ms + (WRITE_MS // 2 if run.is_step else WRITE_MS)

    def _reported(self, keys: tuple[Key, ...]) -> None:
        for key in keys:
            self.untold[key].clear()

    # -- MongoDB

    def _is_late(self, run: Run) -> bool:
        deadline_s = run.effect.deadline_s
        return deadline_s is not None and self.redis.now_ms / 1000 > deadline_s

    def _upsert(self, run: Run) -> bool:
        if self._is_late(run):
            self._ground(run)
            self._throw(run, ServerUnreachable())
        elif self.mongo.locks(run.key):
            return False  # It waits.
        else:
            record = self._store(run, run.effect.change).record
            self._ground(run)
            assert run.plan is not None
            self._go_on(run, run.plan.send, record)
        return True

    def _store(self, run: Run, change: Change) -> fx.Published:
        made = self.mongo.store(change, run.number)
        if change.key in run.bypassed:
            self.untold[change.key].add(made.record.rev)
        return made

    def _ground(self, run: Run) -> None:
        """Nothing that it sent can be committed any more."""
        run.flying.clear()

    def _transact(self, run: Run) -> bool:
        """Open the transaction; the next time, commit it."""
        mine = [one for one in self.mongo.open if one.run is run]
        if not mine:
            return self._open(run)
        self._commit(mine[0])
        return True

    def _open(self, run: Run) -> bool:
        assert run.plan is not None
        if run.effect is None or self._is_late(run):
            self._fail(run, WriteRefused())
        elif self.mongo.open:
            self._fail(run, Contended())
        elif self._is_unexpected(run) and not self.variant.ignores_expected:
            self._fail(run, Conflict())
        else:
            self.mongo.open.append(Transaction(run, self.redis.now_ms))
            if self.variant.commits_early:
                self.mongo.open[-1].is_sent = True
                made = tuple((self._early(write.change),) for write in run.effect.writes)
                self._go_on(run, run.plan.send, made)
        return True

    def _is_unexpected(self, run: Run) -> bool:
        return run.expected is not None and run.expected != self.mongo.rev(KEYS[0])

    def _early(self, change: Change) -> fx.Published:
        record = Record(change.key, self.mongo.rev(change.key) + 1, change.payload, None, False, "id")
        return fx.Published(record, "upsert", change.body)

    def _fail(self, run: Run, error: BaseException) -> None:
        self._ground(run)
        self._throw(run, error)

    def _commit(self, transaction: Transaction) -> None:
        run = transaction.run
        effect = run.effect if isinstance(run.effect, st.Atomic) else None
        changes = [self._change(run, key) for key in KEYS]
        if self.variant.one_by_one:
            self._store(run, changes[self.mongo.committed.get(run.number, 0)])
            if self.mongo.committed[run.number] < len(KEYS):
                return
        else:
            if self._is_unexpected(run):
                raise broken("A4", f"{run.op} expected revision {run.expected}")
            made = tuple((self._store(run, change),) for change in changes)
        self.mongo.open.remove(transaction)
        self._ground(run)
        if effect is not None and not transaction.is_sent and not run.has_ended:
            assert run.plan is not None
            if self.variant.one_by_one:
                made = tuple((fx.Published(self.mongo.find(key), "upsert", b""),) for key in KEYS)
            self._go_on(run, run.plan.send, made)

    def unknown(self, number: int) -> bool:
        """The write, or the commit of the transaction, was sent, but no answer came."""
        run = self.runs[number]
        if isinstance(run.effect, fx.Upsert):
            if self._is_late(run) or self.mongo.locks(run.key):
                return False
            self._leave(run)
            self._throw(run, WriteOutcomeUnknown())
            return True
        mine = [one for one in self.mongo.open if one.run is run and not one.is_sent]
        if not mine or not isinstance(run.effect, st.Atomic):
            return False
        mine[0].is_sent = True
        self._throw(run, WriteOutcomeUnknown())
        return True

    def lose(self, number: int) -> bool:
        """The connection breaks before the commit is sent: nothing is committed, but the transaction stays open for its
        time.
        """
        run = self.runs[number]
        mine = [one for one in self.mongo.open if one.run is run and not one.is_sent]
        if not mine or not isinstance(run.effect, st.Atomic):
            return False
        self.mongo.open.remove(mine[0])
        self.mongo.open.append(Transaction(self._nobody(run), mine[0].born_ms))
        self._fail(run, Contended())
        return True

    def _nobody(self, run: Run) -> Run:
        return Run(run.number, run.op, run.client, has_ended=True)

    def refuse(self, number: int) -> bool:
        run = self.runs[number]
        if not isinstance(run.effect, fx.Upsert | st.Atomic) or any(one.run is run for one in self.mongo.open):
            return False
        self._fail(run, WriteRefused())
        return True

    def land(self, _: int) -> bool:
        """A commit that was sent arrives, or a write of which nobody waits for the answer."""
        for transaction in self.mongo.open:
            if transaction.is_sent:
                self._commit(transaction)
                return True
        if self.unheard and not self.mongo.locks(self.unheard[0].key):
            run = self.unheard.pop(0)
            if self.redis.now_ms <= run.lands_until_ms:
                self._store(run, self._change(run, run.key))
            self._ground(run)
            return True
        return False

    def _leave(self, run: Run) -> None:
        """A write that MongoDB may commit although nobody waits."""
        run.lands_until_ms = run.flying.get(run.key, self.redis.now_ms + WRITE_MS)
        self.unheard.append(run)
