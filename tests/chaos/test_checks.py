"""The checker finds every kind of broken promise in a history written by hand, and nothing in a history that keeps
them.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.chaos.past import KEY, ROW, Past

from backtest_kit_verify.chaos.journal import CallKind, Outcome


class TestAWriteOfUnknownOutcome:
    @pytest.mark.parametrize(("newer_ms", "kinds"), [(500, set()), (2_000, {"a write that came late"})])
    def test_it_is_not_committed_after_one_that_began_when_it_was_settled(self, newer_ms: int, kinds: set[str]) -> None:
        past = Past()
        past.write("w0.0", None, "old", (0, 10), outcome=Outcome.UNKNOWN)
        past.write("w1.0", 1, "new", (newer_ms, newer_ms + 10))
        past.read("r0.0", 2, "old", (3_000, 3_010))
        assert past.kinds() == kinds


class TestReadsAreNeverStale:
    def test_a_read_that_begins_after_a_write_returned_must_see_it(self) -> None:
        past = Past()
        past.write("w0.0", 1, "a", (0, 10))
        past.write("w0.0", 2, "b", (20, 30))
        past.read("r0.0", 1, "a", (31, 32))
        (violation,) = past.check()
        assert violation.kind == "a stale read"
        assert violation.text == "r0.0 saw revision 1, 1.0 ms after w0.0 got 2"
        assert [(op.process, op.rev) for op in violation.excerpt] == [("w0.0", 1), ("w0.0", 2), ("r0.0", 1)]

    def test_a_read_that_overlaps_the_write_may_see_either(self) -> None:
        past = Past()
        past.write("w0.0", 1, "a", (0, 10))
        past.write("w0.0", 2, "b", (20, 30))
        past.read("r0.0", 1, "a", (29, 40))
        past.read("r0.1", 2, "b", (21, 40))
        assert not past.kinds()

    def test_what_one_read_saw_no_later_read_may_miss(self) -> None:
        past = Past()
        past.write("w0.0", 1, "a", (0, 10))
        past.write("w0.0", 2, "b", (20, 90))
        past.read("r0.0", 2, "b", (30, 40))
        past.read("r1.0", 1, "a", (41, 42))
        assert past.kinds() == {"a stale read"}

    def test_a_killed_write_may_be_seen_or_not_but_once_seen_it_stays(self) -> None:
        past = Past()
        past.write("w0.0", 1, "a", (0, 10))
        past.write("w0.0", None, "b", (20, None))
        past.read("r0.0", 1, "a", (30, 31))
        past.read("r0.0", 2, "b", (40, 41))
        assert not past.kinds()
        past.read("r1.0", 1, "a", (50, 51))
        assert past.kinds() == {"a stale read"}

    def test_a_row_that_a_list_lacks_was_read_as_revision_0(self) -> None:
        past = Past()
        past.write("w0.0", 1, "a", (0, 10), key=ROW, kind=CallKind.MERGE)
        past.read("r0.0", 0, None, (20, 21), key=ROW, kind=CallKind.SCAN)
        assert past.kinds() == {"a stale read"}

    def test_a_row_that_a_writer_takes_for_stored_is_a_read_too(self) -> None:
        past = Past()
        past.write("w0.0", 1, "a", (0, 10), key=ROW, kind=CallKind.MERGE)
        past.write("w1.0", 2, "b", (20, 30), key=ROW, kind=CallKind.MERGE)
        past.write("w0.0", 1, "a", (40, 50), key=ROW, kind=CallKind.MERGE, is_check=True)
        assert past.kinds() == {"a stale read"}

    def test_a_cached_entry_that_differs_from_mongodb_when_all_is_quiet_is_found(self) -> None:
        past = Past()
        past.write("w0.0", 1, "a", (0, 10))
        past.write("w0.0", None, "b", (20, None))
        past.store(2, "b")
        past.cache(1, "a")
        assert past.kinds() == {"a stale cache entry"}


class TestWritesAreNeitherLostNorDoubled:
    def test_an_acknowledged_revision_that_mongodb_does_not_have(self) -> None:
        past = Past()
        past.write("w0.0", 1, "a", (0, 10))
        past.write("w0.0", 2, "b", (20, 30))
        past.store(1, "a")
        assert past.kinds() == {"an acknowledged write lost"}

    def test_a_document_that_is_not_there_at_all(self) -> None:
        past = Past()
        past.write("w0.0", 1, "a", (0, 10))
        past.store(1, "z", key="state/other")
        assert "an acknowledged write lost" in past.kinds()

    def test_an_acknowledged_revision_with_another_value(self) -> None:
        past = Past()
        past.write("w0.0", 1, "a", (0, 10))
        past.write("w1.0", None, "b", (0, None))
        past.store(1, "b")
        assert past.kinds() == {"one revision, two values"}

    def test_a_document_twice(self) -> None:
        past = Past()
        past.write("w0.0", 1, "a", (0, 10))
        past.store(1, "a")
        past.store(1, "a")
        assert past.kinds() == {"a document twice"}

    def test_two_writers_of_one_revision(self) -> None:
        past = Past()
        past.write("w0.0", 1, "a", (0, 10))
        past.write("w1.0", 1, "b", (5, 15))
        assert "one revision, two writes" in past.kinds()

    def test_a_revision_that_went_back(self) -> None:
        past = Past()
        past.write("w0.0", 2, "b", (0, 10))
        past.write("w1.0", 1, "a", (20, 30))
        assert past.kinds() == {"a revision went back"}

    def test_a_value_that_nobody_wrote(self) -> None:
        past = Past()
        past.write("w0.0", 1, "a", (0, 10))
        past.read("r0.0", 1, "z", (1, 2))
        assert "a value that nobody wrote" in past.kinds()

    def test_a_document_without_a_value(self) -> None:
        past = Past()
        past.write("w0.0", 1, "a", (0, 10))
        past.read("r0.0", 1, None, (20, 30))
        assert "a value that nobody wrote" in past.kinds()

    @pytest.mark.parametrize("span", [(20, 30), (20, None)])
    def test_a_write_that_may_have_happened_may_be_there_once(self, span: tuple[float, float | None]) -> None:
        past = Past()
        past.write("w0.0", 1, "a", (0, 10))
        past.write("w0.0", None, "b", span, outcome=Outcome.UNKNOWN if span[1] else Outcome.PENDING)
        past.store(2, "b")
        assert not past.kinds()
        past.read("r0.0", 3, "b", (50, 60))
        past.stored.clear()
        past.store(3, "b")
        assert past.kinds() == {"a write applied twice"}

    def test_revisions_that_no_call_can_have_made(self) -> None:
        past = Past()
        past.write("w0.0", 1, "a", (0, 10))
        past.write("w0.0", 3, "c", (20, 30))
        assert past.kinds() == {"a write applied twice"}

    def test_a_write_that_was_refused_and_happened(self) -> None:
        past = Past()
        past.write("w0.0", 1, "a", (0, 10))
        past.write("w0.0", None, "b", (20, 30), outcome=Outcome.REFUSED)
        past.write("w0.0", None, "c", (40, 50), outcome=Outcome.UNKNOWN)
        past.store(2, "b")
        assert past.kinds() == {"a refused write happened"}

    def test_a_call_that_ended_before_it_knew_of_a_lease_has_not_written(self) -> None:
        past = Past()
        past.write("w0.0", None, "a", (0, None), decided_ns=None)
        past.store(1, "a")
        assert "a refused write happened" in past.kinds()

    def test_a_row_given_again_may_be_written_again(self) -> None:
        past = Past()
        past.write("w0.0", 1, "a", (0, 10), key=ROW, kind=CallKind.MERGE)
        past.write("w1.0", 2, "b", (20, 30), key=ROW, kind=CallKind.MERGE)
        past.write("w0.0", 3, "a", (40, 50), key=ROW, kind=CallKind.MERGE)
        assert not past.kinds()

    def test_an_error_that_no_docstring_announces(self) -> None:
        past = Past()
        past.write("w0.0", None, "a", (0, 10), outcome=Outcome.UNDOCUMENTED)
        past.store(1, "a")
        assert past.kinds() == {"an undocumented error"}


@pytest.mark.parametrize("key", [KEY, ROW])
def test_a_write_past_redis_is_seen_by_everybody_who_reads_afterwards(key: str) -> None:
    past = Past()
    past.write("w1.0", 1, "a", (0, 10), key=key)
    past.bypass("w0.0", 2, "b", (20, 30), key=key)
    past.read("r0.0", 2, "b", (40, 41), key=key)
    assert not past.kinds()
    past.read("r0.0", 1, "a", (40, 42), key=key)
    (found,) = past.check()
    assert (found.kind, found.behind_ns) == ("a stale read", 10_000_000)


def linearizable(seed: int) -> Past:
    """Calls that take effect one after another, each at some moment between its begin and its end."""
    rng = random.Random(seed)
    past, rev, mark, now = Past(), 0, None, 100.0
    for number in range(40):
        now += rng.random() * 5
        span = (now - rng.random() * 20, now + rng.random() * 20)
        if rng.random() < 0.5:
            rev, mark = rev + 1, f"m{number}"
            killed = rng.random() < 0.2
            past.write(f"p{number}", None if killed else rev, mark, (span[0], None if killed else span[1]))
        else:
            past.read(f"p{number}", rev, mark, span)
    if mark is not None:
        past.store(rev, mark)
    return past


class TestRandomHistories:
    @settings(deadline=None)
    @given(st.integers(0, 2**32))
    def test_a_linearizable_history_has_no_violation(self, seed: int) -> None:
        past = linearizable(seed)
        assert not past.kinds()

    @settings(deadline=None)
    @given(st.integers(0, 2**32))
    def test_one_stale_read_in_it_is_found(self, seed: int) -> None:
        past = linearizable(seed)
        acknowledged = [op for op in past.history.operations if op.has_written]
        last = max(acknowledged, key=lambda op: op.rev or 0, default=None)
        first = min(acknowledged, key=lambda op: op.rev or 0, default=None)
        if first is None or last is None or first is last or first.wanted is None:
            return
        past.read("late", first.rev or 0, first.wanted, (500, 501))
        (violation,) = past.check()
        assert (violation.kind, violation.key) == ("a stale read", KEY)
