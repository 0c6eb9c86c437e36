"""The parties of the near cache's simulator: a process with its copies and its way to Redis, MongoDB with its past, and
the operations of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any, NamedTuple, TypeAlias

from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.backends.memory_cache import MemoryCache, MemoryRedis
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence import plans
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.near import Copies, Fetch, NearBegin, NearEnd, read_near
from backtest_kit_mongo.coherence.record import Change, Domain, Key, Record
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.ports import Cache, Near

PROCESSES = "ab"
KEYS = (Key(STATE, ("signal", "x")), Key(STATE, ("signal", "y")))
"""Two, because invalidations of all keys of a domain share one row of numbers."""
CHANNEL = "invalidations"


class Invalidation(NamedTuple):
    number: int
    key: Key


class Heartbeat(NamedTuple):
    """The answer to a heartbeat, as the script gave it."""

    asked: int
    incarnation: str
    number: int


TO_REDIS: Mapping[type[Any], str] = {
    fx.Lease: "lease",
    fx.Commit: "commit",
    fx.Abort: "abort",
    fx.Defer: "defer",
    fx.CacheRead: "read",
    fx.Fill: "fill",
}
"""What a cache's method is called that performs it."""


class Link(Cache):
    """A process's way to the cache. While Redis is away it answers as `RedisCache` does under
    `CC_ON_REDIS_DOWN=bypass`.

    Attributes:
        leaves: COMMIT is sent, and not waited for. left: those whose answers are not read yet.
    """

    def __init__(self, cache: MemoryCache) -> None:
        self.cache = cache
        self.is_down = False
        self.leaves = False
        self.left: list[fx.Commit] = []
        self.missed: dict[Key, None] = {}

    def open(self) -> None:
        return

    def confirm(self) -> None:
        return

    def close(self) -> None:
        return

    def publish(self, effect: fx.Publish) -> None:
        raise AssertionError("no document is written so")

    def partition_of(self, key: Key) -> str:
        return ""

    def lease_all(self, effect: Any) -> fx.Leased | None:
        raise AssertionError("no step is played here")

    def abort_all(self, effect: Any) -> None:
        self.lease_all(effect)

    def commit_all(self, effect: Any) -> None:
        self.lease_all(effect)

    def lease(self, effect: fx.Lease) -> fx.Leased | None:
        return None if self.is_down else self.cache.lease(effect)

    def read(self, effect: fx.CacheRead) -> Record | fx.Right:
        return fx.Right("") if self.is_down else self.cache.read(effect)

    def commit(self, effect: fx.Commit) -> None:
        self._require_up()
        if self.leaves:
            self.left.append(effect)
        else:
            self.cache.commit(effect)

    def settle(self) -> bool:
        """The oldest COMMIT that was left is executed, or it is known that it was not."""
        if not self.left:
            return False
        effect = self.left.pop(0)
        if self.is_down:
            self.missed[effect.key] = None
        else:
            self.cache.commit(effect)
        return True

    def abort(self, effect: fx.Abort) -> None:
        self._require_up()
        self.cache.abort(effect)

    def fill(self, effect: fx.Fill) -> None:
        self._require_up()
        self.cache.fill(effect)

    def _require_up(self) -> None:
        if self.is_down:
            raise fx.CacheDown

    def defer(self, effect: fx.Defer) -> None:
        if self.is_down:
            self.missed.update(dict.fromkeys(effect.keys))
        else:
            self.cache.defer(effect)

    def come_back(self) -> None:
        """What was missed is delivered before the cache is used again."""
        self.is_down = False
        self.cache.defer(fx.Defer(tuple(self.missed)))
        self.missed.clear()


class Process(Near):
    """A process: the `Near` of its store.

    Attributes:
        queue: what Redis has said and the process has not heard.
        seen, written: by key, the newest revision that a read returned, and that a write made that returned.
    """

    domains: frozenset[Domain] = frozenset({STATE})

    def __init__(
        self, name: str, copies: Copies, cache: MemoryCache, truth: MemoryTruth, now: Callable[[], int], drops_own: bool
    ) -> None:
        self.name = name
        self.copies = copies
        self.link = Link(cache)
        self.is_alive = True
        self.queue: list[Invalidation | Heartbeat] = []
        self.seen: dict[Key, int] = {}
        self.written: dict[Key, int] = {}
        self._now = now
        self._drops_own = drops_own
        store = Store(name, truth, self.link, self)
        # One step at a time, through the shipped table of who performs what.
        self._performers = store.performers(STATE)

    def perform(self, effect: fx.Effect[Any]) -> Any:
        return self._performers[type(effect)](effect)

    def get(self, key: Key) -> Record | None:
        return self.copies.get(key, self._now())

    def begin(self, effect: NearBegin) -> Fetch:
        return self.copies.begin(CHANNEL, effect.key)

    def end(self, effect: NearEnd) -> None:
        self.copies.end(effect.fetch, effect.record, is_entry=effect.is_entry)

    def drop(self, keys: Iterable[Key]) -> None:
        if self._drops_own:
            for key in keys:
                self.copies.drop(key)

    def close(self) -> None:
        return

    def hear(self, message: Invalidation | Heartbeat) -> None:
        if isinstance(message, Invalidation):
            self.copies.heard(CHANNEL, message.number, message.key)
        else:
            self.copies.confirmed(CHANNEL, message.asked, message.incarnation, message.number)


