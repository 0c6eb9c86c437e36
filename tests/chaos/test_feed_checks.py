"""Every event that is missing has a named cause, or is a violation."""

from __future__ import annotations

from typing import Any

import pytest
from tests.chaos.past import KEY, Past

from backtest_kit_verify.chaos.feed_checks import Cause
from backtest_kit_verify.chaos.history import Revision
from backtest_kit_verify.chaos.journal import Outcome

FIRST, SECOND = Revision(KEY, 1), Revision(KEY, 2)


def with_lost_event(**more: Any) -> Past:
    """w0.0 gets revision 1 from 10 to 20 ms; the stream does not have its event."""
    past = Past()
    past.write("w0.0", 1, "a", (10, 20), **more)
    past.write("w1.0", 2, "b", (30, 40))
    del past.events[FIRST]
    return past


def test_a_change_with_one_event_is_as_it_should_be() -> None:
    past = Past()
    past.write("w0.0", 1, "a", (10, 20))
    verdict = past.feed()
    assert (verdict.expected, dict(verdict.missing), verdict.repeated, verdict.violations) == (1, {}, 0, ())


def test_an_event_that_is_missing_for_no_reason_is_a_violation() -> None:
    (violation,) = with_lost_event().feed().violations
    assert violation.kind == "a missing event"
    assert [op.process for op in violation.excerpt] == ["w0.0"]


@pytest.mark.parametrize(
    ("kept", "gone", "explains"), [(15, 25, True), (2_000, 2_500, True), (2_600, 3_000, False), (1, 5, False)]
)
def test_a_killed_redis_loses_a_suffix_and_nothing_else(kept: float, gone: float, explains: bool) -> None:
    past = with_lost_event()
    past.redis_killed(kept, gone)
    verdict = past.feed()
    assert (dict(verdict.missing) == {Cause.SUFFIX_LOST: 1}) is explains
    assert bool(verdict.violations) is not explains


def test_a_flush_takes_what_it_took_and_nothing_else() -> None:
    past = with_lost_event()
    past.flushed((50, 51), SECOND)
    assert past.feed().violations
    past.flushed((60, 61), FIRST)
    assert past.feed().missing == {Cause.FLUSHED: 1}


def test_an_event_that_was_kept_for_redis_dies_with_its_writer() -> None:
    past = with_lost_event(is_deferred=True, is_bypass=True)
    assert past.feed().violations, "the writer lives"
    past.killed("w0.0", 100)
    assert past.feed().missing == {Cause.KEPT_AND_KILLED: 1}


def test_an_event_that_was_kept_and_delivered_can_be_lost_only_after_that() -> None:
    past = with_lost_event(is_deferred=True, is_bypass=True)
    past.killed("w0.0", 100_000)
    past.reunion("w0.0", 50_000, FIRST)
    assert past.feed().violations
    past.redis_killed(50_000, 50_100)
    assert past.feed().missing == {Cause.SUFFIX_LOST: 1}


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [(Outcome.PENDING, Cause.WRITER_KILLED), (Outcome.UNKNOWN, Cause.OUTCOME_UNKNOWN)],
)
def test_the_event_of_a_change_that_nobody_acknowledged(outcome: Outcome, cause: Cause) -> None:
    past = Past()
    past.write("w0.0", None, "a", (10, None if outcome is Outcome.PENDING else 20), outcome=outcome)
    past.write("w1.0", 2, "b", (30, 40))
    assert past.feed().missing == {cause: 1}


def test_an_event_may_be_repeated_after_a_failure_only() -> None:
    past = Past()
    past.write("w0.0", 1, "a", (10, 20))
    past.events[FIRST] = 2
    assert [violation.kind for violation in past.feed().violations] == ["an event repeated"]
    past.history.failures["w0.0"] = [15_000_000]
    verdict = past.feed()
    assert (verdict.repeated, verdict.violations) == (1, ())


def test_an_event_of_a_revision_that_mongodb_does_not_have() -> None:
    past = Past()
    past.write("w0.0", 1, "a", (10, 20))
    past.events[SECOND] = 1
    assert [violation.kind for violation in past.feed().violations] == ["an event of nothing"]
