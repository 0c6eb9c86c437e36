"""Redis and MongoDB as tables: (state, step) -> (state, answer).

The memory backends are functions of what they hold, so each entry is computed once, by the shipped `MemoryCache` and
`MemoryTruth`, and remembered. States are small integers. Time is counted in ticks, and every stored time is relative to
now; what lies so far back that it makes no difference is cut off, which keeps the number of states small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.backends.memory_cache import MemoryCache, MemoryRedis
from backtest_kit_mongo.coherence import deletion, lists
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence.invariants import require
from backtest_kit_mongo.coherence.record import Change, Key, Record
from backtest_kit_verify.simulation.driver import LEASE, READ, STORE, Answer, Answers, Content, Step, content_of

LEASE_TICKS, WRITE_TICKS, SERVE_TICKS = 2, 1, 1
"""The protocol's T, and how long after LEASE the truth may commit. Larger numbers only add states: a lease
can be held by a write that may land, held by one that may not, or ended.
"""


class View(NamedTuple):
    """What a state of Redis means. Sets of tokens are bit masks over token numbers.

    Attributes:
        entry: revision of the valid entry, -1 if there is none.
        stamp: token number of the valid entry if it is a list's stamp, -1 otherwise.
        right: token number of the valid install right, -1 if there is none.
        leases: tokens whose lease has not ended.
        is_born: this incarnation was seen.
        is_open: this incarnation may install.
    """

    entry: int
    stamp: int
    right: int
    leases: int
    is_born: bool
    is_open: bool


class Held(NamedTuple):
    """What Redis holds of one key; times are relative to now."""

    incarnation: int
    entry: tuple[int, Record] | None
    right: tuple[int, str] | None
    leases: tuple[tuple[str, int], ...]
    born: tuple[int, int] | None

    @property
    def is_born(self) -> bool:
        return self.born is not None and self.born[0] == self.incarnation

    @property
    def is_open(self) -> bool:
        return self.born is not None and self.is_born and -self.born[1] > LEASE_TICKS

    def __str__(self) -> str:
        parts = [f"incarnation {self.incarnation}{'' if self.is_open else ', not open'}"]
        if self.entry:
            record = self.entry[1]
            what = f"rev {record.rev}" if record.rev or not record.id else f"stamp {record.id}"
            parts.append(f"entry {what}{self._of(self.entry[0])}")
        if self.right:
            parts.append(f"right {self.right[1]}{self._of(self.right[0])}")
        parts.extend(f"lease {token}{'' if left >= 0 else ' (ended)'}" for token, left in self.leases)
        return "; ".join(parts)

    def _of(self, incarnation: int) -> str:
        return "" if incarnation == self.incarnation else f" (of incarnation {incarnation})"


class RedisStates:
    """One Redis, as far as it concerns one key: a document, or a list with stamps for entries.

    Types other than the shipped ones have bugs planted in them.
    """

    def __init__(
        self, key: Key, cache_type: type[MemoryCache] = MemoryCache, redis_type: type[MemoryRedis] = MemoryRedis
    ) -> None:
        self._key = key
        self._redis = redis_type()
        self._cache = cache_type(self._redis, self._tokens(), LEASE_TICKS, WRITE_TICKS)
        self._token = 0
        self._handlers: dict[type[fx.Effect[Any]], Callable[[Any], Any]] = {
            fx.CacheRead: self._cache.read,
            fx.Lease: self._cache.lease,
            fx.Commit: self._cache.commit,
            fx.Fill: self._cache.fill,
            fx.Abort: self._cache.abort,
            fx.Publish: self._cache.publish,
            fx.Defer: self._cache.defer,
        }
        self._answers = Answers()
        self._numbers: dict[Content, int] = {}
        self._performed: dict[tuple[int, str, int], tuple[int, Answer]] = {}
        self._after_fault: dict[tuple[str, int], int] = {}
        self.held: list[Held] = []
        self.views: list[View] = []
        self._redis.born = (self._redis.incarnation, -LEASE_TICKS - 1)
        self.start = self._number()
        """Empty, and open."""

    def _tokens(self) -> Iterator[str]:
        while True:
            yield str(self._token)

    def perform(self, state: int, step: Step, token: int) -> tuple[int, Answer]:
        """What a step does to a state, and its answer. `token` is the number of the fresh token that it may use.

        Raises:
            InvariantViolation: the new state breaks I8 or I10.
        """
        # Other steps take no fresh token.
        asked = (state, step.asked, token if step.kind in (READ, LEASE) else -1)
        found = self._performed.get(asked)
        if found is None:
            self._load(state)
            self._token = token
            assert step.effect is not None
            value = self._handlers[type(step.effect)](step.effect)
            found = self._performed[asked] = (self._number(), self._answers.answer(value))
        return found

    def without_prior(self, answer: Answer) -> Answer:
        """LEASE of a Redis whose token has ended tells of no entry."""
        return self._answers.answer(answer.value._replace(prior=None))

    def suffer(self, what: str, state: int) -> int:
        """What a fault or the clock does to a state: `tick`, `evict_entry`, `evict_right`, `evict_leases`, `flush`,
        `begin_era`, or `forget`, which deletes entry and right.
        """
        found = self._after_fault.get((what, state))
        if found is None:
            self._load(state)
            self._suffer(what)
            found = self._after_fault[what, state] = self._number()
        return found

    def _suffer(self, what: str) -> None:
        redis = self._redis
        match what:
            case "tick":
                redis.now_ms += 1
            case "evict_entry":
                redis.entries.clear()
            case "evict_right":
                redis.rights.clear()
            case "evict_leases":
                redis.leases.clear()
            case "flush":
                redis.flush()
            case "begin_era":
                redis.begin_era()
            case "forget":
                self._cache.defer(fx.Defer((self._key,)))
            case _:
                raise AssertionError(what)

    def restart(self, state: int, saved: int) -> int:
        """Redis is back with what it held at `saved`, as another incarnation."""
        self._load(saved)
        self._redis.incarnation = self.held[state].incarnation
        self._redis.restart()
        return self._number()

    def _load(self, state: int) -> None:
        redis, key, held = self._redis, self._key, self.held[state]
        redis.incarnation, redis.born, redis.now_ms = held.incarnation, held.born, 0
        redis.entries = {key: held.entry} if held.entry else {}
        redis.rights = {key: held.right} if held.right else {}
        redis.leases = {key: dict(held.leases)} if held.leases else {}
        redis.stream.clear()

    def _number(self) -> int:
        redis, key = self._redis, self._key
        # A lease that ended a tick ago and one that ended long ago are alike, and so are births before the quarantine.
        leases = tuple((token, max(end - redis.now_ms, -1)) for token, end in redis.leases.get(key, {}).items())
        born = redis.born and (redis.born[0], max(redis.born[1] - redis.now_ms, -LEASE_TICKS - 1))
        held = Held(redis.incarnation, redis.entries.get(key), redis.rights.get(key), leases, born)
        entry = held.entry and (held.entry[0], content_of(held.entry[1]))
        identity = (held.incarnation, entry, held.right, frozenset(leases), born)
        number = self._numbers.get(identity)
        if number is None:
            view = self._view(held)
            number = self._numbers[identity] = len(self.held)
            self.held.append(held)
            self.views.append(view)
        return number

    def _view(self, held: Held) -> View:
        stamps = [kept[0] for kept in (held.entry, held.right, held.born) if kept]
        require("I8", all(stamp <= held.incarnation for stamp in stamps), str(held))
        entry = held.entry[1] if held.entry and held.entry[0] == held.incarnation else None
        right = held.right[1] if held.right and held.right[0] == held.incarnation else None
        require("I10", held.is_open or not (entry or right), str(held))
        return View(
            entry=entry.rev if entry else -1,
            stamp=int(entry.id) if entry and not self._key.domain.cached else -1,
            right=int(right) if right else -1,
            leases=sum(1 << int(token) for token, left in held.leases if left >= 0),
            is_born=held.is_born,
            is_open=held.is_open,
        )


class CountingTruth(MemoryTruth):
    """What is deleted is gone, and its revisions go on where they were (`workload._counted`)."""

    def __init__(self) -> None:
        super().__init__()
        self._deleted: dict[Key, int] = {}

    def delete(self, effect: deletion.Delete) -> Record | None:
        gone = super().delete(effect)
        if gone is not None:
            self._deleted[effect.key] = gone.rev
        return gone

    def _load(self, key: Key) -> Record:
        found = super()._load(key)
        return found if found.exists else found._replace(rev=self._deleted.get(key, 0))

    def _store(self, change: Change) -> Record:
        before = self._load(change.key)
        stored = super()._store(change)
        if before.exists or not before.rev:
            return stored
        documents = self._scopes[change.key.scope]
        kept = documents[change.key]
        documents[change.key] = kept._replace(record=kept.record._replace(rev=before.rev + 1))
        return stored._replace(rev=before.rev + 1)


class TruthStates:
    """MongoDB, as far as it concerns one key. A state is the history of what was stored.

    A document's revision is its own; a list's counts the merges that changed it.
    """

    def __init__(self, key: Key) -> None:
        self._key = key
        self._answers = Answers()
        self._performed: dict[tuple[int, str], tuple[int, Answer]] = {}
        self._effects: list[tuple[fx.Effect[Any], ...]] = [()]
        self.contents: list[tuple[Any, ...]] = [(self._content(CountingTruth()),)]
        """By state and revision: what was stored; for a list, a set of rows."""
        self.revs = [0]
        self._numbers = {self.contents[0]: 0}

    def perform(self, state: int, step: Step) -> tuple[int, Answer]:
        """What a step does to a state, and its answer."""
        found = self._performed.get((state, step.asked))
        if found is None:
            found = self._performed[state, step.asked] = self._perform(state, step)
        return found

    def _perform(self, state: int, step: Step) -> tuple[int, Answer]:
        truth = CountingTruth()
        for effect in self._effects[state]:
            _do(truth, effect)
        assert step.effect is not None
        value = _do(truth, step.effect)
        if step.kind == STORE and value:
            state = self._number((*self._effects[state], step.effect), (*self.contents[state], self._content(truth)))
        return state, self._answers.answer(value)

    def _content(self, truth: MemoryTruth) -> Any:
        if self._key.domain.cached:
            return content_of(truth.find(fx.Find(self._key)))
        return frozenset(map(content_of, truth.scan(self._key, when=None, limit=None, keys_only=False)))

    def _number(self, effects: tuple[fx.Effect[Any], ...], contents: tuple[Any, ...]) -> int:
        number = self._numbers.get(contents)
        if number is None:
            number = self._numbers[contents] = len(self.revs)
            self._effects.append(effects)
            self.contents.append(contents)
            self.revs.append(len(contents) - 1)
        return number


def _do(truth: MemoryTruth, effect: fx.Effect[Any]) -> Any:
    match effect:
        case fx.Find():
            return truth.find(effect)
        case lists.Rows():
            return truth.rows(effect)
        case fx.Upsert():
            return truth.upsert(effect)
        case fx.SoftRemove():
            return truth.remove(effect)
        case deletion.Delete():
            return truth.delete(effect)
        case lists.Merge():
            return truth.merge(effect)
    raise AssertionError(effect)
