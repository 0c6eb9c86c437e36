"""What a journal says is what comes back, also from a process that was killed in the middle of a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from backtest_kit_mongo.coherence.record import Shape
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import STORAGE
from backtest_kit_verify.chaos.history import Operation, Revision, Value, load_history
from backtest_kit_verify.chaos.journal import CallKind, Journal, Outcome
from backtest_kit_verify.chaos.workload import DOMAINS, Workload, mark_of, payload_of, row_of

ROWS = {"storage/True": ["storage/True/a", "storage/True/b"]}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "w0.3.jsonl")


def operations(directory: Path) -> list[Operation]:
    return load_history(directory, ROWS).operations


def test_a_read_and_a_write_come_back(journal: Journal, tmp_path: Path) -> None:
    read = journal.begin(CallKind.READ, "state/a/b")
    journal.done(read, (4, "x", 0, 1), False)
    write = journal.begin(CallKind.WRITE, "state/a/b", "y")
    journal.leased(write, True)
    journal.done(write, (5,), False)
    first, second = operations(tmp_path)
    assert (first.process, first.kind, first.rev, first.value, first.is_hit) == (
        "w0.3",
        CallKind.READ,
        4,
        Value("x"),
        True,
    )
    assert (second.rev, second.value, second.wanted, second.is_bypass) == (5, Value("y"), "y", False)
    assert first.ended_ns is not None
    assert second.decided_ns is not None
    assert first.began_ns <= first.ended_ns <= second.began_ns <= second.decided_ns


def test_a_call_without_an_answer_is_known_to_have_begun(journal: Journal, tmp_path: Path) -> None:
    number = journal.begin(CallKind.WRITE, "state/a/b", "y")
    assert not operations(tmp_path)[0].is_open
    journal.leased(number, False)
    (pending,) = operations(tmp_path)
    assert (pending.outcome, pending.is_open, pending.is_bypass) == (Outcome.PENDING, True, True)


def test_an_error_comes_back_as_what_its_caller_may_believe(journal: Journal, tmp_path: Path) -> None:
    for outcome in (Outcome.REFUSED, Outcome.UNKNOWN):
        number = journal.begin(CallKind.WRITE, "state/a/b", "y")
        journal.leased(number, True)
        journal.raised(number, outcome, "why")
    refused, unknown = operations(tmp_path)
    assert (refused.may_have_written, unknown.may_have_written) == (False, True)


def test_a_removal_that_found_nothing_has_no_revision(journal: Journal, tmp_path: Path) -> None:
    for result in ((), (7,)):
        number = journal.begin(CallKind.REMOVE, "measure/a/b")
        journal.leased(number, True)
        journal.done(number, result, False)
    nothing, removed = operations(tmp_path)
    assert (nothing.has_written, removed.has_written, removed.rev) == (False, True, 7)


def test_a_list_is_one_read_a_row_and_rows_that_it_lacks_are_revision_0(journal: Journal, tmp_path: Path) -> None:
    number = journal.begin(CallKind.SCAN, "storage/True")
    journal.done(number, {"a": (3, "x")}, False)
    found = {op.key: (op.rev, op.value) for op in operations(tmp_path)}
    assert found == {"storage/True/a": (3, Value("x")), "storage/True/b": (0, Value(None))}


def test_a_list_write_is_one_write_or_one_look_a_row(journal: Journal, tmp_path: Path) -> None:
    number = journal.begin(CallKind.MERGE, "storage/True", {"a": "x", "b": "y", "c": "z"})
    journal.leased(number, True)
    journal.done(number, {"a": (3, 1), "b": (8, 0)}, False)
    written, checked, settled = operations(tmp_path)
    assert (written.key, written.has_written, written.rev) == ("storage/True/a", True, 3)
    assert (checked.is_read, checked.is_observation, checked.rev) == (True, True, 8)
    assert (settled.is_write, settled.is_observation) == (False, False)
    assert {op.guard for op in (written, checked, settled)} == {"storage/True"}


def test_failures_and_what_was_delivered_come_back(journal: Journal, tmp_path: Path) -> None:
    journal.link_failed("why")
    journal.reached([("state/a/b", 3)])
    history = load_history(tmp_path, ROWS)
    (reunion,) = history.reunions
    assert (reunion.process, reunion.changes) == ("w0.3", frozenset({Revision("state/a/b", 3)}))
    assert history.failures["w0.3"][0] <= reunion.at_ns


def test_a_torn_last_line_is_as_if_never_written(journal: Journal, tmp_path: Path) -> None:
    number = journal.begin(CallKind.WRITE, "state/a/b", "y")
    journal.leased(number, True)
    with (tmp_path / "w0.3.jsonl").open("ab") as file:
        file.write(b'["=",1,12')
    (pending,) = operations(tmp_path)
    assert pending.outcome is Outcome.PENDING


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda domain: domain.name)
def test_every_payload_is_valid_and_carries_its_mark(domain: object) -> None:
    key = next(key for key in Workload(len(DOMAINS), 1).documents if key.domain is domain)
    payload = make_change(key, payload_of(key, "m")).payload
    assert mark_of(key.domain, payload) == "m"
    assert mark_of(key.domain, key.domain.empty()) is None


def test_the_workload_has_slots_keyed_documents_removals_and_a_list() -> None:
    workload = Workload(2 * len(DOMAINS), 2)
    assert len(set(workload.documents)) == 2 * len(DOMAINS)
    assert {domain.shape for domain in DOMAINS} == {Shape.SLOT, Shape.KEYED}
    assert any(domain.has_removed for domain in DOMAINS)
    row = workload.rows[0]
    assert row.domain is STORAGE
    assert mark_of(STORAGE, make_change(row, row_of(row.item, "m")).payload) == "m"
    assert set(workload.items("w0")) & set(workload.items("w1")), "some rows are contended for"
