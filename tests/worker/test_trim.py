"""Trimming removes only what nobody needs, and says who needs the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import typer
from tests.worker.feed_support import Recorder, at_age, event, pending_ids, publish
from typer.testing import CliRunner

from backtest_kit_mongo.cli.stream import stream as stream_app
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.feed import positions, trimming
from backtest_kit_mongo.feed.positions import EntryId, GroupPosition, look
from backtest_kit_mongo.feed.trimming import TrimPlan, plan_trim, trim
from backtest_kit_mongo.feed.troubles import troubles
from backtest_kit_worker.dead_letters import DeadLetterWriter
from backtest_kit_worker.loop import Loop, LoopOptions
from backtest_kit_worker.roles.audit import AuditRole
from backtest_kit_worker.services.trim import TrimService

pytestmark = pytest.mark.live


class Feed:
    """A stream with an audit group, and short words for what tests do to it."""

    def __init__(self, client: Any, mongo: Any, stream: str) -> None:
        self.client, self.mongo, self.stream = client, mongo, stream

    def publish(self, count: int) -> list[str]:
        first = self.client.xlen(self.stream) if self.client.exists(self.stream) else 0
        return publish(self.client, self.stream, *map(event, range(first, first + count)))

    def consume(self, role: Any = None, count: int = 500) -> None:
        options = LoopOptions(block_ms=1, batch_max=count)
        Loop(
            self.client, [self.stream], role or AuditRole(self.mongo), DeadLetterWriter(self.mongo), "one", options
        ).run_once(0)

    def plan(self, retention_ms: int = 0) -> TrimPlan:
        # One past now: what was added in this very millisecond counts as old.
        plan = plan_trim(self.client, self.mongo, self.stream, retention_ms - 1)
        assert plan is not None
        return plan

    def trim(self, retention_ms: int = 0) -> int:
        return trim(self.client, self.mongo, self.plan(retention_ms))

    def only_group(self) -> GroupPosition:
        position = look(self.client, self.stream)
        assert position is not None
        (group,) = position.groups
        return group

    @property
    def left(self) -> list[str]:
        return [entry.decode() for entry, _ in self.client.xrange(self.stream)]


@pytest.fixture
def feed(client: Any, mongo: Any, stream: str) -> Feed:
    return Feed(client, mongo, stream)


def test_what_all_have_acknowledged_and_the_audit_holds_goes(feed: Feed) -> None:
    feed.publish(3)
    feed.consume()
    assert feed.trim() == 3
    assert feed.left == []
    assert feed.trim() == 0


def test_an_entry_that_one_group_was_given_but_did_not_acknowledge_stays_with_all_after_it(feed: Feed) -> None:
    ids = feed.publish(4)
    feed.consume()
    feed.client.xgroup_create(feed.stream, "slow", id="0")
    feed.client.xreadgroup("slow", "c", {feed.stream: ">"})
    feed.client.xack(feed.stream, "slow", ids[0], ids[2])
    plan = feed.plan()
    assert (plan.held_by.name, str(plan.held_by.keep_from)) == ("slow", ids[1])
    assert feed.trim() == 1
    assert feed.left == ids[1:]


def test_what_a_group_has_not_read_yet_stays(feed: Feed) -> None:
    ids = feed.publish(4)
    feed.consume()
    feed.client.xgroup_create(feed.stream, "slow", id=ids[1])
    assert feed.trim() == 2
    assert feed.left == ids[2:]


def test_what_is_young_stays(feed: Feed) -> None:
    feed.publish(2)
    feed.consume()
    plan = feed.plan(60_000)
    assert (plan.held_by.kind, plan.count) == ("retention", 0)
    assert feed.trim(60_000) == 0


def test_nothing_goes_before_the_audit_has_a_group(feed: Feed) -> None:
    feed.publish(2)
    feed.consume(Recorder())
    plan = feed.plan()
    assert (plan.held_by.name, plan.count, plan.held_by.needs_operator) == ("audit", 0, True)


def test_an_acknowledged_entry_without_an_audit_record_stays_and_the_remedy_is_named(feed: Feed) -> None:
    ids = feed.publish(3)
    feed.consume()
    feed.mongo["audit-items"].delete_one({"_id": event(1).id})
    plan = feed.plan()
    assert (plan.held_by.kind, str(plan.held_by.keep_from), plan.count) == ("audit", ids[1], 1)
    assert "XGROUP SETID" in plan.held_by.why
    assert feed.trim() == 1
    feed.client.xgroup_setid(feed.stream, "audit", "0")
    feed.consume()
    assert feed.trim() == 2


def test_a_dead_letter_is_held_and_one_that_parking_could_not_take_whole_is_not(feed: Feed) -> None:
    ids = [feed.client.xadd(feed.stream, {"e": b"\xff", "p": b"x"}).decode() for _ in range(2)]
    feed.consume()
    feed.mongo["parked-items"].update_one({"entry": ids[1]}, {"$set": {"oversize": True}})
    assert feed.trim() == 1
    assert feed.left == ids[1:]


def test_a_plan_examines_a_bounded_part_and_the_next_one_goes_on(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimming, "EXAMINED_MAX", 4)
    monkeypatch.setattr(trimming, "_PAGE", 2)
    feed.publish(10)
    feed.consume()
    assert feed.plan().more
    assert [feed.trim(), feed.trim(), feed.trim()] == [4, 4, 2]


def test_a_clock_that_went_back_makes_entries_young_not_old(feed: Feed) -> None:
    (ahead,) = publish(feed.client, feed.stream, event(0), at=at_age(feed.client, -3_600_000))
    (after,) = feed.publish(1)
    assert EntryId.parse(after) == EntryId.parse(ahead).next
    feed.consume()
    assert feed.only_group().lag_ms == 0
    assert feed.trim() == 0


@pytest.mark.parametrize("chosen", ["9999999999999-0", f"{2**64 - 1}-{2**64 - 1}"])
def test_ids_that_somebody_chose_far_ahead_tell_no_ages_and_the_stream_is_made_anew(feed: Feed, chosen: str) -> None:
    feed.publish(1)
    feed.client.xadd(feed.stream, {"e": b"from the future"}, id=chosen)
    last = chosen.endswith("-0") and feed.publish(2)[-1]
    feed.client.xgroup_create(feed.stream, "slow", id="0")
    feed.client.xreadgroup("slow", "c", {feed.stream: ">"}, count=1)
    feed.client.xgroup_create(feed.stream, "feed:desk", id="0")
    if last:
        feed.client.xack(feed.stream, "slow", feed.left[0])
        feed.client.xgroup_setid(feed.stream, "slow", chosen)
        now = look(feed.client, feed.stream)
        assert now is not None
        (slow,) = (group for group in now.groups if group.name == "slow")
        assert slow.lag_ms > 1_000_000  # Of an event of 2023: not by the id, which is of 2286.
    feed.consume()
    service = TrimService(feed.mongo, feed.client, (feed.stream,), 3_600_000)
    service.run_once()
    position = look(feed.client, feed.stream)
    assert position is not None
    assert not position.is_ahead
    assert {group.name for group in position.groups} == {"audit", "slow", "feed:desk"}
    # What one of the roles has not done is there for all; what nobody needs is not, whatever its age.
    assert position.length == 2
    role = Recorder()
    feed.consume(role)
    assert role.documents == (["d2", "d3"] if last else ["d0"])
    ids = feed.publish(1)
    assert abs(EntryId.parse(ids[0]).ms - position.now_ms) < 60_000
    assert [trouble.name for trouble in troubles(feed.mongo)] == ["odd-stream-ids"]


class TestWhereGroupsStand:
    def test_unread_and_pending_entries_are_counted_and_the_oldest_gives_the_lag(self, feed: Feed) -> None:
        publish(feed.client, feed.stream, event(0), at=at_age(feed.client, 10_000))
        feed.publish(5)
        feed.client.xgroup_create(feed.stream, "g", id="0")
        feed.client.xreadgroup("g", "c", {feed.stream: ">"}, count=2)
        group = feed.only_group()
        assert (group.pending_count, group.unread_count, group.owed_count) == (2, 4, 6)
        assert 10_000 <= group.lag_ms < 20_000
        assert group.pending_age_ms == group.lag_ms
        feed.client.xack(feed.stream, "g", *pending_ids(feed.client, feed.stream, "g"))
        group = feed.only_group()
        assert (group.pending_count, group.unread_count, group.pending_age_ms) == (0, 4, 0)
        assert group.lag_ms < 10_000

    def test_a_group_that_has_read_nothing_is_behind_by_all(self, feed: Feed) -> None:
        feed.publish(5)
        feed.client.xgroup_create(feed.stream, "g", id="0")
        group = feed.only_group()
        assert (group.unread_count, group.idle_ms, group.is_abandoned) == (5, None, False)

    @pytest.mark.parametrize(("age_ms", "is_abandoned"), [(599_000, False), (601_000, True)])
    def test_a_group_is_abandoned_when_it_has_owed_something_for_ten_minutes_and_nobody_asked(
        self, feed: Feed, age_ms: int, is_abandoned: bool
    ) -> None:
        (entry,) = publish(feed.client, feed.stream, event(0), at=at_age(feed.client, age_ms))
        feed.client.xgroup_create(feed.stream, "g", id="0")
        assert feed.only_group().is_abandoned is is_abandoned
        feed.client.xreadgroup("g", "c", {feed.stream: ">"})
        assert not feed.only_group().is_abandoned
        feed.client.xclaim(feed.stream, "g", "c", 0, [entry], idle=age_ms)
        feed.client.xack(feed.stream, "g", entry)
        assert not feed.only_group().is_abandoned

    def test_a_long_rest_is_estimated_but_never_below_what_was_counted(
        self, feed: Feed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(positions, "COUNTED_MAX", 3)
        ids = publish(feed.client, feed.stream, event(0), at="1000-0")
        for ms in range(2_000, 11_000, 1_000):
            publish(feed.client, feed.stream, event(0), at=f"{ms}-0")
        feed.client.xgroup_create(feed.stream, "g", id=ids[0])
        group = feed.only_group()
        assert 9 <= group.unread_count <= 10

    def test_a_stream_that_does_not_exist_is_none(self, feed: Feed) -> None:
        assert look(feed.client, feed.stream) is None
        assert plan_trim(feed.client, feed.mongo, feed.stream, 0) is None


class TestTheService:
    def test_it_trims_every_stream_and_is_idle_when_nothing_can_go(self, feed: Feed) -> None:
        service = TrimService(feed.mongo, feed.client, (feed.stream, f"{feed.stream}-none"), -1)
        service.open()
        assert service.run_once() == 0
        feed.publish(3)
        feed.consume()
        assert service.run_once() == 3
        assert service.run_once() == 0

    def test_it_says_once_which_abandoned_group_makes_the_feed_grow(
        self, feed: Feed, caplog: pytest.LogCaptureFixture
    ) -> None:
        publish(feed.client, feed.stream, event(0), at=at_age(feed.client, 3_600_000))
        feed.consume()
        feed.client.xgroup_create(feed.stream, "gone", id="0")
        service = TrimService(feed.mongo, feed.client, (feed.stream,), -1)
        for _ in range(3):
            service.run_once()
        assert len([m for m in caplog.messages if "drop-group gone" in m]) == 1


class TestTheCommand:
    @pytest.fixture
    def bkm(self, servers: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
        monkeypatch.setenv("CC_MONGO_CONNECTION_STRING", servers.mongo_connection_string(database))
        monkeypatch.setenv("CC_REDIS_PORT", str(servers.redis_port))
        monkeypatch.setenv("CC_STREAM_RETENTION_MS", "0")
        monkeypatch.setenv("COLUMNS", "200")
        return partial(run, stream_app)

    def test_status_names_the_abandoned_group_and_the_command_that_gives_it_up(self, feed: Feed, bkm: Any) -> None:
        publish(feed.client, feed.stream, event(0), at=at_age(feed.client, 3_600_000))
        feed.consume()
        feed.client.xgroup_create(feed.stream, "gone", id="0")
        assert "bkm stream drop-group gone" in bkm("status")
        shown = json.loads(bkm("status", "--json"))
        assert {group["name"]: group["abandoned"] for group in shown[0]["groups"]} == {"audit": False, "gone": True}
        bkm("drop-group", "gone", "--yes")
        assert [group["name"] for group in feed.client.xinfo_groups(feed.stream)] == [b"audit"]

    def test_explain_says_what_holds_the_trim_back_and_removes_nothing(self, feed: Feed, bkm: Any) -> None:
        ids = feed.publish(3)
        feed.consume()
        feed.client.xgroup_create(feed.stream, "slow", id=ids[0])
        shown = json.loads(bkm("trim", "--explain", "--json"))
        assert (shown["removable"], shown["heldBy"], shown["removed"]) == (1, "slow", 0)
        text = bkm("trim", "--explain")
        assert "held back by slow" in text
        assert "retention retention" not in text
        assert feed.left == ids

    def test_trim_removes_what_can_go(self, feed: Feed, bkm: Any) -> None:
        feed.publish(3)
        feed.consume()
        publish(feed.client, feed.stream, event(9), at=at_age(feed.client, -60_000))
        assert json.loads(bkm("trim", "--json"))["removed"] == 3

    def test_an_unknown_group_is_an_error_and_changes_nothing(self, feed: Feed, bkm: Any) -> None:
        feed.publish(1)
        with pytest.raises(AssertionError, match="no stream has a group 'nobody'"):
            bkm("drop-group", "nobody", "--yes")


def run(app: typer.Typer, *arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output
