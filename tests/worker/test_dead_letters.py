"""Dead letters in the hands of an operator: list, show, replay, drop."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.worker.feed_support import event, publish
from typer.testing import CliRunner

from backtest_kit_mongo.cli.dead_letters import park
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.errors import CallerError, NotFound
from backtest_kit_mongo.feed.dead_letters import DeadLetters
from backtest_kit_worker.dead_letters import DeadLetterWriter
from backtest_kit_worker.loop import Loop, LoopOptions
from backtest_kit_worker.roles.audit import AuditRole

pytestmark = pytest.mark.live


@pytest.fixture
def items(mongo: Any, client: Any, stream: str) -> DeadLetters:
    return DeadLetters(mongo, client, [stream])


@pytest.fixture
def audit(mongo: Any, client: Any, stream: str) -> Callable[[], int]:
    return Loop(
        client, [stream], AuditRole(mongo), DeadLetterWriter(mongo), "one", LoopOptions(block_ms=1, claim_idle_ms=0)
    ).run_until_idle


@pytest.fixture
def dead_event(mongo: Any, client: Any, stream: str, audit: Callable[[], int]) -> str:
    """A good event that was parked, as an older worker parks one of a newer version. Returns the row's id."""
    (entry,) = publish(client, stream, event(1))
    fields = client.xrange(stream)[0][1]
    client.xgroup_create(stream, "audit", id=entry)
    DeadLetterWriter(mongo).park(stream, "audit", entry, fields, "event schema version 2; this worker reads version 1")
    return f"{stream}/audit/{entry}"


