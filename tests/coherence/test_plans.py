"""The plans, step by step: which effect follows which answer, and what is cleaned up after each kind of failure."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from backtest_kit_mongo.candles.intervals import Grid
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence import lists, plans, series
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.record import Change, Key, Record
from backtest_kit_mongo.domains.table import CANDLE, LOG, STATE, STORAGE
from backtest_kit_mongo.errors import ServerUnreachable, WriteOutcomeUnknown, WriteRefused

KEY = Key(STATE, ("signal", "bucket"))
CHANGE = Change(KEY, {"data": 1}, pack({"data": 1}), 7)
STORED = Record(KEY, 3, {"data": 1}, 7, False, "id1")
LEASED = fx.Leased("token", 1.0)

Step = tuple[type[fx.Effect[Any]], Any]

GRID = Grid("1m", 60)


def play(plan: Generator[Any, Any, Any], *steps: Step) -> Any:
    """Run a plan against scripted answers: (effect type, answer or exception to throw). Returns the plan's answer."""
    send: Any = plan.send
    argument: Any = None
    for expected, answer in steps:
        effect = send(argument)
        assert type(effect) is expected, f"expected {expected.__name__}, got {effect}"
        send, argument = (plan.throw, answer) if isinstance(answer, BaseException) else (plan.send, answer)
    try:
        extra = send(argument)
    except StopIteration as done:
        return done.value
    raise AssertionError(f"unexpected step {extra}")


class TestRead:
    def test_a_hit_is_one_hop(self) -> None:
        assert play(plans.read(KEY), (fx.CacheRead, STORED)) is STORED

    def test_a_miss_with_a_right_installs_what_it_found(self) -> None:
        assert play(plans.read(KEY), (fx.CacheRead, fx.Right("r")), (fx.Find, STORED), (fx.Fill, None)) is STORED

    def test_a_miss_without_a_right_installs_nothing(self) -> None:
        assert play(plans.read(KEY), (fx.CacheRead, fx.Right("")), (fx.Find, STORED)) is STORED

    def test_a_failed_fill_does_not_fail_the_read(self) -> None:
        steps: list[Step] = [(fx.CacheRead, fx.Right("r")), (fx.Find, STORED), (fx.Fill, fx.CacheDown())]
        assert play(plans.read(KEY), *steps) is STORED


class TestWrite:
    def test_a_write_leases_before_mongodb_and_commits_after_it(self) -> None:
        assert play(plans.write(CHANGE), (fx.Lease, LEASED), (fx.Upsert, STORED), (fx.Commit, None)) is STORED

    @pytest.mark.parametrize("error", [WriteRefused("no"), ServerUnreachable("no")])
    def test_a_write_that_certainly_did_not_happen_releases_its_lease(self, error: Exception) -> None:
        with pytest.raises(type(error)):
            play(plans.write(CHANGE), (fx.Lease, LEASED), (fx.Upsert, error), (fx.Abort, None))

    @pytest.mark.parametrize("error", [WriteOutcomeUnknown("?"), KeyboardInterrupt(), RuntimeError("bug")])
    def test_a_write_whose_outcome_is_unknown_leaves_its_lease_to_the_deadline(self, error: BaseException) -> None:
        with pytest.raises(type(error)):
            play(plans.write(CHANGE), (fx.Lease, LEASED), (fx.Upsert, error))

    def test_a_write_without_redis_keeps_its_event_for_later(self) -> None:
        assert play(plans.write(CHANGE), (fx.Lease, None), (fx.Upsert, STORED), (fx.Defer, None)) is STORED

    def test_a_bypassed_write_of_unknown_outcome_still_has_its_old_entry_deleted_later(self) -> None:
        with pytest.raises(WriteOutcomeUnknown):
            play(plans.write(CHANGE), (fx.Lease, None), (fx.Upsert, WriteOutcomeUnknown("?")), (fx.Defer, None))

    def test_a_commit_that_redis_did_not_answer_keeps_its_event_for_later(self) -> None:
        steps: list[Step] = [(fx.Lease, LEASED), (fx.Upsert, STORED), (fx.Commit, fx.CacheDown()), (fx.Defer, None)]
        assert play(plans.write(CHANGE), *steps) is STORED


