"""Redis as the coherent cache and the change feed. The scripts in `lua/` are the protocol's steps; this file sends
them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import redis
from redis.exceptions import AskError, NoScriptError, TryAgainError

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.redis.counts import CacheCounts
from backtest_kit_mongo.backends.redis.entry import (
    INCARNATION_CHARS,
    Tokens,
    is_of_this_version,
    parse_entry,
    record_header,
)
from backtest_kit_mongo.backends.redis.errors import Refused, is_unreachable
from backtest_kit_mongo.backends.redis.identity import FixedIdentity, Identity
from backtest_kit_mongo.backends.redis.link import Argument, Link, Script
from backtest_kit_mongo.backends.redis.options import CacheOptions
from backtest_kit_mongo.backends.redis.passing import Passing, Serving
from backtest_kit_mongo.backends.redis.reach import FAULTS, Keeper, Reach, after
from backtest_kit_mongo.backends.redis.safety import unsafe_reason
from backtest_kit_mongo.backends.redis.step_scripts import StepScripts
from backtest_kit_mongo.causing import present_cause
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.effects import (
    Abort,
    CacheDown,
    CacheRead,
    Commit,
    Defer,
    Fill,
    Lease,
    Leased,
    Publish,
    Published,
    Right,
)
from backtest_kit_mongo.coherence.events import Event
from backtest_kit_mongo.coherence.keys import Names, era_name, names, partition_names, script_names, token_name
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.errors import BacktestKitError, CorruptData, ServerUnreachable, UnsafeServer
from backtest_kit_mongo.ports import CacheFigures

logger = locks.logger(__name__)

UNDONE = (NoScriptError, AskError, TryAgainError)
"""Answers to what was not executed. (MOVED is a kind of ASK to the client library.)"""
UNSERVED = b"-"
"""For LEASE: nothing is to be told of what is not served."""
Call = tuple[Script, tuple[str, ...], Sequence[Argument]]
"""A script, its keys and its arguments."""


class RedisCache(StepScripts):
    """The coherent cache of documents, and the feed. Thread-safe.

    While Redis cannot be reached it is bypassed: reads and writes go to MongoDB, and what the cache missed is kept.
    Before it is used again the entries of every key written meanwhile are deleted and the kept events are appended
    (`reach.py`). What an error means is said in `errors.py`.

    Args:
        identity: to whom Redis belongs; by default an era that never ends.
        health_key: a key on the server that this cache depends on, where keys are spread over several.
        counts: shared by the caches of one store.
    """

    def __init__(
        self,
        link: Link,
        options: CacheOptions,
        *,
        identity: Identity | None = None,
        script: Callable[[str], Script] = Script,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_s: Callable[[], float] = time.monotonic,
        health_key: str = "",
        counts: CacheCounts | None = None,
        passing: Passing | None = None,
    ) -> None:
        self._link = link
        self._passing = passing
        self._serve_ms = 0 if passing is None else passing.serve_ms
        self._token_of = f"{health_key[:-1]}b" if health_key else partition_names(options.database, 0)[0]
        self._health_key = health_key
        self._options = options
        self._identity = identity or FixedIdentity(options.partitions, options.lease_ms)
        self._wall_ns = wall_ns
        self._monotonic_s = monotonic_s
        self._tokens = Tokens()
        self._read, self._lease, self._commit, self._fill, self._relay, self._publish = (
            script(name) for name in ("read", "lease", "commit", "fill", "relay", "publish")
        )
        self.counts = counts if counts is not None else CacheCounts(monotonic_s)
        self._reach = Reach(
            link, self._identity, self._relay, self._publish, self._names, self.counts, retry_s=options.retry_ms / 1000,
            health_key=health_key, shares=options.partitions if health_key else 1, monotonic_s=monotonic_s,
        )  # fmt: skip
        if passing is not None:
            self._reach.passing, passing.counts = passing, self.counts
        self.reaches = (self._reach,)
        self._keeper = Keeper(self._identity, options.retry_ms / 1000)

    # -- availability

    def open(self) -> None:
        """Check that Redis answers and may be trusted with leases, put this process's settings in force, and learn
        which era of the database Redis is in.

        Raises:
            UnsafeServer: its eviction policy may drop leases.
            ServerUnreachable: MongoDB cannot be reached, or Redis cannot and `on_redis_down` is `fail`.
        """
        self._identity.start()
        self.connect(self._identity.renew)
        self._keeper.start(self)

    def connect(self, then: Callable[[], None] = lambda: None) -> None:
        """The part of `open` that asks Redis."""
        try:
            if reason := unsafe_reason(self._link.at(self._health_key).execute("INFO", "MEMORY")):
                raise UnsafeServer(reason)
            then()
        except redis.AuthenticationError as cause:
            raise ServerUnreachable(f"Redis refused the credentials: {cause}") from cause
        except (redis.RedisError, OSError) as cause:
            if isinstance(cause, BacktestKitError):
                raise
            if not is_unreachable(cause):
                raise UnsafeServer(f"Redis answers with an error, nothing was written: {cause}") from cause
            if not self._options.bypass:
                raise ServerUnreachable(
                    f"Redis cannot be reached and CC_ON_REDIS_DOWN is `fail`; nothing was written: {cause}"
                ) from cause
            self._reach.went_down(cause)

    def confirm(self) -> None:
        """Look again whether the database is the one that Redis belongs to; what cannot be done now is done later."""
        with suppress(CacheDown):
            self._reach.guarded(self._identity.renew)

    def close(self) -> None:
        self._keeper.stop()
        self._link.settle()
        self._reach.close()
        self._link.close()

    @property
    def _is_down(self) -> bool:
        return self._reach.is_down

    def _attempt(self, build: Callable[[], Call]) -> Any:
        """Run a script; once more on a new connection if the first was dead. Each attempt is built anew, with a fresh
        token.

        Raises:
            CacheDown: Redis cannot be used; the script may or may not have been executed.
        """

        def send() -> Any:
            script, keys, arguments = build()
            return self._link.run(script, keys, arguments)

        if self._reach.is_troubled:
            return self._reach.guarded(send)
        try:
            script, keys, arguments = build()
            return self._link.run(script, keys, arguments)
        except FAULTS as fault:
            # As nearly never, so the usual way has no more calls than it needs.
            return self._reach.guarded(after(fault, send))

    def _names(self, key: Key) -> Names:
        return names(self._options.database, self._identity.partitions, key.domain.name, key.parts)

    # -- writers

    def lease(self, effect: Lease) -> Leased | None:
        token, deadline_s, asked = "", 0.0, b""
        options, identity, key = self._options, self._identity, effect.key

        def build() -> Call:
            nonlocal token, deadline_s
            token = self._tokens.fresh()
            # Counted from before LEASE is sent, so it lies before the lease's own end on any clock.
            deadline_s = self._monotonic_s() + options.write_ms / 1000
            found = script_names(options.database, identity.partitions, identity.deployment, key.domain.name, key.parts)
            minded = 0 if options.bypass else identity.partitions
            times = options.lease_ms, options.ttl_ms, identity.open_ms
            more = int(effect.want_prior), self._token, self._serve_ms, asked
            return self._lease, found, (identity.era, token, *times, minded, *more)

        try:
            prior = self._attempt(build)
            if type(prior) is list:
                asked = prior[0] if self._is_free() else UNSERVED
                prior = self._attempt(build)
        except CacheDown as cause:
            return self._past(key, (key,), cause, options.write_ms, options.lease_ms, lambda: self.lease(effect))
        return Leased(token, deadline_s, None if prior is None else self._readable(key, prior))

    def serving(self, _: str) -> Serving:
        """For others that serve what is in this cache, by the partition's `born` key."""
        return Serving(self._token, self._serve_ms, self._is_free)

    @property
    def _token(self) -> str:
        """T: one for all partitions of a server, or in a cluster the partition's own."""
        return token_name(self._token_of, self._identity.deployment)

    def _readable(self, key: Key, entry: bytes) -> Record | None:
        """The entry as a record. One that cannot be read is as good as none: Redis is only a cache."""
        try:
            return parse_entry(key, entry) if is_of_this_version(entry) else None
        except CorruptData as cause:
            logger.error("%s", cause)
            return None

    def abort(self, effect: Abort) -> None:
        self._send([["ZREM", self._names(effect.key).leases, effect.token]])

    def commit(self, effect: Commit) -> None:
        options, identity, key, body = self._options, self._identity, effect.key, effect.body

        def build() -> Call:
            found = script_names(options.database, identity.partitions, identity.deployment, key.domain.name, key.parts)
            arguments: list[Argument] = [
                identity.era, effect.token, options.ttl_ms, identity.partitions, record_header(effect.entry), body,
            ]  # fmt: skip
            for change in effect.published:
                is_shared = change.body == body
                arguments += (self._event(change).header(), int(is_shared), b"" if is_shared else change.body)
            return self._commit, found, arguments

        def told(answer: Any) -> None:
            installed, appended = answer
            if not installed:
                self.counts.lease_conflicts += 1
            if not appended:
                self._keep_events(effect.key, effect.published)

        self._tell(build, told, effect.deadline_s, Defer((key,), effect.published))

    def _tell(self, build: Callable[[], Call], told: Callable[[Any], None], deadline_s: float, missed: Defer) -> None:
        """Send a COMMIT; `told` gets its answer. Before the lease's deadline nobody waits for that: what MongoDB has
        acknowledged by then was never hidden by anything older (`docs/adr/0038`). Where it fails unheard, `missed` is
        kept, as its plan would ask for.
        """
        if self._reach.is_troubled or self._monotonic_s() >= deadline_s:
            told(self._attempt(build))
            return

        def send() -> Any:
            script, keys, arguments = build()
            return self._link.run(script, keys, arguments)

        def then(answer: Any) -> None:
            if not isinstance(answer, BaseException):
                told(answer)
                return
            fault = answer if isinstance(answer, FAULTS) else redis.ConnectionError(f"interrupted: {answer!r}")
            try:
                told(self._reach.guarded(send if isinstance(answer, UNDONE) else after(fault, send)))
            except CacheDown:
                self.defer(missed)

        script, keys, arguments = build()
        try:
            self._link.run_later(script, keys, arguments, then)
        except FAULTS as fault:
            told(self._reach.guarded(after(fault, send)))

    def _keep_events(self, scope: Key, published: Iterable[Published]) -> None:
        """The feed has no room for them. All else was done."""
        self.counts.no_room += 1
        self._reach.keep_events([(self._names(scope).stream, self._event(change)) for change in published])

    def _event_arguments(self, published: Iterable[Published]) -> list[Argument]:
        return [part for change in published for part in (self._event(change).header(), change.body)]

    def _event(self, change: Published) -> Event:
        record = change.record
        return Event(
            domain=record.key.domain.name,
            key=record.key.parts,
            document=record.id,
            rev=record.rev,
            operation=change.operation,
            when=record.when,
            written_ms=self._wall_ns() // 1_000_000,
            origin=self._options.origin,
            body=change.body,
            trace=self._options.trace(),
            step=change.step,
            cause=present_cause(),
        )

    def publish(self, effect: Publish) -> None:
        def build() -> Call:
            found = self._names(effect.scope)
            events = self._event_arguments(effect.published)
            return self._publish, (found.stream, found.account), (self._identity.partitions, *events)

        if not self._attempt(build):
            self._keep_events(effect.scope, effect.published)

    def _send(self, commands: list[list[Argument]]) -> None:
        self._reach.guarded(lambda: self._link.execute_many(commands))

    def defer(self, effect: Defer) -> None:
        events = [
            # The stream that COMMIT would have used: a list's rows belong to the partition of their scope.
            (self._names(effect.keys[0] if effect.keys else change.record.key).stream, self._event(change))
            for change in effect.published
        ]
        self._reach.keep(effect.keys, events)
        if self._passing is not None and effect.leased_until_s <= self._monotonic_s():
            self._passing.acknowledged(effect.keys, lambda: any(map(self._reach.owes, effect.keys)))

    # -- readers

    def figures(self) -> CacheFigures:
        return self.counts.figures()

    def read(self, effect: CacheRead) -> Record | Right:
        if self._identity.mode == "id":
            return Right("")  # Foreign writers were announced: nothing but MongoDB is believed.
        options, key_names, asked = self._options, self._names(effect.key), b""

        def build() -> Call:
            nonlocal key_names
            key_names, identity = self._names(effect.key), self._identity
            born = key_names.born
            found = *key_names[:3], born, era_name(born, identity.deployment), self._token
            times = identity.open_ms, options.ttl_ms, self._serve_ms
            return self._read, found, (identity.era, self._tokens.fresh(), *times, asked)

        try:
            answer = self._attempt(build)
            if type(answer) is list and len(answer) == 2:
                asked = answer[1]
                if self._is_free():
                    answer = self._attempt(build)
        except CacheDown:
            return Right("", is_bypass=True)
        if type(answer) is list and len(answer) == 2:
            return Right("", is_bypass=True)
        if self._reach.is_troubled and self._reach.owes(effect.key):
            return Right("", is_bypass=True)
        if isinstance(answer, bytes):
            self.counts.saw(key_names.born, answer[:INCARNATION_CHARS])
            record = self._readable(effect.key, answer)
            if record is not None:
                return record
            with suppress(CacheDown):
                self._send([["DEL", key_names.entry]])
            return Right("")
        return Right(answer[0].decode())

    def fill(self, effect: Fill) -> None:
        record = effect.record
        body = pack(record.payload)

        def build() -> Call:
            found = self._names(record.key)
            return (
                self._fill,
                (*found[:2], self._identity.name(found.born)),
                (self._identity.era, effect.token, self._options.ttl_ms, record_header(record), body),
            )

        try:
            installed = self._attempt(build)
        except Refused:
            installed = 0  # For example a full Redis: only the next reader pays.
        if not installed:
            self.counts.fills_refused += 1
