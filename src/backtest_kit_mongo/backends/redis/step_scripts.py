"""What `RedisCache` does for steps: the scripts that work on all keys of a partition at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from backtest_kit_mongo.backends.redis.entry import Tokens, record_header
from backtest_kit_mongo.backends.redis.identity import Identity
from backtest_kit_mongo.backends.redis.link import Argument, Script
from backtest_kit_mongo.backends.redis.past import PastRedis
from backtest_kit_mongo.coherence.effects import CacheDown, Defer, Leased, Published
from backtest_kit_mongo.coherence.events import Event
from backtest_kit_mongo.coherence.keys import Names
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.coherence.steps import AbortAll, CommitAll, Done, LeaseAll, lease_ms_of
from backtest_kit_mongo.errors import WriteRefused


class StepScripts(PastRedis):
    """A part of `RedisCache`, which has these attributes and methods."""

    _identity: Identity
    _tokens: Tokens
    _lease: Script
    _commit: Script
    _monotonic_s: Callable[[], float]
    _names: Callable[[Key], Names]
    _attempt: Callable[..., Any]
    _tell: Callable[..., None]
    _send: Callable[..., None]
    _event: Callable[[Published], Event]
    _keep_events: Callable[[Key, Iterable[Published]], None]

    def partition_of(self, key: Key) -> str:
        return self._names(key).stream

    def lease_all(self, effect: LeaseAll) -> Leased | None:
        options, identity = self._options, self._identity
        lease_ms = lease_ms_of(options.lease_ms, options.write_ms, effect.lifetime_ms)
        token, deadline_s = "", 0.0

        def build() -> tuple[Script, tuple[str, ...], tuple[Argument, ...]]:
            nonlocal token, deadline_s
            identity.stretch(lease_ms)
            token = self._tokens.fresh()
            deadline_s = self._monotonic_s() + options.write_ms / 2000
            minded = 0 if options.bypass else identity.partitions
            times = lease_ms, options.ttl_ms, identity.open_ms
            return self._lease, self._of_partition(effect.keys), (identity.era, token, *times, minded, 0, "", 0, "")

        try:
            self._attempt(build)
        except CacheDown as cause:
            what = f"a step of {len(effect.keys)} documents"
            return self._past(what, effect.keys, cause, options.write_ms / 2, lease_ms, lambda: self.lease_all(effect))
        return Leased(token, deadline_s)

    def _of_partition(self, keys: Iterable[Key]) -> tuple[str, ...]:
        """Redis keys for a script: B, S, A, O, and five of each key."""
        found = [self._names(key) for key in keys]
        first = found[0]
        if any(names.stream != first.stream for names in found):
            raise WriteRefused("the partitions have changed meanwhile. Nothing was written; try again.")
        each = (name for names in found for name in (*names[:3], names.numbers, names.channel))
        return (first.born, first.stream, first.account, self._identity.name(first.born), *each)

    def abort_all(self, effect: AbortAll) -> None:
        self._send([["ZREM", self._names(key).leases, effect.token] for key in effect.keys])

    def commit_all(self, effect: CommitAll) -> None:
        def build() -> tuple[Script, tuple[str, ...], tuple[Argument, ...]]:
            head = (self._identity.era, effect.token, self._options.ttl_ms, self._identity.partitions)
            entries = [part for one in effect.done for part in _entry(one)]
            events = [part for place, one in enumerate(effect.done, 1) for part in self._events(place, one)]
            return self._commit, self._of_partition(effect.keys), (*head, *entries, *events)

        published = tuple(change for one in effect.done for change in one.published)

        def told(answer: Any) -> None:
            _, appended = answer
            if not appended:
                self._keep_events(effect.keys[0], published)

        self._tell(build, told, effect.deadline_s, Defer(effect.keys, published))

    def _events(self, place: int, one: Done) -> Iterable[Argument]:
        """Header, and the body, or the number of the entry that has the same one: a payload is sent once."""
        for change in one.published:
            event = self._event(change)
            is_shared = one.entry is not None and event.body == one.body
            yield from (event.header(), place if is_shared else 0, b"" if is_shared else event.body)


def _entry(one: Done) -> tuple[bytes, bytes]:
    return (b"", b"") if one.entry is None else (record_header(one.entry), one.body)
