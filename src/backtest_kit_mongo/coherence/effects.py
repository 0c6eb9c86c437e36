"""What a plan asks for. `ask` holds the only bare `yield`, so a plan's steps are exactly the effects it names.

Here is what all plans share and what documents need; lists, series, steps and the near cache have theirs beside their
plans. Effects of the truth are performed by a `Truth`, the others by a `Cache` or a `Near` (`ports.py`).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from math import inf
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from backtest_kit_mongo.coherence.events import Operation
from backtest_kit_mongo.coherence.record import Change, Key, Record

R = TypeVar("R")
Plan: TypeAlias = Generator["Effect[Any]", Any, R]


class Effect(Generic[R]):
    """A frozen request; R is the type of its answer."""

    __slots__ = ()


def ask(effect: Effect[R]) -> Plan[R]:
    """Yield one effect and return its answer."""
    reply: R = yield effect
    return reply


class CacheDown(Exception):
    """The cache could not be reached. The step may or may not have been executed; the protocol allows for both."""


class Leased(NamedTuple):
    """A writer's lease, or without a token its leave to write past a cache that it cannot reach (`bypass.py`).

    Attributes:
        token: never used before, not even by a retry of the same write.
        deadline_s: on the driver's monotonic clock, counted from before LEASE was sent: MongoDB may not commit after
        it.
        prior: the entry that LEASE deleted, if it was asked for and valid.
    """

    token: str
    deadline_s: float
    prior: Record | None = None


class Right(NamedTuple):
    """The answer to a miss: the install right to share, or an empty token, which installs nothing.

    Attributes:
        is_bypass: the cache could not be asked. For people; plans do the same either way.
    """

    token: str
    is_bypass: bool = False


class Published(NamedTuple):
    """A change to be reported to the feed: the record it made, what was done, the packed payload, and the step that it
    is part of.
    """

    record: Record
    operation: Operation
    body: bytes
    step: str = ""


@dataclass(frozen=True, slots=True)
class Lease(Effect["Leased | None"]):
    """None: there is no cache that others read."""

    key: Key
    want_prior: bool = False


@dataclass(frozen=True, slots=True)
class Abort(Effect[None]):
    """Release a lease. Only after a write that certainly did not and will not commit."""

    key: Key
    token: str


@dataclass(frozen=True, slots=True)
class Commit(Effect[None]):
    """Release the lease, install `entry` if the right is held, append the events: one atomic step.

    Until `deadline_s`, the lease's, nobody needs to wait for it (docs/adr/0038).
    """

    key: Key
    token: str
    entry: Record
    body: bytes
    published: tuple[Published, ...]
    deadline_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Publish(Effect[None]):
    """Append events, and do nothing else: those of a series, and those that COMMIT has no room for."""

    scope: Key
    published: tuple[Published, ...]


@dataclass(frozen=True, slots=True)
class Defer(Effect[None]):
    """Keep what the cache missed.

    Before it is used again, the entries and rights of `keys` are deleted and the events appended.

    Attributes:
        leased_until_s: they were written, and until then, on the driver's monotonic clock, a lease kept everybody from
            caching what was true before; 0: none did, inf: nothing was acknowledged (`bypass.py`).
    """

    keys: tuple[Key, ...]
    published: tuple[Published, ...] = ()
    leased_until_s: float = inf


@dataclass(frozen=True, slots=True)
class CacheRead(Effect["Record | Right"]):
    """One hop: the entry, or what a miss may do."""

    key: Key


@dataclass(frozen=True, slots=True)
class Fill(Effect[None]):
    """Install what was found, if the right is still the one that was given."""

    token: str
    record: Record


@dataclass(frozen=True, slots=True)
class Find(Effect[Record]):
    """The document at MongoDB's primary; a record that does not `exist` if there is none."""

    key: Key


@dataclass(frozen=True, slots=True)
class Upsert(Effect[Record]):
    """Store one document and raise its revision, atomically; the answer carries the new revision.

    Attributes:
        expected_rev: only over this revision; 0: only if none is stored, or one that nobody counted yet. Else
            `Conflict`.
    """

    change: Change
    deadline_s: float | None
    expected_rev: int | None = None


@dataclass(frozen=True, slots=True)
class SoftRemove(Effect["Record | None"]):
    """Mark one document as removed and raise its revision. None: there was nothing to remove, nothing was written."""

    key: Key
    deadline_s: float | None
