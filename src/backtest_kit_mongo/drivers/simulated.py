"""The driver of the simulator: it performs one step of one plan at a time, in whatever order it is told.

Plans are pure: what a plan asks for next depends on nothing but the answers that it was given. The memory backends are
pure in the same sense. So each step is computed once, by running the shipped code, and remembered: a plan becomes a
tree of `Step`s that grows where a schedule reaches a new history of answers, and the cache and the truth become tables
from (state, step) to (state, answer). States are small integers. Millions of interleavings then cost a few dictionary
look-ups a step, and two schedules that reach the same situation can be seen to do so.

Time is counted in ticks, and every stored time is relative to now; what lies far enough back to make no difference is
cut off. That keeps the number of states small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.backends.memory_cache import MemoryCache, MemoryRedis
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.invariants import require
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.errors import BacktestKitError, ServerUnreachable, WriteOutcomeUnknown, WriteRefused

MakePlan: TypeAlias = Callable[[], fx.Plan[Any]]

READ, LEASE, COMMIT, FILL, ABORT, DEFER, LOOK, STORE, DONE, FAILED = range(10)
"""Kinds of steps. Up to DEFER the cache performs them, LOOK and STORE the truth; DONE and FAILED end a plan."""

KINDS: Mapping[type[fx.Effect[Any]], int] = {
    fx.CacheRead: READ,
    fx.Lease: LEASE,
    fx.Commit: COMMIT,
    fx.Fill: FILL,
    fx.Abort: ABORT,
    fx.Defer: DEFER,
    fx.Find: LOOK,
    fx.Rows: LOOK,
    fx.Upsert: STORE,
    fx.SoftRemove: STORE,
    fx.Merge: STORE,
}


class Answer:
    """What a plan is answered. Equal answers of one simulation are the same object, so they compare by identity.

    Attributes:
        value: sent into the plan, unless `error` is set.
        error: raised in the plan.
        token: the number of the token that the answer carries, -1 for none.
        stamp: the number of the token that is the stamp of the entry that LEASE deleted, -1 for none.
    """

    __slots__ = ("error", "stamp", "token", "value")

    def __init__(self, value: Any = None, error: type[BaseException] | None = None) -> None:
        self.value = value
        self.error = error
        self.token = -1
        self.stamp = -1
        if isinstance(value, fx.Leased | fx.Right) and value.token:
            self.token = int(value.token)
        if isinstance(value, fx.Leased) and value.prior is not None and value.prior.id.isdigit():
            self.stamp = int(value.prior.id)

    def __repr__(self) -> str:
        return self.error.__name__ if self.error else repr(self.value)


NO_LEASE = Answer(None)
NO_RIGHT = Answer(fx.Right(""))
NOTHING = Answer(None)
CACHE_DOWN = Answer(error=fx.CacheDown)
NOT_SENT = Answer(error=ServerUnreachable)
REFUSED = Answer(error=WriteRefused)
OUTCOME_UNKNOWN = Answer(error=WriteOutcomeUnknown)

UNREACHED: Mapping[int, Answer] = {
    READ: NO_RIGHT,
    LEASE: NO_LEASE,
    COMMIT: CACHE_DOWN,
    FILL: CACHE_DOWN,
    ABORT: CACHE_DOWN,
    DEFER: NOTHING,
}
"""What a client that cannot reach Redis answers its plans under `CC_ON_REDIS_DOWN=bypass`."""


class Step:
    """A place in a plan: what it asks for after a certain history of answers, or how it ended.

    Attributes:
        effect: what is asked for; None at the end.
        result: the plan's answer if `kind` is DONE.
        content: identifies a result that is a record by revision and payload.
        on_cache, on_truth: remembered answers, by the state of the backend.
    """

    __slots__ = ("_answers", "_make", "after", "content", "effect", "kind", "on_cache", "on_truth", "result")

    def __init__(self, make: MakePlan, answers: tuple[Answer, ...] = ()) -> None:
        self._make = make
        self._answers = answers
        self.after: dict[Answer, Step] = {}
        self.on_cache: dict[int, tuple[int, Answer]] = {}
        self.on_truth: dict[int, tuple[int, Answer]] = {}
        self.effect: fx.Effect[Any] | None = None
        self.result: Any = None
        self.content: Content = ()
        plan = make()
        try:
            effect = plan.send(None)
            for answer in answers:
                effect = plan.throw(answer.error()) if answer.error else plan.send(answer.value)
        except StopIteration as done:
            self.kind = DONE
            self.result = done.value
            if isinstance(done.value, Record):
                self.content = content_of(done.value)
        except BacktestKitError as error:
            self.kind = FAILED
            self.result = error
        else:
            self.effect = effect
            self.kind = KINDS[type(effect)]
            # What a crash does to a plan. It may not ask for anything any more; Python raises if it does.
            plan.close()

    def follow(self, answer: Answer) -> Step:
        """The step after this one was answered so."""
        found = self.after.get(answer)
        if found is None:
            found = self.after[answer] = Step(self._make, (*self._answers, answer))
        return found


Content: TypeAlias = tuple[Any, ...]


def content_of(record: Record) -> Content:
    """A record as a value that can be compared and hashed."""
    return (record.key, record.rev, record.removed, record.id, pack(record.payload))


class Answers:
    """One object for each different answer."""

    def __init__(self) -> None:
        self._known: dict[Content, Answer] = {}

    def answer(self, value: Any) -> Answer:
        return self._known.setdefault(self._identity(value), Answer(value))

    def _identity(self, value: Any) -> Content:
        if isinstance(value, Record):
            return content_of(value)
        if isinstance(value, fx.Leased):
            return ("lease", value.token, value.deadline_s, None if value.prior is None else content_of(value.prior))
        if isinstance(value, fx.Right):
            return ("right", value.token)
        if isinstance(value, Mapping):
            return ("rows", *(content_of(record) for record in value.values()))
        if isinstance(value, tuple):
            return ("written", *(content_of(published.record) for published in value))
        return ("nothing",)


class View(NamedTuple):
    """What a state of Redis means. Sets of tokens are bit masks over token numbers.

    Attributes:
        entry: revision of the valid entry, -1 if there is none.
        stamp: token number of the valid entry if it is a ledger's stamp, -1 otherwise.
        right: token number of the valid install right, -1 if there is none.
        leases: tokens whose lease has not ended.
        born: this incarnation was seen.
        is_open: this incarnation may install.
    """

    entry: int
    stamp: int
    right: int
    leases: int
    born: bool
    is_open: bool


class RedisSteps:
    """The states of one Redis as far as they concern one key, and what the steps of plans and faults do to them.

    Args:
        key: the document or, with stamps instead of records in its entries, the ledger.
        lease_ticks, write_ticks: the protocol's T, and how long after LEASE the truth may commit.
        cache_type, redis_type: what performs the steps and suffers the faults; others than these only in tests that
            plant bugs.
    """

    def __init__(
        self,
        key: Key,
        lease_ticks: int,
        write_ticks: int,
        cache_type: type[MemoryCache] = MemoryCache,
        redis_type: type[MemoryRedis] = MemoryRedis,
    ) -> None:
        self._key = key
        self._lease_ticks = lease_ticks
        self._redis = redis_type()
        self._cache = cache_type(self._redis, self._tokens(), lease_ticks, write_ticks)
        self._token = 0
        self._handlers: dict[type[fx.Effect[Any]], Callable[[Any], Any]] = {
            fx.CacheRead: self._cache.read,
            fx.Lease: self._cache.lease,
            fx.Commit: self._cache.commit,
            fx.Fill: self._cache.fill,
            fx.Abort: self._cache.abort,
            fx.Defer: self._cache.defer,
        }
        self._answers = Answers()
        self._numbers: dict[Content, int] = {}
        self._states: list[tuple[Any, ...]] = []
        self._after_fault: dict[tuple[str, int], int] = {}
        self.views: list[View] = []
        self._redis.born = (self._redis.incarnation, -lease_ticks - 1)
        self.start = self._number()
        """Empty, and open."""

    def _tokens(self) -> Iterator[str]:
        while True:
            yield str(self._token)

    def perform(self, state: int, step: Step, token: int) -> tuple[int, Answer]:
        """What a step does to a state, and its answer. `token` is the number of the fresh token that it may use.

        Raises:
            InvariantViolation: the memory model found a broken invariant.
        """
        assert step.effect is not None
        self._load(state)
        self._token = token
        value = self._handlers[type(step.effect)](step.effect)
        return self._number(), self._answers.answer(value)

    def suffer(self, name: str, state: int) -> int:
        """What a fault, or the clock, does to a state: `tick`, `evict_entry`, `evict_right`, `evict_leases`, `flush`,
        `forget` (entry and right are deleted).
        """
        found = self._after_fault.get((name, state))
        if found is None:
            self._load(state)
            getattr(self, f"_{name}")()
            found = self._after_fault[name, state] = self._number()
        return found

    def restart(self, state: int, saved: int) -> int:
        """The state after Redis came back with what it held at `saved`, as another incarnation."""
        now = self._states[state][0]
        self._load(saved)
        self._redis.incarnation = now
        self._redis.restart()
        return self._number()

    def _tick(self) -> None:
        self._redis.now_ms += 1

    def _evict_entry(self) -> None:
        self._redis.entries.clear()

    def _evict_right(self) -> None:
        self._redis.rights.clear()

    def _evict_leases(self) -> None:
        self._redis.leases.clear()

    def _flush(self) -> None:
        self._redis.flush()

    def _forget(self) -> None:
        self._cache.defer(fx.Defer((self._key,)))

    def describe(self, state: int) -> str:
        """The state in one line, for people."""
        incarnation, entry, right, leases, born = self._states[state]
        parts = [f"incarnation {incarnation}{'' if self.views[state].is_open else ', not open'}"]
        if entry:
            parts.append(f"entry rev {entry[1].rev}{self._of(entry[0], incarnation)}")
        if right:
            parts.append(f"right {right[1]}{self._of(right[0], incarnation)}")
        if leases:
            parts.append("leases " + " ".join(f"{token}{'' if left >= 0 else ' (ended)'}" for token, left in leases))
        del born
        return "; ".join(parts)

    @staticmethod
    def _of(stamp: int, incarnation: int) -> str:
        return "" if stamp == incarnation else f" of incarnation {stamp}"

    # -- states and their numbers

    def _load(self, state: int) -> None:
        redis, key = self._redis, self._key
        incarnation, entry, right, leases, born = self._states[state]
        redis.incarnation, redis.born, redis.now_ms = incarnation, born, 0
        redis.entries = {key: entry} if entry else {}
        redis.rights = {key: right} if right else {}
        redis.leases = {key: dict(leases)} if leases else {}
        redis.stream.clear()

    def _number(self) -> int:
        redis, key = self._redis, self._key
        entry, right = redis.entries.get(key), redis.rights.get(key)
        # A lease that ended a tick ago and one that ended long ago are alike, and so are births before the quarantine.
        leases = tuple((token, max(end - redis.now_ms, -1)) for token, end in redis.leases.get(key, {}).items())
        born = redis.born and (redis.born[0], max(redis.born[1] - redis.now_ms, -self._lease_ticks - 1))
        identity = (redis.incarnation, entry and (entry[0], content_of(entry[1])), right, frozenset(leases), born)
        number = self._numbers.get(identity)
        if number is None:
            number = self._numbers[identity] = len(self._states)
            self._states.append((redis.incarnation, entry, right, leases, born))
            self.views.append(self._view(number))
        return number

    def _view(self, state: int) -> View:
        incarnation, entry, right, leases, born = self._states[state]
        is_born = born is not None and born[0] == incarnation
        is_open = is_born and -born[1] > self._lease_ticks
        has_entry = entry is not None and entry[0] == incarnation
        has_right = right is not None and right[0] == incarnation
        require("I8", all(held[0] <= incarnation for held in (entry, right, born) if held), self.describe_raw(state))
        require("I10", is_open or not (has_entry or has_right), self.describe_raw(state))
        return View(
            entry=entry[1].rev if has_entry else -1,
            stamp=int(entry[1].id) if has_entry and not self._key.domain.cached else -1,
            right=int(right[1]) if has_right else -1,
            leases=sum(1 << int(token) for token, left in leases if left >= 0),
            born=is_born,
            is_open=is_open,
        )
