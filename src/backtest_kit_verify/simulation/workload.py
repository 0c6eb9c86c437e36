"""What the simulated clients do: a handful of operations on one key, and the shipped plans that perform them.

One key is enough: keys share nothing but the clock and the incarnation. It is a document (read, written, removed) or a
list (merged as a list, or put row by row). Operations of one client run in threads of one process, so they are cut
off from Redis together, die together, and share what the process remembers of a list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from backtest_kit_mongo.backends.memory_cache import MemoryCache, MemoryRedis
from backtest_kit_mongo.coherence import deletion, lists, plans
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.record import Change, Key
from backtest_kit_mongo.domains.table import STATE, STORAGE
from backtest_kit_verify.simulation.actions import CLIENTS
from backtest_kit_verify.simulation.driver import COMMIT, Content, Step
from backtest_kit_verify.simulation.states import RedisStates, TruthStates

OPS_MAX = 8
"""Operations of one schedule. A token's number is the operation's, plus this for the retry of a step."""

DOCUMENT = Key(STATE, ("signal", "bucket"))
LIST = Key(STORAGE, (True,))
KINDS = {"read": DOCUMENT, "write": DOCUMENT, "remove": DOCUMENT, "delete": DOCUMENT, "merge": LIST, "put": LIST}


class Op(NamedTuple):
    """One operation of one client, both numbered."""

    kind: str
    client: int

    def __str__(self) -> str:
        return f"{self.kind}@{CLIENTS[self.client]}"


Workload: TypeAlias = tuple[Op, ...]


def parse_workload(text: str) -> Workload:
    """Read `write@a read@b`.

    Raises:
        ValueError: the text is no workload; the message says why.
    """
    ops = []
    for word in text.split():
        kind, _, client = word.partition("@")
        if kind not in KINDS or len(client) != 1 or client not in CLIENTS:
            raise ValueError(f"{word!r} is no operation; write for example write@a, with one of {', '.join(KINDS)}")
        ops.append(Op(kind, CLIENTS.index(client)))
    if not 0 < len(ops) <= OPS_MAX:
        raise ValueError(f"a workload has 1 to {OPS_MAX} operations, not {len(ops)}")
    if len({KINDS[op.kind] for op in ops}) > 1:
        raise ValueError("a workload is about one key: either merges and puts or reads, writes and removes")
    return tuple(ops)


def workload_text(workload: Workload) -> str:
    return " ".join(map(str, workload))


Wrap: TypeAlias = Callable[[fx.Plan[Any], lists.KnownRows | None], fx.Plan[Any]]


@dataclass(frozen=True)
class Variant:
    """What is simulated: by default what is shipped. A planted bug replaces one part.

    Attributes:
        wrap: stands between a plan and its driver; also given what the client remembers of the list.
        fresh_tokens: a retry of LEASE or READ uses a new token.
        timer: a client that went past Redis tries it again by itself.
        deadline_in_command: MongoDB refuses a write that arrives too late.
        left: kinds of steps whose answers operations do not wait for.
        waits_if_overdue: but they do where MongoDB's acknowledgement came after the deadline; shuts_if_overdue: and if
            Redis is lost then, they return when nobody is served any more.
        keeps_left: what they stand for is kept until the answer, and done again if that is an error.
        settles_own: a failed COMMIT that nobody waited for says nothing of the client's writes past Redis.
        reads_token: READ serves only while the token lives.
        waits: a client waits for D between its flag and its first write past Redis.
        sees_flag: which clients' flags a look finds.
        asks_before: a keeper asks Redis for its time before it looks, not after.
        delivers_before: a client delivers before it takes its flag away; lowers_settled: and only when none of its
            writes past Redis can be stored any more.
        buries_in_era: a dead client's flag is taken away after another era has begun.
        extra_faults: verbs (`actions.VERBS`) of faults that lie outside the protocol's assumptions.
    """

    cache_type: type[MemoryCache] = MemoryCache
    redis_type: type[MemoryRedis] = MemoryRedis
    wrap: Wrap | None = None
    fresh_tokens: bool = True
    timer: bool = True
    deadline_in_command: bool = True
    left: tuple[int, ...] = (COMMIT,)
    waits_if_overdue: bool = True
    shuts_if_overdue: bool = True
    keeps_left: bool = True
    settles_own: bool = True
    reads_token: bool = True
    waits: bool = True
    sees_flag: Callable[[int], bool] = lambda client: True
    asks_before: bool = True
    delivers_before: bool = True
    lowers_settled: bool = True
    buries_in_era: bool = True
    extra_faults: tuple[str, ...] = ()


SHIPPED = Variant()


class Rig:
    """The remembered steps of everything that touches one key. Shared by all schedules: they only fill it."""

    def __init__(self, key: Key, variant: Variant = SHIPPED) -> None:
        self.key = key
        self.variant = variant
        self.redis = RedisStates(key, variant.cache_type, variant.redis_type)
        self.truth = TruthStates(key)
        self.is_list = not key.domain.cached
        self.retry_offset = OPS_MAX if variant.fresh_tokens else 0
        self.quiet: set[tuple[int, int]] = set()
        """(Redis, MongoDB) from which everything was seen to settle."""
        self._prepared: dict[Workload, tuple[tuple[int, ...], tuple[Step, ...]]] = {}
        self._first: dict[tuple[Op, int, Content], Step] = {}

    @property
    def size(self) -> int:
        """How much is remembered, in states."""
        return len(self.redis.held) + len(self.truth.revs)

    def prepared(self, workload: Workload) -> tuple[tuple[int, ...], tuple[Step, ...]]:
        """The client and the first step of each operation."""
        found = self._prepared.get(workload)
        if found is None:
            clients = tuple(op.client for op in workload)
            steps = tuple(self.first_step(op, number) for number, op in enumerate(workload))
            found = self._prepared[workload] = (clients, steps)
        return found

    def first_step(self, op: Op, number: int, snapshot: lists.KnownRows | None = None) -> Step:
        """The beginning of an operation's plan. `snapshot` is what its client remembers of the list."""
        key = (op, number, _content_of_snapshot(snapshot))
        step = self._first.get(key)
        if step is None:
            step = self._first[key] = Step(lambda: self.plan(op, number, snapshot))
        return step

    def plan(self, op: Op, number: int, snapshot: lists.KnownRows | None = None) -> fx.Plan[Any]:
        """The operation itself, not yet begun."""
        plan: fx.Plan[Any]
        match op.kind:
            case "read":
                plan = plans.read(DOCUMENT)
            case "write":
                payload = {"by": number}
                plan = plans.write(Change(DOCUMENT, payload, pack(payload)))
            case "remove":
                plan = plans.remove(DOCUMENT)
            case "delete":
                plan = _counted(deletion.delete(DOCUMENT, {}))
            case "put":
                plan = lists.put(LIST, op_rows(op)[0], snapshot)
            case _:
                # Two rows are two pages of questions, and of events.
                plan = lists.merge(LIST, op_rows(op), snapshot, events_max=1, rows_max=1)
        return plan if self.variant.wrap is None else self.variant.wrap(plan, snapshot)


