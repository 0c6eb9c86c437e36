"""Planted bugs of the near cache: one rule removed each, so that it can be seen that the simulator would notice.

Two rules stand behind a third, that a heartbeat's number is compared, so dropping one of them alone breaks nothing:

- a heartbeat's answer that overtakes invalidations carries their number, which does not match what has been heard;
- `Copies.lost` forgets at once what the next heartbeat would forget, because the numbers differ by what was missed.

They are planted together with that third rule (`heartbeats-overtake`, `lost-ignored`), among faults that do not show
the third one's absence by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from backtest_kit_mongo.backends.memory_cache import MemoryCache, MemoryRedis
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence.near import Copies, Fetch
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_verify.simulation.near_campaign import FAULTS, Faults
from backtest_kit_verify.simulation.near_process import Variant

SEED, WITHIN = 3, 1_500
"""Each bug is found within so many random schedules of this seed. Other seeds need several times as many for a few."""

NONE: Faults = ()
LOSSES: Faults = (("lose", "break"),)
KNOWN_LOSSES: Faults = (("lost",),)

# -- heartbeats


class NumberOfHeartbeatIgnored(Copies):
    def confirmed(self, channel: str, asked_s: float, incarnation: str, number: int) -> None:
        heard = self._state(channel).number
        super().confirmed(channel, asked_s, incarnation, number if heard < 0 else heard)


class IncarnationIgnored(Copies):
    def confirmed(self, channel: str, asked_s: float, incarnation: str, number: int) -> None:
        super().confirmed(channel, asked_s, "any", number)


class AgeIgnored(Copies):
    """What was once confirmed is served until it is forgotten."""

    def get(self, key: Key, now_s: float) -> Record | None:
        return super().get(key, -1.0)


class HeartbeatWithoutBirth(MemoryCache):
    """FLUSHALL, which leaves the incarnation and lets the numbers begin anew, is not seen."""

    def heartbeat(self, domain: str) -> tuple[str, int]:
        _, number = super().heartbeat(domain)
        return str(self._redis.incarnation), number


# -- invalidations


@contextmanager
def unheard(redis: MemoryRedis) -> Iterator[None]:
    """Let one script invalidate nothing."""
    listeners, numbers = redis.listeners, dict(redis.numbers)
    redis.listeners = []
    yield
    redis.listeners, redis.numbers = listeners, numbers


class InvalidatesAtCommitOnly(MemoryCache):
    def lease(self, effect: fx.Lease) -> fx.Leased | None:
        with unheard(self._redis):
            return super().lease(effect)

    def commit(self, effect: fx.Commit) -> None:
        super().commit(effect)
        self._redis.invalidate(effect.key)


class RelayInvalidatesNothing(MemoryCache):
    def relay(self, key: Key, rev: int | None = None) -> None:
        with unheard(self._redis):
            super().relay(key, rev)


class GapIgnored(Copies):
    def heard(self, channel: str, number: int, key: Key) -> None:
        self._state(channel).number = number
        self.drop(key)


class LostIgnored(Copies):
    def lost(self) -> None:
        return


class LostAndNumberIgnored(LostIgnored, NumberOfHeartbeatIgnored):
    """Both."""


# -- fetches


class NoPlaceholder(Copies):
    def end(self, fetch: Fetch, record: Record | None, *, is_entry: bool) -> None:
        fetch.may_keep = True
        super().end(fetch, record, is_entry=is_entry)


class StateOfFetchIgnored(Copies):
    def end(self, fetch: Fetch, record: Record | None, *, is_entry: bool) -> None:
        fetch.state = self._state(fetch.channel)
        super().end(fetch, record, is_entry=is_entry)


class PlainReadKept(Copies):
    def end(self, fetch: Fetch, record: Record | None, *, is_entry: bool) -> None:
        super().end(fetch, record, is_entry=True)


class NoFloorInFetch(Copies):
    def end(self, fetch: Fetch, record: Record | None, *, is_entry: bool) -> None:
        fetch.floor = 0
        super().end(fetch, record, is_entry=is_entry)


class NoFloorInCopy(Copies):
    """A copy is neither dropped for a newer answer nor compared with one that is to be kept."""

    def end(self, fetch: Fetch, record: Record | None, *, is_entry: bool) -> None:
        copy = self._copies.pop(fetch.key, None)
        super().end(fetch, record, is_entry=is_entry)
        if copy is not None:
            self._copies.setdefault(fetch.key, copy)


class NoFloor(NoFloorInCopy, NoFloorInFetch):
    """Both."""


class CopiesShared(Copies):
    """What a caller does to its answer happens to the copy."""

    def get(self, key: Key, now_s: float) -> Record | None:
        record = super().get(key, now_s)
        if record is not None:
            made = record.payload
            self._copies[key].fresh = lambda: made
        return record


@dataclass(frozen=True)
class NearPlanted:
    """A planted bug.

    Attributes:
        rule: the rule that is dropped.
        breaks: names of which the first violation must be one.
        faults: what has to go wrong, besides order, time and delay.
    """

    rule: str
    variant: Variant
    breaks: frozenset[str]
    faults: Faults


def without(rule: str, breaks: str, *, faults: Faults = FAULTS, **variant: Any) -> NearPlanted:
    """A bug by the rule that is dropped, and the part of the variant that drops it. Nothing else is tried beside it."""
    return NearPlanted(rule, Variant(**variant, leaves=False), frozenset(breaks.split()), faults)


NEAR_PLANTED: Mapping[str, NearPlanted] = {
    "age-from-receipt": without(
        "a heartbeat's age counts from when it was asked for", "N1", faults=NONE, counts_from_receipt=True
    ),
    "age-ignored": without(
        "a copy is served for D after the last heartbeat only", "N1", faults=NONE, copies_type=AgeIgnored
    ),
    "heartbeats-overtake": without(
        "heartbeats and invalidations come in one order (and the numbers, which would show it, are compared)",
        "N1 N4",
        faults=NONE,
        heartbeats_overtake=True,
        copies_type=NumberOfHeartbeatIgnored,
    ),
    "number-ignored": without(
        "a heartbeat's number is compared", "N1 N4", faults=LOSSES, copies_type=NumberOfHeartbeatIgnored
    ),
    "gap-ignored": without("a gap in the numbers empties", "N1 N4", faults=LOSSES, copies_type=GapIgnored),
    "lost-ignored": without(
        "a lost connection empties (and so does a heartbeat's number)",
        "N1 N4",
        faults=KNOWN_LOSSES,
        copies_type=LostAndNumberIgnored,
    ),
    "incarnation-ignored": without(
        "a heartbeat's incarnation is compared",
        "N1 N4",
        faults=(("save", "restart", "lose"),),
        copies_type=IncarnationIgnored,
    ),
    "flush-unseen": without(
        "a heartbeat says since when numbers count",
        "N1 N4",
        faults=(("flush", "lose"),),
        cache_type=HeartbeatWithoutBirth,
    ),
    "invalidation-at-commit": without(
        "LEASE invalidates, not COMMIT",
        "N1 N4",
        faults=(("crash", "land"), ("unknown", "land")),
        cache_type=InvalidatesAtCommitOnly,
    ),
    "relay-unheard": without(
        "RELAY and the catch-up invalidate",
        "N1 N4",
        faults=(("cut", "heal", "relay"),),
        cache_type=RelayInvalidatesNothing,
    ),
    "no-placeholder": without("a fetch under way is not kept", "N1 N3 N4", faults=NONE, copies_type=NoPlaceholder),
    "state-of-fetch-ignored": without(
        "a fetch under way when the state changes is not kept",
        "N1 N4",
        faults=LOSSES,
        copies_type=StateOfFetchIgnored,
    ),
    "no-floor": without("floors in fetch and copy", "N2", faults=NONE, copies_type=NoFloor),
    "no-floor-in-fetch": without("a floor in the fetch", "N2", faults=NONE, copies_type=NoFloorInFetch),
    "no-floor-in-copy": without("a floor in the copy", "N2", faults=NONE, copies_type=NoFloorInCopy),
    "plain-read-kept": without("only entries are kept", "N1 N4", faults=NONE, copies_type=PlainReadKept),
    "own-copy-kept": without("own writes drop the own copy", "N3", faults=NONE, drops_own=False),
    "copies-shared": without("each caller gets its own payload", "N0 N4", faults=NONE, copies_type=CopiesShared),
}