class TestRemove:
    def test_removing_a_missing_key_writes_nothing_and_reports_nothing(self) -> None:
        assert play(plans.remove(KEY), (fx.Lease, LEASED), (fx.SoftRemove, None), (fx.Abort, None)) is None

    def test_a_lease_that_could_not_be_released_is_left_to_its_deadline(self) -> None:
        assert play(plans.remove(KEY), (fx.Lease, LEASED), (fx.SoftRemove, None), (fx.Abort, fx.CacheDown())) is None


SCOPE = Key(STORAGE, (True,))


def row(name: str, value: int, rev: int = 0) -> Any:
    change = Change(SCOPE.child(name), {"id": name, "v": value}, pack({"id": name, "v": value}))
    return change if not rev else Record(change.key, rev, change.payload, None, False, f"id-{name}")


class TestMerge:
    def test_only_rows_that_differ_are_written_with_the_revision_that_was_seen(self) -> None:
        plan = lists.merge(SCOPE, [row("a", 1), row("b", 2), row("c", 3)], None)
        assert isinstance(plan.send(None), fx.Lease)
        assert isinstance(plan.send(LEASED), lists.Rows)
        merge = plan.send({"a": row("a", 1, rev=4), "b": row("b", 0, rev=9)})
        assert isinstance(merge, lists.Merge)
        assert [(e.change.key.item, e.rev, e.id) for e in merge.rows] == [("b", 9, "id-b"), ("c", None, "")]

    def test_an_untouched_stamp_saves_asking_mongodb(self) -> None:
        changes = [row("a", 1)]
        steps: list[Step] = [(fx.Lease, LEASED), (lists.Rows, {"a": row("a", 1, rev=1)}), (fx.Commit, None)]
        first = play(lists.merge(SCOPE, changes, None), *steps)
        again = fx.Leased("token2", 1.0, Record(SCOPE, id=first.snapshot.stamp))
        merged = play(lists.merge(SCOPE, changes, first.snapshot), (fx.Lease, again), (fx.Commit, None))
        assert merged.written == 0

    def test_another_writers_stamp_means_that_mongodb_is_asked_again(self) -> None:
        snapshot = lists.KnownRows("mine", {"a": lists.Seen(1, "id-a", row("a", 1).digest)})
        foreign = fx.Leased("token2", 1.0, Record(SCOPE, id="theirs"))
        steps: list[Step] = [(fx.Lease, foreign), (lists.Rows, {"a": row("a", 1, rev=2)}), (fx.Commit, None)]
        assert play(lists.merge(SCOPE, [row("a", 1)], snapshot), *steps).written == 0

    def test_many_events_go_in_pages_before_a_short_commit_and_none_is_lost_where_they_break_off(self) -> None:
        changes = [row(str(n), n) for n in range(2 * plans.EVENTS_MAX + 1)]
        written = tuple(fx.Published(row(str(n), n, rev=1), "upsert", change.body) for n, change in enumerate(changes))

        def reported(*answers: Any) -> list[fx.Effect[Any]]:
            plan = lists.merge(SCOPE, changes, None)
            answers = (None, LEASED, {}, written, *answers)
            return [plan.throw(one) if isinstance(one, BaseException) else plan.send(one) for one in answers][3:]

        *pages, commit = reported(None, None)
        assert [len(page.published) for page in pages] == [plans.EVENTS_MAX] * 2  # type: ignore[attr-defined]
        assert isinstance(commit, fx.Commit)
        assert commit.published == written[-1:]
        *_, kept = reported(None, fx.CacheDown())
        assert kept == fx.Defer((SCOPE,), written[plans.EVENTS_MAX :], LEASED.deadline_s)

    def test_without_redis_nothing_is_assumed_next_time(self) -> None:
        steps: list[Step] = [(fx.Lease, None), (lists.Rows, {}), (lists.Merge, ()), (fx.Defer, None)]
        assert play(lists.merge(SCOPE, [row("a", 1)], None), *steps).snapshot is None

    def test_a_stored_log_row_is_never_written_again(self) -> None:
        scope = Key(LOG, ())
        change = Change(scope.child("x"), {"id": "x", "v": 2}, pack({"id": "x", "v": 2}))
        steps: list[Step] = [
            (fx.Lease, LEASED),
            (lists.Rows, {"x": Record(change.key, 1, {"id": "x", "v": 1}, id="i")}),
        ]
        assert play(lists.merge(scope, [change], None), *steps, (fx.Commit, None)).written == 0


