"""What a history must satisfy, and the excerpt that shows where it does not. Pure functions.

Revisions order all writes of a document, so linearizability is simple here: no read below the newest revision that was
returned before it began, and no value that its revision does not have.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from backtest_kit_verify.chaos.history import History, Operation, Revision, Value
from backtest_kit_verify.chaos.journal import CallKind, Outcome

__all__ = ["Evidence", "Story", "Violation", "check_history", "stories"]

NOTHING = Value(None)
EXCERPT_MAX = 8


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the servers hold when all is quiet.

    Attributes:
        stored: MongoDB's documents, as observations; more than one of a key is a violation.
        cached: entries of the current incarnation, as reads that began after MongoDB was asked.
        events: how often each change was in the stream; `reported` is the value that it reported.
        is_final: that is known. Of the time before a restore nobody can say what MongoDB held at last.
    """

    stored: Sequence[Operation]
    cached: Sequence[Operation]
    events: Mapping[Revision, int]
    reported: Mapping[Revision, Value]
    is_final: bool = True


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise, and the operations that show it, in the order of time.

    Attributes:
        behind_ns: of a stale read, how long ago what it missed had been returned.
    """

    kind: str
    key: str
    text: str
    excerpt: tuple[Operation, ...] = ()
    behind_ns: int = 0

    @property
    def span_ns(self) -> int:
        """How long the excerpt takes: the shortest one says most."""
        times = [time for op in self.excerpt for time in (op.began_ns, op.ended_ns) if time is not None]
        return max(times) - min(times) if times else 0


@dataclass
class Story:
    """One document: what was done to it, in the order of time.

    Attributes:
        bound_ns: when a write whose outcome nobody said is committed or never will be, after that was said.
    """

    key: str
    bound_ns: int
    operations: list[Operation] = field(default_factory=list)
    reported: Mapping[int, Value] = field(default_factory=dict)
    is_final: bool = True

    @cached_property
    def observations(self) -> list[Operation]:
        """Whatever got a revision, by the time of getting it."""
        return sorted((op for op in self.operations if op.is_observation), key=_ended_ns)

    @cached_property
    def _ends(self) -> list[int]:
        return [_ended_ns(op) for op in self.observations]

    @cached_property
    def _newest(self) -> list[int]:
        """The highest revision up to each observation."""
        return list(accumulate((_rev(op) for op in self.observations), max))

    def newest_rev(self, at_ns: int) -> int:
        """The highest revision that somebody had got by then."""
        index = bisect_left(self._ends, at_ns) - 1
        return self._newest[index] if index >= 0 else 0

    def last_above(self, rev: int, at_ns: int) -> Operation:
        """The last that had got a higher revision by then. Precondition: there is one."""
        index = bisect_left(self._ends, at_ns) - 1
        while _rev(self.observations[index]) <= rev:
            index -= 1
        return self.observations[index]

    def first_above(self, rev: int) -> Operation:
        """The first that got a higher revision. Precondition: there is one."""
        return self.observations[bisect_right(self._newest, rev)]

    @cached_property
    def stored(self) -> list[Operation]:
        return [op for op in self.operations if op.kind is CallKind.STORED]

    @cached_property
    def base(self) -> Operation | None:
        """What MongoDB was set back to, if it was."""
        return next((op for op in self.operations if op.kind is CallKind.RESTORED), None)

    @cached_property
    def values(self) -> dict[int, dict[Value, Operation | None]]:
        """What each revision was seen to hold, and who saw it first (None: an event reported it)."""
        found: dict[int, dict[Value, Operation | None]] = defaultdict(dict)
        for op in self.observations:
            if op.value is not None:
                found[_rev(op)].setdefault(op.value, op)
        for rev, value in self.reported.items():
            found[rev].setdefault(value, None)
        return found

    @cached_property
    def writers(self) -> dict[int, Operation]:
        """Who made a revision, where that is known: it got that answer, or only it can have written the value."""
        found = {_rev(op): op for op in self.operations if op.has_written}
        silent: dict[str, list[Operation]] = defaultdict(list)
        for op in self.operations:
            if op.is_open and op.wanted is not None:
                silent[op.wanted].append(op)
        for rev, values in self.values.items():
            value = next(iter(values))
            # A removal keeps the mark of what it removes, so only a value that is not removed names its writer.
            if rev not in found and value.mark is not None and not value.is_removed and len(silent[value.mark]) == 1:
                found[rev] = silent[value.mark][0]
        return found


def _ended_ns(operation: Operation) -> int:
    assert operation.ended_ns is not None
    return operation.ended_ns


def _rev(operation: Operation) -> int:
    assert operation.rev is not None
    return operation.rev


def stories(history: History, evidence: Evidence) -> list[Story]:
    """The history by document."""
    bound_ns = history.mongo_bound_ms * 1_000_000
    by_key: dict[str, Story] = {}
    for operation in (*history.operations, *evidence.stored, *evidence.cached):
        if operation.key not in by_key:
            by_key[operation.key] = Story(operation.key, bound_ns, is_final=evidence.is_final)
        by_key[operation.key].operations.append(operation)
    reported: dict[str, dict[int, Value]] = defaultdict(dict)
    for change, value in evidence.reported.items():
        reported[change.key][change.rev] = value
    for key, story in by_key.items():
        story.operations.sort(key=lambda op: op.began_ns)
        story.reported = reported.get(key, {})
    return [by_key[key] for key in sorted(by_key)]


def check_history(reported: Iterable[Story]) -> list[Violation]:
    """All violations but those of the feed."""
    checks = (_reads, _writes, _late, _values, _authors, _stored, _errors)
    return [found for story in reported for check in checks for found in check(story)]


def _reads(story: Story) -> Iterator[Violation]:
    """No read that began after a revision was reported gives an older one."""
    for read in story.operations:
        if not (read.is_read and read.is_observation):
            continue
        rev, newest = _rev(read), story.newest_rev(read.began_ns)
        if rev >= newest:
            continue
        better = story.last_above(rev, read.began_ns)
        behind_ms = (read.began_ns - _ended_ns(better)) / 1e6
        text = f"{read.process} saw revision {rev}, {behind_ms:.1f} ms after {better.process} got {better.rev}"
        kind = "a stale cache entry" if read.kind is CallKind.CACHED else "a stale read"
        behind_ns = read.began_ns - _ended_ns(story.first_above(rev))
        yield Violation(kind, story.key, text, _excerpt(story, read, better), behind_ns)


def _excerpt(story: Story, read: Operation, better: Operation) -> tuple[Operation, ...]:
    """The read, who knew better, who wrote what it missed, and who wrote what it saw."""
    shown = [better, read]
    for rev in (_rev(read), *range(_rev(better), _rev(read), -1)):
        writer = story.writers.get(rev)
        if writer is not None and writer not in shown and len(shown) < EXCERPT_MAX:
            shown.append(writer)
    return tuple(sorted(shown, key=lambda op: op.began_ns))


def _writes(story: Story) -> Iterator[Violation]:
    """Revisions grow with time, and each is made once."""
    made: dict[int, Operation] = {}
    for op in story.operations:
        if not op.has_written:
            continue
        rev = _rev(op)
        if rev <= story.newest_rev(op.began_ns):
            better = story.last_above(rev - 1, op.began_ns)
            text = f"{op.process} wrote revision {rev} after {better.process} got {better.rev}"
            yield Violation("a revision went back", story.key, text, (better, op))
        if rev in made:
            text = f"{made[rev].process} and {op.process} both got the answer that they wrote revision {rev}"
            yield Violation("one revision, two writes", story.key, text, (made[rev], op))
        made[rev] = op


def _late(story: Story) -> Iterator[Violation]:
    """A write whose caller was informed that its outcome is unknown is not committed after one that began when it was
    settled.
    """
    reported = [op for op in story.operations if op.has_written]
    for rev, op in story.writers.items():
        if not op.is_open or op.ended_ns is None:
            continue
        settled_ns = op.ended_ns + story.bound_ns
        newer = next((other for other in reported if other.began_ns > settled_ns and _rev(other) < rev), None)
        if newer is not None:
            text = (
                f"{op.process} got the answer that its write may have happened; revision {rev} is by it, and "
                f"{newer.process} wrote {newer.rev}"
            )
            yield Violation("a write that came late", story.key, text, (op, newer))


def _values(story: Story) -> Iterator[Violation]:
    """One revision, one value, whoever looks; and no value from nowhere."""
    wanted = {op.wanted for op in story.operations if op.wanted is not None}
    if story.base is not None and story.base.value is not None:
        wanted.add(story.base.value.mark or "")
    for rev, values in sorted(story.values.items()):
        if len(values) > 1:
            text = f"revision {rev} is {' and '.join(map(str, values))}"
            seen = tuple(op for op in values.values() if op is not None)
            yield Violation("one revision, two values", story.key, text, seen)
        for value, op in values.items():
            if (value == NOTHING) != (rev == 0) or (value.mark is not None and value.mark not in wanted):
                text = f"revision {rev} holds {value}, which nobody wrote"
                yield Violation("a value that nobody wrote", story.key, text, (op,) if op is not None else ())


def _authors(story: Story) -> Iterator[Violation]:
    """A value is at no more revisions than calls can have put it there: none after a refusal, one per call."""
    authors: dict[str, list[Operation]] = defaultdict(list)
    for op in story.operations:
        if op.wanted is not None:
            authors[op.wanted].append(op)
    seen: dict[str, list[int]] = defaultdict(list)
    since = _rev(story.base) if story.base is not None else 0  # Who wrote up to there is a matter of the epoch before.
    for rev, values in story.values.items():
        for value in values:
            if value.mark is not None and not value.is_removed and rev > since:
                seen[value.mark].append(rev)
    for mark, revs in seen.items():
        possible = sum(op.may_have_written for op in authors[mark])
        if authors[mark] and len(revs) > possible:
            kind = "a write applied twice" if possible else "a refused write happened"
            text = f"{mark} is at revisions {sorted(revs)}, and {possible} calls may have written it"
            yield Violation(kind, story.key, text, tuple(authors[mark][:EXCERPT_MAX]))


def _stored(story: Story) -> Iterator[Violation]:
    """What was acknowledged is in MongoDB, once; and MongoDB has no more changes than were asked for."""
    if not story.is_final:
        return
    if len(story.stored) > 1:
        yield Violation("a document twice", story.key, f"MongoDB has it {len(story.stored)} times", tuple(story.stored))
    final = max(map(_rev, story.stored), default=0)
    newest = max(story.observations, key=_rev, default=None)
    if newest is not None and _rev(newest) > final:
        text = f"{newest.process} got revision {newest.rev}; MongoDB has {final}"
        yield Violation("an acknowledged write lost", story.key, text, (newest,))
    returned = len({_rev(op) for op in story.operations if op.has_written})
    returned += _rev(story.base) if story.base is not None else 0
    possible = sum(op.is_open for op in story.operations)
    if final > returned + possible:
        text = f"{final} revisions, but only {returned} writes returned and {possible} more may have happened"
        yield Violation("a write applied twice", story.key, text)


def _errors(story: Story) -> Iterator[Violation]:
    """Every error is one that is documented."""
    for op in story.operations:
        if op.outcome is Outcome.UNDOCUMENTED:
            yield Violation("an undocumented error", story.key, f"{op.process} {op.kind}: {op.text}", (op,))
