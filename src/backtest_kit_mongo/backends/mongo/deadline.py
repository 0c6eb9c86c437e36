"""The deadline of a write, inside its command and in the server's own time: what arrives late fails and writes nothing.

A client's timeout and `maxTimeMS` do not give that. A command may lie in the buffer of a closed socket until the
network heals, and `maxTimeMS` counts from its receipt. So every command that writes has a variable (`let`, which
`update`, `findAndModify` and `aggregate` know) that the server must evaluate before it does anything, and cannot once
its clock (`$$NOW`) has passed the deadline.

    arrives   within `arrival_s` of being sent, and before the caller gives up
    runs      until the caller gives up at the longest: `maxTimeMS`, which pymongo derives from `pymongo.timeout`

So a write commits before the caller gives up plus `arrival_s`, or never. Leases last as long again
(`Settings.arrival_ms`): that is left for what these bounds do not see, such as a server's clock that was just set back.

Each attempt, the driver's own retry too, is given its deadline when it is encoded, by the clock of whoever takes writes
then: after a failover that is another clock. Hosts' clocks are never compared, only how far a server's has advanced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC
from math import inf
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import pymongo
from bson.datetime_ms import DatetimeMS
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import OperationFailure, ServerSelectionTimeoutError
from pymongo.monitoring import (
    ServerHeartbeatFailedEvent,
    ServerHeartbeatListener,
    ServerHeartbeatStartedEvent,
    ServerHeartbeatSucceededEvent,
)

from backtest_kit_mongo.backends.mongo.errors import (
    FAULTS,
    LATE,
    UNAUTHORIZED,
    brief,
    is_late,
    reading,
    unknown,
    write_error,
)
from backtest_kit_mongo.errors import (
    EnvironmentFault,
    ServerUnreachable,
    UnsafeServer,
    WriteOutcomeUnknown,
    WriteRefused,
    WriteTooLate,
)
from backtest_kit_mongo.limits import write_limit_s

R = TypeVar("R")

DRIFT: Final = 1e-3
"""How much slower a server's clock may run than this process's. Clocks that are being corrected run off by half of
that.
"""

_UNKNOWN_TO_SERVER: Final = frozenset({40_324, 40_415})
"""A stage, a field of a command."""
ASKED_S: Final = 10.0
"""How long an answer is good where no heartbeats are heard; they come as often."""


class _Seen(NamedTuple):
    """What a server's clock showed before it was received here."""

    server_ms: float
    at_s: float


class ServerClocks(ServerHeartbeatListener):
    """The clocks of the servers that take writes, by what each says in its heartbeats. Thread-safe.

    Only a lower bound matters, so no half of a round trip has to be guessed: when an answer is received, the server's
    clock shows at least what it says.
    """

    def __init__(self) -> None:
        self._seen: dict[Any, _Seen] = {}
        self.are_heard = False
        """Heartbeats tell them, so that nobody has to ask."""

    def started(self, event: ServerHeartbeatStartedEvent) -> None:
        return

    def succeeded(self, event: ServerHeartbeatSucceededEvent) -> None:
        """The newest answer counts: a clock that was set back is noticed by it."""
        if event.reply.is_writable:
            self._note(event.connection_id, event.reply.document)
        else:
            self._forget(event.connection_id)

    def failed(self, event: ServerHeartbeatFailedEvent) -> None:
        self._forget(event.connection_id)

    def _forget(self, address: Any) -> None:
        self._seen.pop(address, None)
        self.are_heard = bool(self._seen) and None not in self._seen

    def _note(self, address: Any, hello: Mapping[str, Any]) -> None:
        at_s = time.monotonic()
        self._seen[address] = _Seen(hello["localTime"].replace(tzinfo=UTC).timestamp() * 1000, at_s)
        if address is not None:
            self._seen.pop(None, None)
        self.are_heard = None not in self._seen

    def ask(self, client: MongoClient[dict[str, Any]]) -> None:
        """Learn the clock at once: it was set ahead, or this process stood still, or no heartbeats tell it (load
        balancers).

        Of several routers any may answer; their heartbeats must do.
        """
        hello = client.admin.command("hello")
        if len(self._seen) <= 1:
            self._note(next(iter(self._seen), None), hello)

    def least_ms(self, at_s: float) -> int:
        """What each server's clock shows at least, milliseconds since 1970, at a moment of this process's monotonic
        clock.

        Raises:
            ServerSelectionTimeoutError: no server is known that takes writes; for the driver that is what it says.
        """
        now_s, least = time.monotonic(), inf
        for each in list(self._seen.values()):
            least = min(least, each.server_ms + (at_s - each.at_s - DRIFT * (now_s - each.at_s)) * 1000)
        if least == inf:
            raise ServerSelectionTimeoutError("the clock of no server that takes writes is known")
        return int(least)

    @property
    def must_ask(self) -> bool:
        """Whether no heartbeat tells, and nobody was asked lately."""
        asked = self._seen.get(None)
        return not self._seen or (asked is not None and time.monotonic() - asked.at_s > ASKED_S)


_OPERATOR: Final = "$toInt"
Let: TypeAlias = dict[str, Any]
"""The variables of a command."""