def _counted(plan: fx.Plan[Any]) -> fx.Plan[Any]:
    """A deletion, whose entry carries a revision here. What is simulated is which of two states is newer. A document
    that is made anew counts from 1, and the protocol compares no revisions; so here they go on.
    """
    step, argument = plan.send, None
    try:
        while True:
            effect = step(argument)
            if isinstance(effect, fx.Commit):
                effect = replace(effect, entry=effect.entry._replace(rev=effect.published[0].record.rev))
            try:
                step, argument = plan.send, (yield effect)
            except BaseException as error:
                step, argument = plan.throw, error
    except StopIteration as end:
        return end.value


@cache
def op_rows(op: Op) -> tuple[Change, ...]:
    """What a client writes, each time the same. Merged: one row as everybody has it, one as only this client wants it.
    Put: the first as nobody merges it.
    """
    rows = {"same": {"id": "same", "value": 0}, "own": {"id": "own", "value": op.client}}
    if op.kind == "put":
        rows = {"same": {"id": "same", "value": -1 - op.client}}
    return tuple(Change(LIST.child(name), row, pack(row)) for name, row in rows.items())


def _content_of_snapshot(snapshot: lists.KnownRows | None) -> Content:
    if snapshot is None:
        return ()
    return (snapshot.stamp, *((item, *row) for item, row in snapshot.rows.items()))
