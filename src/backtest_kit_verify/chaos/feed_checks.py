"""Every change has its event, or the fault that took it is named. Pure functions."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from backtest_kit_verify.chaos.checks import Evidence, Story, Violation
from backtest_kit_verify.chaos.history import History, Operation, Revision
from backtest_kit_verify.chaos.journal import Outcome

__all__ = ["Cause", "FeedVerdict", "check_feed"]

POSTPONED_NS = 2_500_000_000
"""While an fsync is under way, Redis keeps commands from its append-only file for up to two seconds."""


class Cause(StrEnum):
    """Why an event is missing until a recovery role republishes it from MongoDB."""

    WRITER_KILLED = "its writer was killed between MongoDB and Redis"
    OUTCOME_UNKNOWN = "its writer got the answer that the outcome is unknown"
    KEPT_AND_KILLED = "its writer was killed while it kept the event for Redis"
    SUFFIX_LOST = "Redis was killed and lost it"
    FLUSHED = "FLUSHALL took it"


@dataclass(frozen=True, slots=True)
class FeedVerdict:
    """What became of the events.

    Attributes:
        expected: changes that MongoDB has.
        missing: events awaiting recovery, by cause.
        repeated: events reported more than once because a reply of Redis was lost; consumers drop these by their
            identity.
    """

    expected: int
    missing: Mapping[Cause, int]
    repeated: int
    violations: tuple[Violation, ...] = ()


class _Delivered(NamedTuple):
    """The span in which an event was appended to the stream."""

    since_ns: int
    until_ns: int


@dataclass
class _Feed:
    history: History
    flushed: frozenset[Revision]
    delivered_ns: Mapping[tuple[str, Revision], int]
    missing: Counter[Cause] = field(default_factory=Counter)


def check_feed(history: History, evidence: Evidence, reported: Iterable[Story]) -> FeedVerdict:
    """Look for the event of each change that MongoDB has."""
    feed = _Feed(
        history,
        frozenset(change for flush in history.flushes for change in flush.changes),
        {(one.process, change): one.at_ns for one in history.reunions for change in one.changes},
    )
    violations: list[Violation] = []
    expected: set[Revision] = set()
    repeated = 0
    for story in reported:
        final = max((op.rev or 0 for op in story.stored), default=0)
        for change in (Revision(story.key, rev) for rev in range(1, final + 1)):
            expected.add(change)
            count = evidence.events.get(change, 0)
            writer = story.writers.get(change.rev)
            if count == 0:
                violations += _missing(feed, story, change, writer)
            elif count > 1:
                repeated += 1
                violations += _repeated(history, change, writer, count)
    for change in evidence.events.keys() - expected:
        text = f"the stream has an event of revision {change.rev}, which MongoDB does not have"
        violations.append(Violation("an event of nothing", change.key, text))
    return FeedVerdict(len(expected), dict(feed.missing), repeated, tuple(violations))


def _missing(feed: _Feed, story: Story, change: Revision, writer: Operation | None) -> Iterator[Violation]:
    cause = _cause(feed, story, change, writer)
    if cause is not None:
        feed.missing[cause] += 1
        return
    text = f"revision {change.rev} has no event, and no fault explains it"
    yield Violation("a missing event", change.key, text, (writer,) if writer is not None else ())


def _cause(feed: _Feed, story: Story, change: Revision, writer: Operation | None) -> Cause | None:
    if change in feed.flushed:
        return Cause.FLUSHED
    if writer is None or writer.is_open:
        return _cause_of_silence([writer] if writer is not None else [op for op in story.operations if op.is_open])
    assert writer.decided_ns is not None
    assert writer.ended_ns is not None
    delivered = _Delivered(writer.decided_ns, writer.told_ns or writer.ended_ns)
    if writer.is_left and writer.told_ns is None:
        return Cause.KEPT_AND_KILLED if writer.process in feed.history.killed_ns else None
    if writer.is_deferred:
        at_ns = feed.delivered_ns.get((writer.process, change))
        if at_ns is None:
            return Cause.KEPT_AND_KILLED if writer.process in feed.history.killed_ns else None
        delivered = _Delivered(writer.decided_ns, at_ns)
    for kill in feed.history.redis_kills:
        if kill.gone_ns >= delivered.since_ns and kill.kept_ns - POSTPONED_NS <= delivered.until_ns:
            return Cause.SUFFIX_LOST
    return None


def _cause_of_silence(candidates: list[Operation]) -> Cause | None:
    """Whoever made the change did not say so."""
    outcomes = {op.outcome for op in candidates}
    if Outcome.PENDING in outcomes:
        return Cause.WRITER_KILLED
    return Cause.OUTCOME_UNKNOWN if outcomes else None


def _repeated(history: History, change: Revision, writer: Operation | None, count: int) -> Iterator[Violation]:
    """An event is sent again only after a failure, since its first sending may have been executed."""
    if writer is not None:
        failures = history.failures.get(writer.process, [])
        if bisect_left(failures, writer.began_ns) == len(failures):
            text = f"revision {change.rev} has {count} events, and nothing failed"
            yield Violation("an event repeated", change.key, text, (writer,))