class TestAppend:
    SERIES = Key(CANDLE, ("binance", "BTC/USDT", "1m"))

    def appended(self, *times: int, scope: Key = SERIES) -> fx.Published:
        plan = series.append(scope, "columns", GRID)
        asked = plan.send(None)
        assert isinstance(asked, series.Append)
        assert asked.rows == "columns"
        publish = plan.send(series.Appended(times))
        assert isinstance(publish, fx.Publish)
        return publish.published[0]

    def test_a_batch_is_reported_as_runs_of_neighbours(self) -> None:
        event = self.appended(0, 60, 120, 300, 420, 480)
        assert event.record.payload == {"ranges": [[0, 120, 3], [300, 300, 1], [420, 480, 2]], "count": 6}

    def test_batches_of_contexts_that_look_alike_have_different_names(self) -> None:
        other = self.appended(0, scope=Key(CANDLE, ("binance:BTC/USDT", "1m", "x")))
        assert other.record.id != self.appended(0).record.id

    def test_a_batch_of_known_rows_reports_nothing(self) -> None:
        known = series.Appended(())
        assert play(series.append(self.SERIES, (), GRID), (series.Append, known)) is known

    def test_a_batch_that_redis_did_not_take_is_kept_for_later(self) -> None:
        steps: list[Step] = [(series.Append, series.Appended((0,))), (fx.Publish, fx.CacheDown()), (fx.Defer, None)]
        assert play(series.append(self.SERIES, (), GRID), *steps).new == (0,)


class TestConflicts:
    SERIES = TestAppend.SERIES
    ONE = series.Conflict(60, {"open": 1.0, "volume": 2.0}, {"open": 1.5, "volume": 2.0})
    OTHER = series.Conflict(120, {"open": 1.0}, {"open": 2})

    def reported(self, appended: series.Appended, *kept: series.Conflict) -> list[fx.Published]:
        plan = series.append(self.SERIES, (), GRID)
        plan.send(None)
        keep_conflicts = plan.send(appended)
        assert keep_conflicts == series.KeepConflicts(self.SERIES, appended.conflicts)
        publish = plan.send(kept)
        assert isinstance(publish, fx.Publish)
        return list(publish.published)

    def test_the_batch_and_each_conflict_that_was_not_kept_before_are_reported_at_once(self) -> None:
        batch, conflict = self.reported(series.Appended((0,), (self.ONE, self.OTHER)), self.ONE)
        assert (batch.operation, conflict.operation) == ("batch", "conflict")
        assert conflict.record.payload == {
            "timestamp": 60,
            "stored": {"open": 1.0, "volume": 2.0},
            "offered": {"open": 1.5, "volume": 2.0},
        }
        assert conflict.record.rev == 1
        assert conflict.body == pack(conflict.record.payload)

    def test_the_name_of_a_conflict_is_that_of_what_was_offered(self) -> None:
        again = self.ONE._replace(stored={"open": 9.0, "volume": 2.0}, offered={"open": 1.5, "volume": 2})
        changed = self.ONE._replace(offered={"open": 1.5, "volume": 2.5})
        names = [
            self.reported(series.Appended((), (conflict,)), conflict)[0].record.id
            for conflict in (self.ONE, again, changed, self.ONE._replace(timestamp=120))
        ]
        assert names[0].startswith("binance:BTC%2FUSDT:1m:60~")
        assert names[0] == names[1]
        assert len(set(names)) == 3

    def test_conflicts_that_were_kept_before_report_nothing(self) -> None:
        appended = series.Appended((), (self.ONE,))
        assert (
            play(series.append(self.SERIES, (), GRID), (series.Append, appended), (series.KeepConflicts, ()))
            is appended
        )

    @pytest.mark.parametrize("error", [WriteRefused("no"), ServerUnreachable("no"), WriteOutcomeUnknown("?")])
    def test_rows_that_are_stored_are_reported_even_if_conflicts_cannot_be_kept(self, error: Exception) -> None:
        steps: list[Step] = [
            (series.Append, series.Appended((0,), (self.ONE,))),
            (series.KeepConflicts, error),
            (fx.Publish, None),
        ]
        with pytest.raises(WriteOutcomeUnknown, match="the rows are stored"):
            play(series.append(self.SERIES, (), GRID), *steps)