@pytest.fixture
def bkm(servers: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("CC_MONGO_CONNECTION_STRING", servers.mongo_connection_string(database))
    monkeypatch.setenv("CC_REDIS_PORT", str(servers.redis_port))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments, **more: CliRunner().invoke(park, list(arguments), **more)


class TestReplay:
    def test_a_replayed_entry_is_applied_and_leaves_the_list(
        self, items: DeadLetters, mongo: Any, dead_event: str, audit: Callable[[], int]
    ) -> None:
        items.replay([items.find(dead_event)])
        assert items.settle() == 0
        assert [item.state for item in items.list()] == ["replayed"]
        assert audit() == 1
        assert items.settle() == 1
        assert list(items.list()) == []
        assert mongo["audit-items"].count_documents({"_id": event(1).id}) == 1

    def test_every_other_role_recognises_it(
        self, items: DeadLetters, mongo: Any, client: Any, stream: str, audit: Callable[[], int]
    ) -> None:
        (entry,) = publish(client, stream, event(1))
        audit()
        DeadLetterWriter(mongo).park(stream, "replica", entry, client.xrange(stream)[0][1], "disk full")
        items.replay(list(items.list()))
        audit()
        assert mongo["audit-items"].count_documents({}) == 1

    def test_an_entry_that_several_roles_parked_is_appended_once(
        self, items: DeadLetters, mongo: Any, client: Any, stream: str
    ) -> None:
        (entry,) = publish(client, stream, event(1))
        for role in ("audit", "replica"):
            DeadLetterWriter(mongo).park(stream, role, entry, client.xrange(stream)[0][1], "x")
        new = items.replay(list(items.list()))
        assert len(set(new.values())) == 1
        assert client.xlen(stream) == 2

    def test_what_fails_again_is_parked_anew_and_the_old_row_is_closed(
        self, items: DeadLetters, client: Any, stream: str, audit: Callable[[], int]
    ) -> None:
        client.xadd(stream, {"e": b"\xff", "p": b"x"})
        audit()
        (old,) = items.list()
        items.replay([old])
        audit()
        items.settle()
        (new,) = items.list()
        assert new.id != old.id
        assert new.fields == old.fields

    def test_a_stream_that_no_worker_reads_is_refused(self, mongo: Any, client: Any, dead_event: str) -> None:
        elsewhere = DeadLetters(mongo, client, ["other"])
        with pytest.raises(CallerError, match="CC_PARTITIONS"):
            elsewhere.replay([elsewhere.find(dead_event)])

    def test_a_row_that_was_dropped_cannot_be_replayed(self, items: DeadLetters, dead_event: str) -> None:
        items.drop([items.find(dead_event)])
        with pytest.raises(CallerError, match="not kept"):
            items.replay([items.find(dead_event)])

    def test_a_dropped_row_stays_dropped_when_the_entry_is_met_again(
        self, items: DeadLetters, mongo: Any, client: Any, stream: str, dead_event: str
    ) -> None:
        items.drop([items.find(dead_event)])
        _, role, entry = dead_event.rsplit("/", 2)
        DeadLetterWriter(mongo).park(stream, role, entry, {b"e": b"x"}, "again")
        assert list(items.list()) == []

    def test_an_end_of_an_id_is_enough_unless_it_is_ambiguous(
        self, items: DeadLetters, mongo: Any, stream: str, dead_event: str
    ) -> None:
        entry = dead_event.rsplit("/", 1)[1]
        assert items.find(entry).id == items.find(f"audit/{entry}").id == dead_event
        DeadLetterWriter(mongo).park(stream, "replica", entry, {b"e": b"x"}, "x")
        with pytest.raises(CallerError, match="ambiguous"):
            items.find(entry)
        with pytest.raises(NotFound):
            items.find("9-9")
        with pytest.raises(NotFound):
            items.find(entry[1:])


class TestTheCommand:
    def test_list_shows_change_and_cause(self, bkm: Callable[..., Any], dead_event: str) -> None:
        assert "schema version 2" in bkm("list").output
        (line,) = bkm("list", "--json").output.splitlines()
        shown = json.loads(line)
        assert (shown["id"], shown["change"], shown["count"]) == (dead_event, event(1).id, 1)
        assert "Nothing is parked" in bkm("list", "--role", "replica").output

    def test_show_prints_the_event_and_the_bytes(self, bkm: Callable[..., Any], dead_event: str) -> None:
        shown = json.loads(bkm("show", dead_event).output)
        assert shown["event"]["payload"] == 1
        assert bytes.fromhex(shown["fields"]["p"]) == event(1).body

    def test_a_dry_run_appends_nothing(
        self, bkm: Callable[..., Any], client: Any, stream: str, dead_event: str
    ) -> None:
        assert event(1).id in bkm("replay", "--dry-run", "--all").output
        assert client.xlen(stream) == 1

    def test_replay_appends_and_says_where(
        self, bkm: Callable[..., Any], client: Any, stream: str, dead_event: str
    ) -> None:
        output = bkm("replay", "--all").output
        last = client.xrevrange(stream, count=1)[0][0].decode()
        assert f"appended as {last}" in output

    def test_replay_wants_either_names_or_all(self, bkm: Callable[..., Any]) -> None:
        assert bkm("replay").exit_code == 2
        assert bkm("replay", "--all", "x").exit_code == 2

    def test_drop_asks_first(self, bkm: Callable[..., Any], items: DeadLetters, dead_event: str) -> None:
        assert bkm("drop", dead_event, input="n\n").exit_code == 1
        assert len(list(items.list())) == 1
        assert bkm("drop", dead_event, "--yes").exit_code == 0
        assert list(items.list()) == []
        assert items.find(dead_event).cause.startswith("event schema version 2")

    def test_an_unknown_id_is_an_error(self, bkm: Callable[..., Any]) -> None:
        result = bkm("show", "audit/1-1")
        assert result.exit_code == 1
        assert "no dead letter" in result.output

    def test_an_unreachable_server_is_an_error_and_the_entry_stays_parked(
        self, bkm: Callable[..., Any], items: DeadLetters, dead_event: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CC_REDIS_PORT", "1")
        result = bkm("replay", "--all")
        assert result.exit_code == 1
        assert "Error:" in result.output
        assert items.find(dead_event).state == "parked"
