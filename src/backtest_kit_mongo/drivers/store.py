"""The synchronous driver, and the `Store` that domain instances talk to."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from threading import get_ident
from time import perf_counter
from typing import Any, Final, TypeVar

from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence import lists, plans
from backtest_kit_mongo.coherence import steps as st
from backtest_kit_mongo.coherence.inventory import EVERYTHING, Census, Entry, Selection
from backtest_kit_mongo.coherence.lists import ALL, Only
from backtest_kit_mongo.coherence.near import NearBegin, NearEnd, read_near
from backtest_kit_mongo.coherence.record import Change, Domain, Key, Part, Record
from backtest_kit_mongo.drivers.counts import (
    BOUNDS_S,
    DEFERRED,
    FAILED_READ,
    LIST,
    MISS,
    NEAR,
    PASSED_BY,
    USUAL,
    WRITTEN,
    Counts,
    Tally,
)  # fmt: skip
from backtest_kit_mongo.drivers.deleting import DeletionVerbs, deletion_handlers
from backtest_kit_mongo.drivers.drive import OneForAll as OneForAll
from backtest_kit_mongo.drivers.drive import Perform, Performers
from backtest_kit_mongo.drivers.drive import drive as drive
from backtest_kit_mongo.drivers.known_lists import KnownLists
from backtest_kit_mongo.drivers.scopes import current
from backtest_kit_mongo.drivers.series import SeriesVerbs, series_handlers
from backtest_kit_mongo.drivers.single_flight import SingleFlight
from backtest_kit_mongo.drivers.stepping import wait_for_others
from backtest_kit_mongo.errors import ServerUnreachable, WriteOutcomeUnknown
from backtest_kit_mongo.locks import Lock
from backtest_kit_mongo.ports import Cache, Near, Truth

MERGED_MAX: Final = 2_500
"""Rows that are compared and written under one lease: a list of any length is written within its deadlines."""
R = TypeVar("R")


_OF_MANY: Final = (fx.Defer, st.LeaseAll, st.CommitAll)


def _dropping(near: Near, perform: Perform) -> Perform:
    """Perform a step of a write, then forget the own copies of its keys, whatever came of it (N3)."""

    def performed(effect: Any) -> Any:
        try:
            return perform(effect)
        finally:
            near.drop(effect.keys if isinstance(effect, _OF_MANY) else (effect.key,))

    return performed


class Store(SeriesVerbs, DeletionVerbs):
    """One truth and one cache behind the verbs that domains need. Thread-safe.

    Opening is lazy and repeated until it succeeds: a failed first connection is retried by the next call.
    """

    def __init__(self, name: str, truth: Truth, cache: Cache, near: Near | None = None) -> None:
        self.name = name
        self.truth = truth
        self.cache = cache
        self.near = near
        self.counts = Counts()
        # By thread, how the operation that it is in will end where that is not the usual way, which so costs nothing.
        self._outcomes: dict[int, int] = {}
        self._near_domains = frozenset() if near is None else near.domains
        self._handlers: dict[type[fx.Effect[Any]], Perform] = {
            fx.Find: SingleFlight(truth.find).find,
            fx.Upsert: truth.upsert,
            fx.SoftRemove: truth.remove,
            lists.Rows: truth.rows,
            lists.Merge: truth.merge,
            fx.Lease: cache.lease,
            fx.Abort: cache.abort,
            fx.Commit: cache.commit,
            fx.Publish: cache.publish,
            fx.Defer: self._defer,
            fx.CacheRead: self._read_cache,
            fx.Fill: cache.fill,
            st.Atomic: lambda effect: truth.atomic(effect),
            st.LeaseAll: lambda effect: cache.lease_all(effect),
            st.AbortAll: lambda effect: cache.abort_all(effect),
            st.CommitAll: lambda effect: cache.commit_all(effect),
            st.Again: wait_for_others,
            **series_handlers(truth),
            **deletion_handlers(truth),
        }
        self._performers = self._tables(near)
        self._opened = False
        self._open_lock = Lock()
        self._known = KnownLists()

    def _tables(self, near: Near | None) -> list[Performers]:
        """Who performs what in domains of which this process keeps no copies, and in those of which it does."""
        dropping = dict(self._handlers)
        if near is not None:
            dropping |= {NearBegin: near.begin, NearEnd: near.end}
            for kind in (fx.Lease, fx.Commit, fx.Defer, st.LeaseAll, st.CommitAll):
                dropping[kind] = _dropping(near, self._handlers[kind])
        is_watched = type(self)._watch is not Store._watch
        return [OneForAll(partial(self._watched, one)) if is_watched else one for one in (self._handlers, dropping)]

    def __repr__(self) -> str:
        return f"<store {self.name}>"

    def open(self) -> None:
        """Connect unless connected.

        Raises:
            EnvironmentFault: a server cannot be used; the next call tries again.
        """
        if self._opened:
            return
        if self._open_lock.is_mine:
            raise ServerUnreachable(
                f"{self.name}: this thread is opening or closing the store at this moment, and a handler or listener "
                "that it runs asked for more. Nothing was read or written; try again later."
            )
        with self._open_lock.quietly():
            if not self._opened:
                self.truth.open()
                self.cache.open()
                self._opened = True

    def confirm(self) -> None:
        """Connect, or if that was done before, look whether the servers are still those of then."""
        if self._opened:
            self.cache.confirm()
        self.open()

    def close(self) -> None:
        with self._open_lock.quietly():
            if self.near is not None:
                self.near.close()
            self.cache.close()
            self.truth.close()
            self._opened = False
            self._known.clear()

    def performers(self, domain: Domain) -> Performers:
        """Who performs the effects of an operation in this domain: copies are dropped only where there may be some."""
        return self._performers[domain in self._near_domains]

    def _watched(self, handlers: Performers, effect: fx.Effect[Any]) -> Any:
        answer = handlers[type(effect)](effect)
        self._watch(effect, answer)
        return answer

    def _watch(self, effect: fx.Effect[Any], answer: Any) -> None:
        """For subclasses: what was performed, and what came of it."""

    def _read_cache(self, effect: fx.CacheRead) -> Record | fx.Right:
        answer = self.cache.read(effect)
        if type(answer) is fx.Right:
            self._outcomes[get_ident()] = PASSED_BY if answer.is_bypass else MISS
        return answer

    def _defer(self, effect: fx.Defer) -> None:
        self._outcomes[get_ident()] = DEFERRED
        self.cache.defer(effect)

    def read(self, key: Key) -> Record:
        if (scope := current.get()) is not None:
            return scope.read(self, key)
        near = self.near
        if near is not None and key.domain in self._near_domains:
            copy = near.get(key)
            if copy is None:
                return self._run(read_near(key), self.counts.reads[key.domain])
            self.counts.reads[key.domain].outcomes[NEAR] += 1
            return copy
        return self._run(plans.read(key), self.counts.reads[key.domain])

    def _run(self, plan: fx.Plan[R], tally: Tally) -> R:
        """Drive a plan, and count how it ended and how long it took: with few calls, because this is the warm read."""
        since_s = perf_counter()
        try:
            if not self._opened:
                self.open()
            return drive(plan, self._performers[tally.domain in self._near_domains])
        except BaseException as error:
            self._outcomes[get_ident()] = tally.failed(error)
            raise
        finally:
            outcome = self._outcomes.pop(get_ident(), USUAL) if self._outcomes else USUAL
            taken_s = perf_counter() - since_s  # `Tally.add`, without a call.
            tally.outcomes[outcome] += 1
            tally.durations[bisect_left(BOUNDS_S, taken_s)] += 1
            tally.seconds += taken_s

    def write(self, change: Change) -> Record:
        if (scope := current.get()) is not None:
            return scope.write(self, change)
        return self._run(plans.write(change), self.counts.writes[change.key.domain])

    def write_alone(self, change: Change, expected_rev: int | None = None, step: str = "") -> Record:
        """Write whatever block is in force; `expected_rev` and `step` as in `plans.write`."""
        return self._run(plans.write(change, expected_rev, step), self.counts.writes[change.key.domain])

    def write_together(self, domains: Sequence[Domain], plan: fx.Plan[R]) -> R:
        """Perform a step; each of its documents counts as a write of its domain."""
        since_s = perf_counter()
        # One of which there may be copies first: then those of all keys are dropped (N3).
        first, *others = sorted(domains, key=lambda domain: domain not in self._near_domains)
        answer = self._run(plan, self.counts.writes[first])
        for domain in others:
            self.counts.writes[domain].add(WRITTEN, perf_counter() - since_s)
        return answer

    def remove(self, key: Key) -> Record | None:
        if (scope := current.get()) is not None:
            return scope.remove(self, key)
        return self._run(plans.remove(key), self.counts.writes[key.domain])

    def merge(self, scope: Key, changes: Sequence[Change]) -> int:
        """Write the rows that differ; returns how many did.

        Raises:
            WriteOutcomeUnknown: among other causes, some pages of a long list were written and others were not.
        """
        if (block := current.get()) is not None:
            return block.merge(self, scope, changes)
        count = 0
        for start in range(0, max(1, len(changes)), MERGED_MAX):
            page = changes[start : start + MERGED_MAX]
            try:
                count += self._write_list(scope, lists.merge(scope, page, self._known.get(scope)))
            except plans.CERTAINLY_NOT_WRITTEN as cause:
                if not count:
                    raise
                raise WriteOutcomeUnknown(
                    f"{scope}: {count:,} rows were written, and of the last {len(changes) - start:,} none; repeat the "
                    f"write: {cause}"
                ) from cause
        return count

    def put(self, change: Change) -> int:
        """Write one row of a list, whatever is stored; returns 0 if another one is stored that the domain keeps."""
        scope = change.key.scope
        if (block := current.get()) is not None:
            return block.merge(self, scope, (change,))
        return self._write_list(scope, lists.put(scope, change, self._known.get(scope)))

    def known_rows(self, scope: Key) -> Mapping[Part, lists.Seen]:
        """Rows of a list as this store last saw them; another host may have written it since."""
        snapshot = self._known.get(scope)
        return {} if snapshot is None else snapshot.rows

    def _write_list(self, scope: Key, plan: fx.Plan[lists.Merged]) -> int:
        return self._known.keep(scope, self._run(plan, self.counts.writes[scope.domain]))

    def scan(
        self,
        scope: Key,
        *,
        when: int | None = None,
        limit: int | None = None,
        keys_only: bool = False,
        only: Only = ALL,
    ) -> Iterator[Record]:
        if (block := current.get()) is not None:
            return block.scan(self, scope, when=when, limit=limit, keys_only=keys_only, only=only)
        self.open()
        found = self.truth.scan(scope, when=when, limit=limit, keys_only=keys_only, only=only)
        return self._scanning(scope.domain, found)

    def _scanning(self, domain: Domain, records: Iterator[Record]) -> Iterator[Record]:
        """Counted when the caller has taken the last record, or has seen enough."""
        since_s = perf_counter()
        outcome = FAILED_READ
        try:
            yield from records
            outcome = LIST
        except GeneratorExit:
            outcome = LIST
            raise
        finally:
            self.counts.reads[domain].add(outcome, perf_counter() - since_s)

    def browse(self, domain: Domain, chosen: Selection = EVERYTHING) -> Iterator[Entry]:
        """What the truth holds of a domain; no cache is asked, nothing is prepared."""
        return self.truth.browse(domain, chosen)

    def census(self, domain: Domain, chosen: Selection = EVERYTHING) -> Census:
        """How much that is."""
        return self.truth.census(domain, chosen)
