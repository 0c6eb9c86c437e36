"""The near cache: copies of cache entries in this process, and the rules by which one may be served.

Guarantee, for a domain that is named in CC_NEAR_CACHE, with D = CC_NEAR_CACHE_MAX_STALENESS_MS:

N1  *bounded staleness*: a read misses no write that had returned D before the read began, even if nothing is heard;
N2  *monotonic reads*: no read of this process returns an older revision than one that ended before it began;
N3  *own writes*: a read of this process that begins after a write of this process returned sees it or a newer one;
N4  when all is quiet and the channel is heard, no copy differs from MongoDB.

Not linearizable across processes: another one's write of the last D may be missed. Only a shared entry is. Heartbeats
are answered while the token lives (`bypass.py`), so N1 holds for writes past Redis, too.

How. LEASE, which precedes every write, tells a *channel* the name of the entry; messages of a channel are numbered
without a gap (`ChannelState`). A *heartbeat* asks Redis, through the same channel, for the number that it has reached:
when the answer comes, everything that was said before the question was asked has been heard, or the numbers differ and
everything is forgotten. So copies are served for D after the *asking* of the last answered heartbeat, and not after its
receipt. A read under way (`Fetch`) when its key is invalidated is not kept: that is the placeholder of the classic
race. Only what came from an entry is kept: a plain read of MongoDB beside a lease is followed by no invalidation.

N2 needs no memory of old keys. What a fetch brings can be older than what another read returned only if that read ended
between the fetch's beginning and its end; so the floor lives in the fetch, and in the copy.

Nothing here locks, waits or reads a clock: `backends/near_cache.py` does, and the simulator drives the same class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from sys import getsizeof
from typing import Any

from backtest_kit_mongo.coherence.codec import maker
from backtest_kit_mongo.coherence.effects import CacheRead, Effect, Plan, ask
from backtest_kit_mongo.coherence.plans import miss
from backtest_kit_mongo.coherence.record import Key, Record

COPY_OVERHEAD_BYTES = 800
"""What a copy takes beside its payload: the objects around it, its name, its place in the table."""


@dataclass(slots=True, eq=False)
class ChannelState:
    """One channel, as far as this process has heard it without a gap. A gap makes a new state, and leaves the copies of
    the old one unservable at once.

    Attributes:
        incarnation: Redis' identity, and when it was first seen, when the state was last confirmed; empty before that.
        number: of the last message heard.
        fresh_until_s: until when its copies may be served.
    """

    incarnation: str = ""
    number: int = -1
    fresh_until_s: float = -inf


@dataclass(slots=True, eq=False)
class Copy:
    """An entry's copy.

    Attributes:
        fresh: makes the payload anew, so that no caller can change what the next one gets.
        was_served: since it was last passed over for removal.
    """

    state: ChannelState
    rev: int
    when: int | None
    id: str
    fresh: Callable[[], Any]
    bytes: int
    was_served: bool = False


def size(value: Any) -> int:
    """Bytes that plain data and its maker take, at most: shared scalars count each time."""
    if isinstance(value, dict):
        return getsizeof(value) + 300 + sum(getsizeof(name) + size(member) for name, member in value.items())
    if isinstance(value, list):
        return getsizeof(value) + 300 + sum(map(size, value))
    return getsizeof(value)


@dataclass(slots=True, eq=False)
class Fetch:
    """A read under way that may become a copy.

    Attributes:
        floor: the newest revision that another read of the key returned meanwhile.
        may_keep: no invalidation of the key was heard meanwhile.
    """

    channel: str
    key: Key
    state: ChannelState
    floor: int = 0
    may_keep: bool = True


class Copies:
    """All copies of one process. Not thread-safe; times are seconds of one clock that never stands still.

    Args:
        bytes_max: bound on what all copies take. The oldest go first, except that one that was served since it was last
            passed over gets another round: nearly the least recently served, without touching an order at each read.
        staleness_s: D.
    """

    def __init__(self, bytes_max: int, staleness_s: float) -> None:
        self._copies: dict[Key, Copy] = {}
        self._bytes_max = bytes_max
        self.bytes = 0
        # For people; several threads at once may lose a count.
        self.hit_count = 0
        self._fetches: dict[Key, list[Fetch]] = {}
        self._states: dict[str, ChannelState] = {}
        self._staleness_s = staleness_s

    def __len__(self) -> int:
        return len(self._copies)

    # -- reading

    def get(self, key: Key, now_s: float) -> Record | None:
        """The copy, if it may be served now; the record is the caller's. Safe without a lock: it changes only a
        hint.
        """
        copy = self._copies.get(key)
        if copy is None or now_s > copy.state.fresh_until_s:
            return None
        copy.was_served = True
        self.hit_count += 1
        # What `Record(...)` does, without the frame of its constructor.
        return tuple.__new__(Record, (key, copy.rev, copy.fresh(), copy.when, False, copy.id))

    def begin(self, channel: str, key: Key) -> Fetch:
        """A read of the entry begins. `end` it, whatever happens."""
        fetch = Fetch(channel, key, self._state(channel))
        self._fetches.setdefault(key, []).append(fetch)
        return fetch

    def end(self, fetch: Fetch, record: Record | None, *, is_entry: bool) -> None:
        """The read returns `record` (None: it failed); `is_entry` if that is what the shared entry holds."""
        key = fetch.key
        others = self._fetches[key]
        others.remove(fetch)
        if not others:
            del self._fetches[key]
        if record is None:
            return
        for other in others:
            other.floor = max(other.floor, record.rev)
        copy = self._copies.get(key)
        if copy is not None and copy.rev < record.rev:
            self._remove(key)
        is_newest = record.rev >= fetch.floor and (copy is None or copy.rev <= record.rev)
        if is_entry and is_newest and fetch.may_keep and fetch.state is self._states.get(fetch.channel):
            self._keep(fetch, record)

    def _keep(self, fetch: Fetch, record: Record) -> None:
        # An absence is the one value of an immutable document that changes, so it is asked for again each time.
        if not record.exists or record.removed:
            return
        private = maker(record.payload)()
        weight = size(private) + COPY_OVERHEAD_BYTES
        self._remove(fetch.key)
        if weight <= self._bytes_max:
            self._make_room(weight)
            self._copies[fetch.key] = Copy(fetch.state, record.rev, record.when, record.id, maker(private), weight)
            self.bytes += weight

    def _make_room(self, weight: int) -> None:
        while self.bytes + weight > self._bytes_max:
            key, copy = next(iter(self._copies.items()))
            self._remove(key)
            if copy.was_served and copy.state.fresh_until_s > -inf:
                copy.was_served = False
                self._copies[key] = copy
                self.bytes += copy.bytes

    def _remove(self, key: Key) -> None:
        copy = self._copies.pop(key, None)
        if copy is not None:
            self.bytes -= copy.bytes

    # -- hearing

    def drop(self, key: Key) -> None:
        """The entry is being written: forget the copy, and keep nothing of a read that began before now."""
        self._remove(key)
        for fetch in self._fetches.get(key, ()):
            fetch.may_keep = False

    def heard(self, channel: str, number: int, key: Key) -> None:
        """A message of a channel: invalidation `number` is of this entry."""
        state = self._state(channel)
        if number == state.number + 1:
            state.number = number
        else:
            self._forget(channel).number = number
        self.drop(key)

    def confirmed(self, channel: str, asked_s: float, incarnation: str, number: int) -> None:
        """The answer to a heartbeat that was asked for at `asked_s`, in its place among the channel's messages."""
        state = self._state(channel)
        if state.incarnation != incarnation or state.number != number:
            state = self._forget(channel)
            state.incarnation, state.number = incarnation, number
        state.fresh_until_s = asked_s + self._staleness_s

    def lost(self) -> None:
        """The connection to all channels is gone, and with it everything that was said meanwhile."""
        for channel in list(self._states):
            self._forget(channel)

    def _state(self, channel: str) -> ChannelState:
        state = self._states.get(channel)
        return state if state is not None else self._forget(channel)

    def _forget(self, channel: str) -> ChannelState:
        before = self._states.get(channel)
        if before is not None:
            before.fresh_until_s = -inf
        state = self._states[channel] = ChannelState()
        return state


@dataclass(frozen=True, slots=True)
class NearBegin(Effect[Fetch]):
    """A read begins that may leave a copy in this process."""

    key: Key


@dataclass(frozen=True, slots=True)
class NearEnd(Effect[None]):
    """That read ends with `record`, or failed (None)."""

    fetch: Fetch
    record: Record | None
    is_entry: bool


def read_near(key: Key) -> Plan[Record]:
    """`plans.read` of a key that this process keeps copies of and has none that may be served (N1 to N4)."""
    fetch = yield from ask(NearBegin(key))
    try:
        answer = yield from ask(CacheRead(key))
        record = answer if isinstance(answer, Record) else (yield from miss(key, answer))
    except BaseException as error:
        if not isinstance(error, GeneratorExit):
            yield from ask(NearEnd(fetch, None, False))
        raise
    yield from ask(NearEnd(fetch, record, isinstance(answer, Record)))
    return record
