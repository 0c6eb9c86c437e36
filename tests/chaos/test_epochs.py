"""A history in which MongoDB was set back: what may be gone, and what must not be served any more."""

from __future__ import annotations

from tests.chaos.past import KEY, Past, ns

from backtest_kit_verify.chaos.audit_checks import check_records
from backtest_kit_verify.chaos.checks import Evidence, Story, check_history, stories
from backtest_kit_verify.chaos.epochs import UNAWARE_NS, split
from backtest_kit_verify.chaos.history import Operation, Restore, Revision, Value
from backtest_kit_verify.chaos.journal import CallKind, Outcome

AWARE_MS = 200 + UNAWARE_NS / 1e6


def set_back(past: Past, rev: int, mark: str) -> tuple[set[str], int]:
    """The kinds of violations, and how many reads are not judged, if MongoDB was set back from 100 to 200 ms."""
    at_ns = ns(200)
    base = Operation("mongod", 0, CallKind.RESTORED, KEY, KEY, at_ns, at_ns, Outcome.DONE, rev=rev, value=Value(mark))
    epochs = split(past.history, [Restore(ns(100), at_ns, [base])])
    found = []
    for epoch in epochs:
        known = (
            Evidence(past.stored, past.cached, {}, {}) if epoch.is_last else Evidence((), (), {}, {}, is_final=False)
        )
        found += check_history(stories(epoch.history, known))
    return {violation.kind for violation in found}, sum(epoch.unjudged for epoch in epochs)


def before() -> Past:
    """Revision 1 is in the snapshot, revision 2 is not."""
    past = Past()
    past.write("a", 1, "one", (0, 1))
    past.write("a", 2, "two", (10, 11))
    past.read("b", 2, "two", (20, 21))
    return past


def test_what_was_written_after_the_snapshot_may_be_gone_and_its_revision_given_out_again() -> None:
    past = before()
    past.write("a", 2, "three", (300, 301))
    past.read("b", 2, "three", (AWARE_MS + 1, AWARE_MS + 2))
    past.store(2, "three")
    assert set_back(past, 1, "one") == (set(), 0)


def test_what_mongodb_does_not_hold_must_not_be_served_once_a_client_can_know_of_it() -> None:
    past = before()
    past.store(1, "one")
    past.read("b", 2, "two", (300, 301))
    assert set_back(past, 1, "one") == (set(), 1)
    past.read("b", 2, "two", (AWARE_MS + 1, AWARE_MS + 2))
    assert "a value that nobody wrote" in set_back(past, 1, "one")[0]


def test_what_was_in_the_snapshot_or_was_written_since_must_be_there() -> None:
    past = before()
    past.write("a", 2, "three", (300, 301))
    past.store(1, "one")
    assert set_back(past, 1, "one")[0] == {"an acknowledged write lost"}
    past = before()
    past.store(1, "one")
    past.read("b", 0, None, (AWARE_MS + 1, AWARE_MS + 2))
    assert set_back(past, 1, "one")[0] == {"a stale read"}


def test_a_row_that_is_sent_again_and_refused_may_have_been_written_before_the_snapshot() -> None:
    past = before()
    past.write("a", None, "one", (300, 301), outcome=Outcome.REFUSED)
    past.store(1, "one")
    assert set_back(past, 1, "one") == (set(), 0)
    past.read("b", 2, "one", (AWARE_MS + 1, AWARE_MS + 2))
    assert "a refused write happened" in set_back(past, 1, "one")[0]


def test_a_call_during_which_its_process_stood_still_may_have_happened_on_either_side() -> None:
    past = before()
    past.write("c", 3, "three", (99, 250))
    past.store(2, "three")
    assert set_back(past, 1, "one") == (set(), 0)


def test_a_record_tells_what_its_writer_was_reported_or_is_corrected() -> None:
    past = before()
    reported: list[Story] = past.stories()
    true = {Revision(KEY, 1): "one", Revision(KEY, 2): "two"}
    assert check_records(true, reported) == (2, [])
    forged = {**true, Revision(KEY, 2): "forged.1"}
    compared, (violation,) = check_records(forged, reported)
    assert (compared, violation.kind) == (2, "a forged record")
