"""The replica role: keeps copies of all documents up to date. Its theory of operation is in `replicas/__init__.py`."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from typing import Any, Final

from backtest_kit_mongo.candles.intervals import ANYWHERE, Grid, find_grid
from backtest_kit_mongo.coherence.events import Event
from backtest_kit_mongo.coherence.record import Domain, Key
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_worker.deployment import Deployment
from backtest_kit_worker.replicas import replicas_of
from backtest_kit_worker.replicas.fan import Fan
from backtest_kit_worker.replicas.naming import id_of, named
from backtest_kit_worker.replicas.source import Source
from backtest_kit_worker.replicas.state import Copy, State
from backtest_kit_worker.replicas.target import Target, version
from backtest_kit_worker.roles import Role

logger = logging.getLogger(__name__)

NOTE_EVERY_S: Final = 1.0


class ReplicaRole(Role):
    """Copies what events report, to every target that is configured.

    Args:
        targets: where to; by default those that the CC_REPLICA_ variables name.
        monotonic_s: clock of the notes of progress.

    Raises:
        InvalidSetting: no target is configured, or a variable has a wrong value.
    """

    name = "replica"

    def __init__(
        self,
        deployment: Deployment,
        targets: Sequence[Target] | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = Source(deployment.database, deployment.settings.mongo_bound_ms)
        self._state = State(deployment.database)
        self._targets = tuple(replicas_of(deployment) if targets is None else targets)
        self._fan = Fan(self._state, self._targets)
        self._monotonic_s = monotonic_s
        self._noted_s = float("-inf")

    def open(self) -> None:
        """Connect to the targets and make sure that they are this source's.

        Raises:
            InvalidSetting: a target must not be written to. Nothing was.
        """
        self._fan.open()

    def close(self) -> None:
        for target in self._targets:
            target.close()

    def unfilled_s(self) -> dict[str, float]:
        """By target, for how long the copy of what was there before has been under way: 0.0 if it is complete, infinite
        if it has not begun.

        Raises:
            PyMongoError: the source's database failed.
        """
        now = datetime.now(UTC)
        copies = {target.name: self._state.copy(target.name) for target in self._targets}
        return {name: _unfilled_s(copy, now) for name, copy in copies.items()}

    def apply(self, events: Sequence[tuple[str, Event]]) -> int:
        """Copy the documents that events report, as they are now; returns how many of the events were news.

        Raises:
            ReplicaFailed, PyMongoError: a server or disk failed; nothing may be acknowledged.
            ValueError, CorruptData: an event cannot be applied whatever the servers do.
        """
        reported = _reported(event for _, event in events)
        self._fan.begin()
        news = self._copy(reported)
        self._forget(reported)
        if self._late(reported):
            self._source.fence()
            news += self._copy(reported)
            for what in self._late(reported):
                logger.warning("replica: the source no longer has %s; what it has was copied", what)
        self._fan.finish()
        self._note(events)
        return min(news, len(events))

    def _copy(self, reported: _Reported) -> int:
        """Copy what is reported and not yet found in the source as new as asked."""
        news = 0
        for domain, documents in reported.documents.items():
            for chunk in self._source.by_ids(domain, map(named, documents.late())):
                news += self._fan.put(domain, chunk)
                documents.found.update((document["_id"], version(document).rev) for document in chunk)
        for scope, rows in reported.series.items():
            if not rows.is_late:
                continue
            rows.found = 0
            grid = find_grid(str(scope.item)) or ANYWHERE
            for chunk in self._source.ranges(scope, _united(rows.ranges.values(), grid)):
                news += self._fan.put(scope.domain, chunk)
                rows.found += len(chunk)
        return news

    def _forget(self, reported: _Reported) -> None:
        """Copies of documents that are deleted, also of those that were deleted while they were copied here."""
        for domain, documents in reported.documents.items():
            copied = {name: documents.keys[name] for name in documents.found if name in documents.keys}
            wanted = {name: key for name, key in documents.deleted.items() if name not in copied}
            if copied:
                present = self._source.present_ids(domain, map(named, copied))
                wanted |= {name: key for name, key in copied.items() if named(name) not in present}
            if wanted:
                self._fan.forget(domain, {str(name): key for name, key in wanted.items()})

    @staticmethod
    def _late(reported: _Reported) -> list[str]:
        documents = [f"{domain.name} {name}" for domain, those in reported.documents.items() for name in those.late()]
        series = [
            f"{scope}: {rows.reported - rows.found} rows" for scope, rows in reported.series.items() if rows.is_late
        ]
        return documents + series

    def _note(self, events: Sequence[tuple[str, Event]]) -> None:
        now_s = self._monotonic_s()
        if events and now_s - self._noted_s >= NOTE_EVERY_S:
            self._noted_s = now_s
            entry, event = events[-1]
            self._state.note_applied(entry, event.written_ms)


@dataclass(slots=True)
class _Documents:
    """Revisions by `_id`: reported by events, and found in the source."""

    reported: dict[Any, int] = field(default_factory=dict)
    found: dict[Any, int] = field(default_factory=dict)
    keys: dict[Any, Key] = field(default_factory=dict)
    deleted: dict[Any, Key] = field(default_factory=dict)

    def late(self) -> list[Any]:
        return [n for n, rev in self.reported.items() if n not in self.deleted and self.found.get(n, -1) < rev]


@dataclass(slots=True)
class _Rows:
    """Ranges of new rows by event, as (first, last, count)."""

    ranges: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    found: int = 0

    @property
    def reported(self) -> int:
        return sum(count for ranges in self.ranges.values() for _, _, count in ranges)

    @property
    def is_late(self) -> bool:
        return self.found < self.reported


@dataclass(slots=True)
class _Reported:
    documents: dict[Domain, _Documents] = field(default_factory=lambda: defaultdict(_Documents))
    series: dict[Key, _Rows] = field(default_factory=lambda: defaultdict(_Rows))


def _reported(events: Iterable[Event]) -> _Reported:
    """What events report, each document and each batch once.

    Raises:
        ValueError: an event is of a domain that this release does not know, or not of its shape.
    """
    reported = _Reported()
    for event in events:
        domain = BY_NAME.get(event.domain)
        if domain is None:
            raise ValueError(f"unknown domain {event.domain!r}: a newer release wrote this event")
        if event.operation == "conflict":
            continue  # No document was written, and replicas copy documents.
        if event.operation == "batch":
            ranges = [(int(first), int(last), int(count)) for first, last, count in event.payload["ranges"]]
            reported.series[Key(domain, event.key)].ranges[event.id] = ranges
            continue
        documents, name = reported.documents[domain], id_of(event.document)
        documents.keys[name] = Key(domain, event.key)
        if event.operation == "delete":
            documents.deleted[name] = documents.keys[name]
        documents.reported[name] = max(documents.reported.get(name, 0), event.rev)
    return reported


def _unfilled_s(copy: Copy | None, now: datetime) -> float:
    if copy is None:
        return inf
    return 0.0 if copy.is_complete else max(0.0, (now - copy.started_at).total_seconds())


def _united(ranges: Iterable[Iterable[tuple[int, int, int]]], grid: Grid) -> Iterator[tuple[int, int]]:
    """Ranges as few (first, last): neighbours and overlaps become one."""
    spans = sorted((first, last) for some in ranges for first, last, _ in some)
    current = spans[0]
    for first, last in spans[1:]:
        if first <= grid.after(current[1]):
            current = (current[0], max(current[1], last))
            continue
        yield current
        current = (first, last)
    yield current
