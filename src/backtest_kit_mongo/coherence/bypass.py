"""Writing past a cache that a client cannot reach while others can: the door, and what a look at the flags means. Pure.

    flag     of this client and scope, in MongoDB, acknowledged by a majority; its beat is raised while it is needed
    D        waited after the first acknowledgement: then no token lives that was prolonged without seeing the flag
    pass     a write past the cache; its deadline lies before the moment from which others may take the client for dead
    settled  acknowledged; or, if its outcome is unknown, at that deadline
    lower    when all is settled and delivered: the flag goes

Whoever looks for flags and sees one prolongs no token. A flag whose beat rests for `rest_s` is of a dead client: the
era is ended, and then the flag taken away. Proof and simulator: I14, I15, `docs/adr/0040`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from backtest_kit_mongo.coherence.record import Key

SERVE_SHARE: Final = 15
SERVE_MAX_MS: Final = 1_000
SERVE_MIN_MS: Final = 20
DRIFT: Final = 1.01
"""Clocks run at the same rate to 0.1 %; the rest is for the ways that numbers are rounded."""


def serve_ms_of(lease_ms: int) -> int:
    """D: how long a token lives at most. By the lease time, because that is the same on all hosts already."""
    return min(SERVE_MAX_MS, max(SERVE_MIN_MS, lease_ms // SERVE_SHARE))


class Flag(NamedTuple):
    """One client's flag.

    Attributes:
        beat: counts how often it was raised.
        rest_ms: whose beat rests for so long is dead; as long as the owner's writes need.
    """

    owner: str
    scope: str
    beat: int
    rest_ms: int = 0


class Door:
    """Of one client and scope. Times are seconds of its monotonic clock. Not thread-safe.

    Where it says `lease_s`: how long after it began a write may still be stored, at most.
    """

    def __init__(self, serve_s: float) -> None:
        self._wait_s = serve_s * DRIFT
        self._longest_s = 0.0
        self._valid_until_s = 0.0
        self._opens_s = 0.0
        self._passing: dict[Key, list[float]] = {}
        self.is_held = False
        """There may be a flag of ours in MongoDB."""

    def needs(self, lease_s: float) -> None:
        """The flag is to be raised for writes as long as this."""
        self._longest_s = max(self._longest_s, lease_s)

    @property
    def rest_s(self) -> float:
        """How long a beat rests before its owner counts as dead."""
        return 2 * self._longest_s + 2

    def raised(self, asked_s: float, acked_s: float, *, was_there: bool) -> None:
        """The flag was raised, or raised again. One that was not there had been taken away: D is waited once more."""
        if not (self.is_held and was_there):
            self._opens_s = acked_s + self._wait_s
        self.is_held = True
        # Others see this beat at the earliest when it was asked for.
        self._valid_until_s = asked_s + self.rest_s / DRIFT

    def is_valid(self, now_s: float, lease_s: float) -> bool:
        """Whether a write that begins now is over before anybody takes the flag away."""
        return self.is_held and now_s + lease_s <= self._valid_until_s

    def wait_s(self, now_s: float) -> float:
        """How long until a write may pass."""
        return max(0.0, self._opens_s - now_s)

    def passes(self, keys: Iterable[Key], now_s: float, lease_s: float) -> None:
        """A write of these keys goes past the cache."""
        for key in keys:
            ends = self._passing.setdefault(key, [])
            ends.append(now_s + lease_s)
            ends.sort()

    def settled(self, keys: Iterable[Key]) -> bool:
        """One write of these keys was acknowledged. Whose time is over first is struck off: what is left ends no
        earlier than what is really left. False: one had not passed, or too long ago.
        """
        were_passing = True
        for key in keys:
            ends = self._passing.get(key)
            if ends:
                ends.pop(0)
            else:
                were_passing = False
            if not ends:
                self._passing.pop(key, None)
        return were_passing

    def overdue(self, now_s: float) -> tuple[Key, ...]:
        """Keys of writes whose outcome nobody said and that cannot be stored any more: they must be delivered now."""
        over = tuple(key for key, ends in self._passing.items() if max(ends) <= now_s)
        for key in over:
            del self._passing[key]
        return over

    @property
    def is_passing(self) -> bool:
        return bool(self._passing)

    def lowered(self) -> None:
        self.is_held = False
        self._valid_until_s = self._opens_s = 0.0


class Watch:
    """What one client has seen of the flags."""

    def __init__(self) -> None:
        self._beats: Mapping[tuple[str, str], tuple[int, float]] = {}

    def dead(self, flags: Iterable[Flag], now_s: float) -> list[Flag]:
        """The flags whose beat has rested for too long."""
        before, self._beats, dead = self._beats, {}, []
        seen: dict[tuple[str, str], tuple[int, float]] = {}
        for flag in flags:
            name = flag.owner, flag.scope
            beat, since_s = before.get(name, (flag.beat, now_s))
            seen[name] = (flag.beat, since_s if beat == flag.beat else now_s)
            if now_s - seen[name][1] > flag.rest_ms / 1000 * DRIFT:
                dead.append(flag)
        self._beats = seen
        return dead


def concerns(flag: Flag, scope: str) -> bool:
    """Whether a flag closes a scope. A client that believes in another number of partitions closes all."""
    return flag.scope == scope or flag.scope.partition("/")[2] != scope.partition("/")[2]
