"""The shipped store with a window in it: what its steps answered is noted, and its link to Redis can be cut.

Nothing is decided here. The plans, the scripts and the handling of a Redis that is away are the shipped ones.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import redis

from backtest_kit_mongo.backends.redis.cache import RedisCache
from backtest_kit_mongo.backends.redis.link import UNREACHABLE, Argument, RedisLink, Script
from backtest_kit_mongo.backends.redis.unread import Then
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.events import Event, decode
from backtest_kit_mongo.coherence.lists import Merge, Rows, Seen
from backtest_kit_mongo.coherence.record import Change, Key, Part, Record, digest
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.servers import redis_client
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.setup import make_store
from backtest_kit_verify.chaos.journal import Journal
from backtest_kit_verify.chaos.workload import mark_of

__all__ = ["CutLink", "ObservedStore", "document_name", "observe"]


PUBLISH = Script("publish")


class CutLink(RedisLink):
    """A link that can be cut, and that notes failures, and what it does first when Redis is reached again."""

    def __init__(self, client: redis.Redis, journal: Journal) -> None:
        super().__init__(client)
        self._journal = journal
        self._has_failed = False
        self.is_cut = False
        self.loses_next_reply = False
        self.left: set[int] = set()
        """Numbers of the calls whose COMMIT is under way."""
        self.keeps: Callable[[], bool] = bool

    def run_later(self, script: Script, keys: Sequence[str], args: Sequence[Argument], then: Then) -> None:
        number = self._journal.count

        def heard(answer: Any) -> None:
            if isinstance(answer, UNREACHABLE):
                self._journal.link_failed(f"{type(answer).__name__}: {answer!s:.60}")
                self._has_failed = True
            then(answer)
            self.left.discard(number)
            self._journal.told(number, self.keeps())

        if self.is_cut:
            self.execute_many((("EVALSHA", script.sha, len(keys), *keys, *args),))  # Which is not possible.
        self.left.add(number)
        try:
            super().run_later(script, keys, args, heard)
        except UNREACHABLE as cause:
            self.left.discard(number)
            self._journal.link_failed(f"{type(cause).__name__}: {cause!s:.60}")
            self._has_failed = True
            raise

    def execute_many(self, commands: Sequence[Sequence[Argument]], *, judges: bool = True) -> list[Any]:
        try:
            if not self.is_cut:
                answers = super().execute_many(commands, judges=judges)
            else:
                self._reach_unheard(commands)
                raise redis.ConnectionError("cut off from Redis on purpose")
        except UNREACHABLE as cause:
            self._journal.link_failed(f"{type(cause).__name__}: {cause!s:.60}")
            self._has_failed = True
            raise
        self._note_delivery(commands, answers)
        return answers

    def _reach_unheard(self, commands: Sequence[Sequence[Argument]]) -> None:
        """A connection breaks before a command arrives, or after it was executed: the caller cannot tell."""
        if self.loses_next_reply:
            self.loses_next_reply = False
            super().execute_many(commands)

    def _note_delivery(self, commands: Sequence[Sequence[Argument]], answers: Sequence[Any]) -> None:
        """Events that come without a COMMIT are those that were kept, and go first when Redis is back.

        Loading a script, which may have to come before the relay that takes the old entries away, delivers nothing.
        """
        if commands[0][0] == "SCRIPT":
            return
        events = [
            decode({b"e": header, b"p": body})  # type: ignore[dict-item]
            for command, answer in zip(commands, answers, strict=True)
            if command[1] in (PUBLISH.sha, PUBLISH.source) and answer
            for header, body in zip(command[6::2], command[7::2], strict=True)
        ]
        if events or self._has_failed:
            self._has_failed = False
            self._journal.reached([(document_name(event), event.rev) for event in events])


def document_name(event: Event) -> str:
    """The name that `str(Key)` gives to the event's document."""
    return "/".join((event.domain, *map(str, event.key)))


class ObservedStore(Store):
    """The shipped store; `begin` a call, make it, then ask what its steps answered."""

    def __init__(self, made: Store, journal: Journal) -> None:
        super().__init__(made.name, made.truth, made.cache)
        self._journal = journal
        assert isinstance(made.cache, RedisCache)
        self._reach = made.cache.reaches[0]
        self.begin(0)

    def begin(self, number: int) -> None:
        """Forget the call before."""
        self._number = number
        self.is_deferred = False
        self.is_hit = False
        self.record: Record | None = None
        self.scanned: dict[str, Sequence[Any]] = {}
        self.merged: dict[str, Sequence[Any]] = {}
        self._stored: dict[Part, Seen] = {}
        self._written: tuple[fx.Published, ...] = ()

    def _watch(self, effect: fx.Effect[Any], answer: Any) -> None:
        if isinstance(effect, fx.Commit | fx.Publish) and self._reach.missed.events:
            self.is_deferred = True  # Kept because the feed has no room.
        if isinstance(effect, fx.Lease):
            # Before the truth is asked: what is known of a killed call must include whether it held a lease.
            self._journal.leased(self._number, answer is not None and bool(answer.token))
        elif isinstance(effect, fx.Defer):
            self.is_deferred = self.is_deferred or bool(effect.published)
        elif isinstance(effect, Rows):
            self._stored.update(
                (item, Seen(row.rev, row.id, digest(pack(row.payload)))) for item, row in answer.items()
            )
        elif isinstance(effect, Merge):
            self._written += answer
        elif isinstance(answer, Record):
            self.record = answer
            self.is_hit = isinstance(effect, fx.CacheRead)

    def merge(self, scope: Key, changes: Sequence[Change]) -> int:
        before = dict(self.known_rows(scope))
        count = super().merge(scope, changes)
        known = {**before, **self._stored}
        written = {published.record.key.item: published.record.rev for published in self._written}
        for change in changes:
            item = change.key.item
            seen = known.get(item)
            if item in written:
                self.merged[str(item)] = (written[item], 1)
            elif seen is not None and seen.digest == change.digest:
                self.merged[str(item)] = (seen.rev, 0)
        return count

    def put(self, change: Change) -> int:
        count = super().put(change)
        self.merged.update((str(one.record.key.item), (one.record.rev, 1)) for one in self._written)
        return count

    def scan(self, scope: Key, **options: Any) -> Iterator[Record]:
        for record in super().scan(scope, **options):
            self.scanned[str(record.key.item)] = (record.rev, _mark(scope, record.payload))
            yield record


def _mark(key: Key, payload: Any) -> str | None:
    return mark_of(key.domain, payload)


def observe(settings: Settings, journal: Journal) -> tuple[ObservedStore, CutLink]:
    """The store that `setup()` would make, observed."""
    made = make_store(settings)
    assert isinstance(made.cache, RedisCache)
    link = CutLink(redis_client(settings), journal)
    made.cache._link = link
    missed = made.cache.reaches[0].missed
    link.keeps = lambda: bool(missed.events)
    return ObservedStore(made, journal), link