class Deadline(Mapping[str, Any]):
    """An expression that fails once it is too late. It is computed while its command is encoded, so each attempt has
    its own.

    Args:
        least_ms: what the server's clock shows at least at a moment of the monotonic clock.

    Attributes:
        sent_count: commands encoded so far; only what was encoded can have been sent.
    """

    def __init__(self, least_ms: Callable[[float], int], until_s: float, arrival_s: float) -> None:
        self._least_ms, self._until_s, self._arrival_s = least_ms, until_s, arrival_s
        self.sent_count = 0

    def __getitem__(self, name: str) -> Any:
        try:
            by_ms = self._least_ms(min(time.monotonic() + self._arrival_s, self._until_s))
        except ServerSelectionTimeoutError:
            # It was lost since the driver chose a server. Encoding would make a KeyError of it; too late is true.
            by_ms = 0
        self.sent_count += 1
        # Not constant before `$$NOW` is known, so that no optimizer fails in advance.
        return {"$cond": [{"$lt": ["$$NOW", DatetimeMS(by_ms)]}, "1", LATE]}

    def __iter__(self) -> Iterator[str]:
        return iter((_OPERATOR,))

    def __len__(self) -> int:
        return 1

    def settled_in_ms(self) -> int:
        """From then on the write has happened or never will."""
        return max(0, round((self._until_s + self._arrival_s - time.monotonic()) * 1000))


class Deadlines:
    """Sends writes that are bounded in time, here and at the server.

    Args:
        client: of the servers, called late.
        timeout_s: bound on each write, retries included.
        arrival_s: how long a command may be on its way.
    """

    def __init__(self, client: Callable[[], MongoClient[dict[str, Any]]], timeout_s: float, arrival_s: float) -> None:
        self.clocks = ServerClocks()
        self._client = client
        self._timeout_s, self._arrival_s = timeout_s, arrival_s

    def write(self, what: object, send: Callable[[Let], R], until_s: float | None = None) -> R:
        """What `send` answers; it sends these variables with every command. Once more after a refusal for lateness,
        with the clock learned anew.

        Args:
            until_s: the lease's deadline, on the monotonic clock.

        Raises:
            WriteTooLate, WriteOutcomeUnknown: see there.
            WriteRefused: this process was held up until no time was left.
            and what `write_error` returns.
        """
        end_s, arrival_s = self.bounds(what, until_s)
        try:
            return self._attempt(what, send, end_s, arrival_s)
        except WriteTooLate:
            self._ask(what, end_s)
            return self._attempt(what, send, end_s, arrival_s)

    def bounds(self, what: object, until_s: float | None) -> tuple[float, float]:
        """When a write that begins now must end, and how long its command may be on its way; the clock is known
        then.
        """
        now_s = time.monotonic()
        end_s, arrival_s = now_s + self._timeout_s, self._arrival_s
        end_s = end_s if until_s is None else min(end_s, until_s)
        if (limit_s := write_limit_s()) < inf:
            # What arrives by the end may run as long again.
            arrival_s = min(arrival_s, (limit_s - now_s) / 2)
            end_s = min(end_s, now_s + (limit_s - now_s) / 2)
        if not self.clocks.are_heard and self.clocks.must_ask:
            self._ask(what, end_s)
        return end_s, arrival_s

    def ask(self, what: object) -> None:
        """Learn the clock anew, if somebody answers."""
        self._ask(what, time.monotonic() + self._timeout_s)

    def _ask(self, what: object, end_s: float) -> None:
        # If nobody answers, the write itself fails and says so.
        with suppress(EnvironmentFault), reading(what), pymongo.timeout(max(0.001, end_s - time.monotonic())):
            self.clocks.ask(self._client())

    def _attempt(self, what: object, send: Callable[[Let], R], end_s: float, arrival_s: float) -> R:
        deadline = Deadline(self.clocks.least_ms, end_s, arrival_s)
        if (remaining_s := end_s - time.monotonic()) <= 0:
            raise WriteRefused(
                f"{what}: this process was held up until its lease was nearly over, nothing was written. Try again."
            )
        try:
            try:
                with pymongo.timeout(remaining_s):
                    return send({"inTime": deadline})
            except FAULTS as fault:
                raise write_error(what, fault, deadline.settled_in_ms) from fault
        except (WriteRefused, ServerUnreachable) as cause:
            # They speak of the last command; an earlier one of the same write may have got through.
            if deadline.sent_count > isinstance(cause, WriteRefused):
                raise WriteOutcomeUnknown(unknown(what, cause, deadline.settled_in_ms())) from cause
            raise
        except WriteOutcomeUnknown as cause:
            if not deadline.sent_count:
                raise ServerUnreachable(
                    f"{what}: MongoDB cannot be reached, nothing was written: {brief(cause.__cause__ or cause)}"
                ) from cause
            raise


def require(collection: Collection[dict[str, Any]], shard_key: Iterable[str]) -> None:
    """See for oneself that this server refuses what is late, whichever of the three commands it is; no document is
    changed.

    Raises:
        UnsafeServer: it does not.
        pymongo's errors.
    """
    late = {"inTime": Deadline(lambda _: 0, 0.0, 0.0)}
    which, change = dict.fromkeys(shard_key, ""), {"$setOnInsert": {"__v": 0}}
    nowhere = {"$merge": {"into": collection.name, "whenMatched": "fail", "whenNotMatched": "insert"}}
    nothing: list[dict[str, Any]] = [{"$match": {"_id": {"$in": []}}}, nowhere]
    for send in (
        lambda: collection.find_one_and_update(which, change, let=late),
        lambda: collection.update_one(which, change, let=late),
        lambda: collection.aggregate(nothing, let=late),
    ):
        try:
            send()
        except OperationFailure as cause:
            if is_late(cause) or cause.code == UNAUTHORIZED:
                continue  # Who may not write has nothing to fear.
            if cause.code not in _UNKNOWN_TO_SERVER:
                raise
        raise UnsafeServer(
            "this MongoDB does not refuse a write that arrives after its deadline, so a command that was held up "
            "could overwrite newer values. MongoDB 6.0 or newer does. Nothing was written."
        )
