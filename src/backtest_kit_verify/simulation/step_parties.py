"""The parties of the simulator of steps: clients, MongoDB with open transactions, and operations under way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from backtest_kit_mongo.backends.memory_cache import MemoryCache
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence import steps as st
from backtest_kit_mongo.coherence.codec import pack, unpack
from backtest_kit_mongo.coherence.record import Change, Key, Record
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.errors import InvariantViolation

TICK_MS = 1_000
LEASE_MS, WRITE_MS, LIFETIME_MS = 2_000, 2_000, 2_000
LIVES_MS = int(LIFETIME_MS * st.LIFETIME_SHARE)
OPEN_MS = st.lease_ms_of(LEASE_MS, WRITE_MS, LIFETIME_MS)
ATTEMPTS_MAX = 2
CLIENTS = "abc"
KEYS = (Key(STATE, ("signal", "x")), Key(STATE, ("signal", "y")))
KINDS = ("step", "cas", "write", "read")
"""A step of both documents; one that expects the revision of x that it saw when it began; a write or a read of one."""
PROMISES = {
    "I1": "an entry of the current incarnation equals MongoDB",
    "I2": "beside such an entry no write is in flight",
    "I3": "once open, every write in flight holds a lease",
    "I4": "while a right is valid only its owner can be in flight",
    "P1": "a read that begins after a revision was returned returns that one or a newer one, as it was stored",
    "P2": "no stale entry remains when all is quiet, and entries are made again",
    "A1": "what a step wrote is in MongoDB at all of its keys or at none",
    "A2": "an event reports what is stored, and carries the step that it is part of",
    "A3": "a step that was given up for certain leaves no lease",
    "A4": "a step whose expectation does not hold changes nothing",
}
TO_REDIS: Mapping[type[Any], str] = {
    fx.Lease: "lease", fx.Commit: "commit", fx.Abort: "abort", fx.Defer: "defer", fx.CacheRead: "read", fx.Fill: "fill",
    st.LeaseAll: "lease_all", st.AbortAll: "abort_all", st.CommitAll: "commit_all", fx.Publish: "publish",
}  # fmt: skip
WITH_TOKEN = (fx.Lease, fx.CacheRead, st.LeaseAll)


def broken(name: str, detail: str) -> InvariantViolation:
    return InvariantViolation(f"{name} ({PROMISES[name]}) does not hold: {detail}")


class Op(NamedTuple):
    """One operation of a client; `key` is 0 or 1 and means nothing for a step."""

    kind: str
    client: int
    key: int = 0

    def __str__(self) -> str:
        return f"{self.kind}@{CLIENTS[self.client]}{':y' if self.key else ''}"


class Workload(NamedTuple):
    """Operations, and whether both documents are in one partition."""

    ops: tuple[Op, ...]
    is_one_partition: bool

    def __str__(self) -> str:
        return f"{'one' if self.is_one_partition else 'two'} {' '.join(map(str, self.ops))}"


Wrap: TypeAlias = Callable[[fx.Plan[Any]], fx.Plan[Any]]


@dataclass(frozen=True)
class Variant:
    """What is simulated: by default what is shipped. A planted bug replaces one part.

    Attributes:
        open_ms: how long a new incarnation stays closed.
        lifetime_ms: how long plans believe that a transaction lives.
        commits_early: MongoDB's answer is made up before the transaction is committed.
        one_by_one: documents are committed one after the other.
        ignores_expected: MongoDB is not reported which revision is expected.
        same_token: a retry leases with the token of the attempt before.
    """

    cache_type: type[MemoryCache] = MemoryCache
    wrap: Wrap | None = None
    open_ms: int = OPEN_MS
    lifetime_ms: int = LIFETIME_MS
    commits_early: bool = False
    one_by_one: bool = False
    ignores_expected: bool = False
    same_token: bool = False


SHIPPED = Variant()


@dataclass(eq=False)
class Transaction:
    """An open transaction.

    Attributes:
        born_ms: when MongoDB opened it.
        is_sent: its commit is on its way, and nobody waits for an answer.
    """

    run: Run
    born_ms: int
    is_sent: bool = False


@dataclass(eq=False)
class Run:
    """An operation under way.

    Attributes:
        leases: by key, the token of its newest LEASE that was executed.
        flying: keys where what it sends, or sent, to MongoDB may still be committed.
        floor: the least that a read may return.
        expected: of a step with an expectation, the revision of x.
        bypassed: keys that it writes past Redis.
        was_cut: its client lost Redis on the way.
        last_token: of its newest LEASE, executed or not.
        lands_until_ms: MongoDB refuses its write after that.
    """

    number: int
    op: Op
    client: Client
    plan: fx.Plan[Any] | None = None
    effect: Any = None
    has_ended: bool = False
    leases: dict[Key, str] = field(default_factory=dict)
    flying: dict[Key, int] = field(default_factory=dict)
    floor: int = 0
    expected: int | None = None
    bypassed: set[Key] = field(default_factory=set)
    was_cut: bool = False
    last_token: str = ""
    lands_until_ms: int = 0

    @property
    def name(self) -> str:
        return f"step{self.number}"

    @property
    def key(self) -> Key:
        return KEYS[self.op.key]

    @property
    def is_step(self) -> bool:
        return self.op.kind in ("step", "cas")


@dataclass(eq=False)
class Client:
    """A process with a way to Redis, which it loses and finds again."""

    name: str
    cache: MemoryCache
    is_down: bool = False
    is_alive: bool = True
    missed: dict[Key, None] = field(default_factory=dict)
    own: dict[Key, int] = field(default_factory=dict)


@dataclass(eq=False)
class Stored:
    """One revision of a document: its bytes, and the number of the operation that wrote it (-1: it has always been
    there).
    """

    body: bytes
    by: int


class Mongo:
    """Two documents, all of their revisions, and open transactions."""

    def __init__(self) -> None:
        self.history: dict[Key, list[Stored]] = {
            key: [Stored(pack(None), -1), Stored(pack({"by": -1}), -1)] for key in KEYS
        }
        self.open: list[Transaction] = []
        self.committed: dict[int, int] = {}
        """By operation, how many keys of it are stored."""

    def rev(self, key: Key) -> int:
        return len(self.history[key]) - 1

    def record(self, key: Key, body: bytes) -> Record:
        return Record(key, self.rev(key), unpack(body), None, False, "id")

    def find(self, key: Key) -> Record:
        return self.record(key, self.history[key][-1].body)

    def store(self, change: Change, by: int) -> fx.Published:
        self.history[change.key].append(Stored(change.body, by))
        self.committed[by] = self.committed.get(by, 0) + 1
        return fx.Published(self.find(change.key), "upsert", change.body)

    def locks(self, key: Key) -> bool:
        """Whether an open transaction has written this document. (All of them write both.)"""
        return bool(self.open) and key in KEYS

    def end_old(self, now_ms: int) -> None:
        self.open = [one for one in self.open if now_ms <= one.born_ms + LIVES_MS]