class Stored:
    """One revision of a document as MongoDB has it.

    Attributes:
        returned: when its write returned.
        reported: when an invalidation was published that makes others ask for it; that of a leased write precedes it.
    """

    __slots__ = ("body", "bypassed", "removed", "reported", "returned")

    def __init__(self, record: Record, bypassed: bool, returned: float = inf) -> None:
        self.body = pack(record.payload)
        self.removed = record.removed
        self.bypassed = bypassed
        self.returned = returned
        self.reported = inf if bypassed else -inf


class Past(MemoryTruth):
    """MongoDB, with all revisions that it ever had."""

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[Key, list[Stored]] = {}

    def put(self, effect: fx.Upsert) -> Record:
        """Store a document that has always been there."""
        record = super().upsert(effect)
        self.history[record.key] = [Stored(Record(record.key), False, -inf), Stored(record, False, -inf)]
        return record

    def upsert(self, effect: fx.Upsert) -> Record:
        record = super().upsert(effect)
        self.history[record.key].append(Stored(record, effect.deadline_s is None))
        return record

    def remove(self, effect: fx.SoftRemove) -> Record | None:
        record = super().remove(effect)
        if record is not None:
            self.history[record.key].append(Stored(record, effect.deadline_s is None))
        return record

    def has(self, record: Record) -> bool:
        """Whether this is what was stored under its revision."""
        history = self.history[record.key]
        if record.rev >= len(history):
            return False
        stored = history[record.rev]
        return stored.body == pack(record.payload) and stored.removed == record.removed


class Op(NamedTuple):
    """One operation: `read`, `write` or `remove`, by a process, of a key; both numbered."""

    kind: str
    process: int
    key: int = 0

    def __str__(self) -> str:
        return f"{self.kind}@{PROCESSES[self.process]}{':y' if self.key else ''}"


Workload: TypeAlias = tuple[Op, ...]


@dataclass(frozen=True)
class Variant:
    """What is simulated: by default what is shipped. A planted bug replaces one part.

    Attributes:
        drops_own: steps of writes drop the copies of their own process.
        counts_from_receipt: a heartbeat's age counts from when its answer was heard.
        heartbeats_overtake: answers to heartbeats travel apart from invalidations, and arrive first.
        leaves: COMMIT may be left.
    """

    copies_type: type[Copies] = Copies
    cache_type: type[MemoryCache] = MemoryCache
    drops_own: bool = True
    counts_from_receipt: bool = False
    heartbeats_overtake: bool = False
    leaves: bool = True


SHIPPED = Variant()


class Run:
    """An operation.

    Attributes:
        plan: None before it began, and after it ended.
        effect: what the plan asks for.
        floors: the revisions that a read must not fall below, by the promises that say so.
        answers: what the plan was answered: all that its future depends on.
    """

    __slots__ = ("answers", "effect", "floors", "has_ended", "key", "number", "op", "plan", "process")

    def __init__(self, number: int, op: Op, process: Process) -> None:
        self.number = number
        self.op = op
        self.process = process
        self.key = KEYS[op.key]
        self.plan: fx.Plan[Any] | None = None
        self.effect: Any = None
        self.has_ended = False
        self.floors: tuple[tuple[str, int], ...] = ()
        self.answers: tuple[Any, ...] = ()

    def make_plan(self) -> None:
        payload = {"by": [self.number]}
        change = Change(self.key, payload, pack(payload))
        match self.op.kind:
            case "read":
                self.plan = read_near(self.key)
            case "write":
                self.plan = plans.write(change)
            case _:
                self.plan = plans.remove(self.key)
        self.effect = next(self.plan)

    def finish(self) -> None:
        self.plan = self.effect = None
        self.has_ended = True


def copied(redis: MemoryRedis) -> MemoryRedis:
    """What a Redis holds, by itself. Records are never changed, so they are shared."""
    return replace(
        redis, entries=dict(redis.entries), rights=dict(redis.rights), numbers=dict(redis.numbers), stream=[],
        leases={key: dict(leases) for key, leases in redis.leases.items()}, listeners=[],
    )  # fmt: skip
