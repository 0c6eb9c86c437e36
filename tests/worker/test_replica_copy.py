"""The copy of what was there before, comparing, repairing, and the commands."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from bson.errors import InvalidBSON
from pymongo.errors import DuplicateKeyError
from tests.worker.replica_support import Bed, finish
from typer.testing import CliRunner

from backtest_kit_mongo.adapters.instances import CandleInstance, StateInstance, StorageInstance
from backtest_kit_mongo.backends.mongo.identity import IDENTITY
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.domains.table import BY_NAME, DOMAINS, STATE
from backtest_kit_mongo.errors import InvalidSetting
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.stored import CACHE_IDENTITY
from backtest_kit_mongo.testing.examples import candles
from backtest_kit_verify.chaos.odd import no_utf8, odd_document
from backtest_kit_worker.replica_cli import app
from backtest_kit_worker.replicas import source as source_module
from backtest_kit_worker.replicas.comparing import Comparer, Comparison
from backtest_kit_worker.replicas.lag import lag
from backtest_kit_worker.replicas.target import Target, Verdict

pytestmark = pytest.mark.live


@pytest.fixture(params=["mongo", "directory"])
def target(bed: Bed, request: pytest.FixtureRequest) -> Target:
    return bed.to_mongo() if request.param == "mongo" else bed.to_directory()


def compared(
    bed: Bed, target: Target, wait: Callable[[float], None] = lambda _: None, *, repair: bool = False
) -> Comparison:
    return Comparer(bed.source, target, wait_s=wait, repair=repair).run()


def copy_of(bed: Bed, target: Target) -> Any:
    found = bed.state.copy(target.name)
    assert found is not None
    return found


class TestCopy:
    def test_everything_that_was_there_is_copied_and_recorded_as_complete(self, bed: Bed, target: Target) -> None:
        bed.write_every_domain()
        bed.copy(target)
        found = compared(bed, target)
        assert found.is_equal
        assert copy_of(bed, target).is_complete
        assert copy_of(bed, target).copied == found.compared > len(DOMAINS)

    def test_a_copy_follows_its_source_back_to_a_restored_state(self, bed: Bed, target: Target) -> None:
        """Revisions that went back would never pass the copies' own."""
        for value in (1, 2, 3):
            bed.state_data(value)
        bed.state_data("gone", "made after the backup")
        service = bed.copy(target)
        states = bed.mongo[collection_of(STATE)]
        states.update_one({"payload.data": 3}, {"$set": {"rev": 1, "payload.data": 1}})
        states.delete_one({"payload.data": "gone"})
        bed.mongo[CACHE_IDENTITY].update_one({"_id": IDENTITY}, {"$set": {"restores": [{"over": "an era"}]}})
        finish(service)
        assert compared(bed, target).is_equal
        assert bed.state.restored(target.name) == ("an era", len(DOMAINS))

    def test_a_crash_in_the_middle_resumes_where_it_was(
        self, bed: Bed, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(source_module, "CHUNK_MAX", 2)
        for number in range(7):
            bed.state_data(number, f"s{number}")
        service = bed.service(target)
        while copy_of_state(bed, target).copied < 4:
            service.step(target)
        put, seen = target.put, []

        def dying(*args: Any) -> int:
            written = put(*args)
            seen.append(written)
            raise KeyboardInterrupt

        monkeypatch.setattr(target, "put", dying)
        with pytest.raises(KeyboardInterrupt):
            service.step(target)
        monkeypatch.setattr(target, "put", lambda *args: seen.append(put(*args)))
        bed.copy(target)
        assert seen == [2, 0, 1]
        assert compared(bed, target).is_equal

    def test_a_change_between_reading_and_writing_is_not_undone_by_the_copy(
        self, bed: Bed, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bed.state_data(1)
        role, put = bed.role(target), target.put

        def overtaken(*args: Any) -> int:
            monkeypatch.setattr(target, "put", put)
            bed.state_data(2)
            assert role.apply(bed.events()) == 1
            assert put(*args) == 0
            return 0

        monkeypatch.setattr(target, "put", overtaken)
        bed.copy(target)
        assert compared(bed, target).is_equal

    def test_a_document_inserted_behind_the_scan_comes_by_its_event(self, bed: Bed, target: Target) -> None:
        bed.state_data(1)
        bed.copy(target)
        bed.state_data(2, "later")
        assert compared(bed, target).counts == {Verdict.MISSING: 1}
        bed.role(target).apply(bed.events())
        assert compared(bed, target).is_equal

    def test_the_consumer_group_exists_before_the_first_document_is_read(self, bed: Bed, target: Target) -> None:
        bed.service(target)
        redis: Any = bed.deployment.redis
        assert [group["name"] for group in redis.xinfo_groups(bed.deployment.streams[0])] == [b"replica"]
        bed.service(target)

    def test_ids_of_foreign_types_are_not_passed_over(
        self, bed: Bed, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(source_module, "CHUNK_MAX", 1)
        for number, name in enumerate([1, "text", ObjectId(), True]):
            document = {"_id": name, "signalId": f"s{number}", "bucketName": "b", "payload": {"data": 1}}
            bed.mongo["state-items"].insert_one(document)
        bed.copy(target)
        assert copy_of(bed, target).copied == 4
        assert compared(bed, target).is_equal

    def test_odd_documents_are_copied_byte_by_byte_and_compared(
        self, bed: Bed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(source_module, "CHUNK_MAX", 5)
        odd: list[Any] = [odd_document(STATE, number, random.Random(number).choice) for number in range(120)]
        odd += [no_utf8(_id="?", payload=1), no_utf8(_id="y", signalId="?"), {"_id": "z", "rev": float("nan")}]
        for one in odd:
            with suppress(DuplicateKeyError, InvalidBSON):  # The driver cannot read what the refusal names.
                bed.mongo[collection_of(STATE)].insert_one(one)
        target = bed.to_mongo()
        service = bed.copy(target)
        assert [one.raw for one in bed.raw(STATE, replica=True)] == [one.raw for one in bed.raw(STATE)]
        assert compared(bed, target).is_equal
        bed.mongo[collection_of(STATE)].delete_many({"rev": {"$exists": False}})
        assert compared(bed, target, repair=True).repaired > 20
        assert compared(bed, target).is_equal
        service.close()

    def test_a_document_that_the_target_cannot_hold_is_left_out_and_counted(self, bed: Bed) -> None:
        target = bed.to_directory()
        for number in range(3):
            bed.state_data(number, f"s{number}")
        bed.mongo["state-items"].update_one({"signalId": "s1"}, {"$set": {"payload.data": ObjectId()}})
        bed.copy(target)
        assert (copy_of(bed, target).copied, copy_of(bed, target).skipped) == (2, 1)
        found = compared(bed, target)
        assert (found.unstorable, found.is_equal) == (1, False)

    def test_two_workers_that_copy_at_once_do_no_harm(
        self, bed: Bed, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(source_module, "CHUNK_MAX", 2)
        for number in range(5):
            bed.state_data(number, f"s{number}")
        one, two = bed.service(target), bed.service(target)
        while one.run_once() + two.run_once():
            pass
        assert copy_of(bed, target).is_complete
        assert compared(bed, target).is_equal

    def test_a_target_that_is_refused_keeps_nothing_from_the_other(self, bed: Bed) -> None:
        bed.state_data(1)
        bed.replica["state-items"].insert_one({"signalId": "theirs"})
        directory = bed.to_directory()
        service = bed.service(bed.to_mongo(), directory)
        with pytest.raises(InvalidSetting, match="bears no marker"):
            finish(service)
        assert compared(bed, directory).is_equal
        assert bed.replica["state-items"].count_documents({}) == 1

    def test_a_worker_that_lost_the_lead_can_take_it_again(self, bed: Bed, target: Target) -> None:
        bed.state_data(1)
        service = bed.service(target)
        service.run_once()
        service.close()
        service.open()
        finish(service)
        assert compared(bed, target).is_equal

    def test_a_domain_that_a_release_adds_is_copied_alone(self, bed: Bed, target: Target) -> None:
        bed.state_data(1)
        service = bed.copy(target)
        bed.mongo["replica-state"].update_one({"_id": f"copy/{target.name}"}, {"$unset": {"domains.state": 1}})
        assert not copy_of(bed, target).is_complete
        assert [service.run_once() for _ in range(3)] == [1, 1, 0]


def copy_of_state(bed: Bed, target: Target) -> Any:
    found = bed.state.copy(target.name)
    return found or type("Nothing", (), {"copied": 0})


class TestCompare:
    def plant(self, bed: Bed, target: Target) -> None:
        """One difference of each kind, in a complete copy."""
        for name in ("same", "altered", "missing", "extra", "behind", "ahead"):
            bed.state_data(1, name)
        bed.copy(target)
        bed.mongo["state-items"].delete_one({"signalId": "extra"})
        bed.state_data(2, "behind")
        if target.name == "mongo":
            copies = bed.replica["state-items"]
            copies.update_one({"signalId": "altered"}, {"$set": {"payload.data": 9}})
            copies.update_one({"signalId": "ahead"}, {"$inc": {"rev": 3}})
            copies.delete_one({"signalId": "missing"})
        else:
            StateInstance(bed.files(), "ahead", "bucket").write_state_data({"data": 9}, 1)
            altered = bed.directory / "state/altered/bucket/bucket.json"
            altered.write_bytes(altered.read_bytes().replace(b"1", b"9"))
            (bed.directory / "state/missing/bucket/bucket.json").unlink()

    def test_each_kind_of_difference_is_found_and_named(self, bed: Bed, target: Target) -> None:
        self.plant(bed, target)
        found = compared(bed, target)
        kinds = {Verdict.ALTERED: 1, Verdict.MISSING: 1, Verdict.BEHIND: 1, Verdict.AHEAD: 1, Verdict.EXTRA: 1}
        assert found.counts == kinds
        assert found.compared == 5
        names = {one.verdict: one.name for one in found.first}
        assert names[Verdict.ALTERED] == "state/altered/bucket"
        behind = next(one for one in found.first if one.verdict is Verdict.BEHIND)
        assert (behind.source_rev, behind.replica_rev) == (2, 1)

    def test_repairing_makes_both_equal_again(self, bed: Bed, target: Target) -> None:
        self.plant(bed, target)
        assert compared(bed, target, repair=True).repaired == 5
        assert compared(bed, target).is_equal

    def test_a_change_on_its_way_is_no_difference(self, bed: Bed, target: Target) -> None:
        bed.copy(target)
        bed.state_data(1)
        waits: list[float] = []

        def arrive(seconds: float) -> None:
            waits.append(seconds)
            bed.role(target).apply(bed.events())

        assert compared(bed, target, arrive).is_equal
        assert waits == [1.0]

    def test_a_document_that_is_always_one_change_behind_is_no_difference(self, bed: Bed, target: Target) -> None:
        bed.state_data(1)
        bed.copy(target)
        bed.state_data(2)

        def follow(_: float) -> None:
            bed.role(target).apply(bed.events())
            bed.state_data(3)

        assert compared(bed, target, follow).is_equal

    def test_a_copy_that_is_newer_than_the_read_of_its_document_is_no_difference(
        self, bed: Bed, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bed.state_data(1)
        bed.copy(target)
        look = target.look

        def hurried(*args: Any) -> Any:
            bed.state_data(2)
            bed.role(target).apply(bed.events())
            return look(*args)

        monkeypatch.setattr(target, "look", hurried)
        assert compared(bed, target).is_equal


class TestLag:
    def test_it_counts_what_is_published_but_not_acknowledged(self, bed: Bed) -> None:
        redis: Any = bed.deployment.redis
        streams = bed.deployment.streams
        assert lag(redis, streams).entry_count == 0
        bed.state_data(1)
        before = lag(redis, streams)
        assert (before.entry_count, before.has_group) == (1, False)
        bed.service(bed.to_directory())
        bed.state_data(2)
        ((_, entries),) = redis.xreadgroup("replica", "one", {streams[0]: ">"}, count=1)
        half = lag(redis, streams)
        assert (half.entry_count, half.has_group, half.is_more) == (2, True, False)
        assert 0 <= half.seconds < 60
        redis.xack(streams[0], "replica", entries[0][0])
        assert lag(redis, streams).entry_count == 1
        ((_, entries),) = redis.xreadgroup("replica", "one", {streams[0]: ">"})
        redis.xack(streams[0], "replica", entries[0][0])
        done = lag(redis, streams)
        assert (done.entry_count, done.seconds) == (0, 0.0)


class TestCommands:
    @pytest.fixture
    def run(self, bed: Bed, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
        settings = bed.deployment.settings
        variables = {
            "CC_MONGO_CONNECTION_STRING": settings.mongo_connection_string.get_secret_value(),
            "CC_REDIS_HOST": settings.redis_host,
            "CC_REDIS_PORT": str(settings.redis_port),
            "CC_REPLICA_MONGO_CONNECTION_STRING": bed.servers.mongo_connection_string(bed.replica_name),
            "CC_REPLICA_DIRECTORY": str(bed.directory),
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return lambda *arguments: CliRunner().invoke(app, list(arguments))

    def test_status_tells_what_is_complete_and_how_far_behind(self, bed: Bed, run: Callable[..., Any]) -> None:
        bed.state_data(1)
        before = json.loads(run("status", "--json").stdout)
        assert [one["state"] for one in before["targets"]] == ["not begun", "not begun"]
        bed.copy(bed.to_mongo())
        bed.role(bed.to_mongo()).apply(bed.events())
        data = json.loads(run("status", "--json").stdout)
        mongo, directory = data["targets"]
        assert (mongo["complete"], mongo["copied"], mongo["state"]) == (True, 1, "reached")
        assert not directory["complete"]
        assert data["lag"]["entry_count"] == 1
        text = run("status").stdout
        assert "lag: 1 changes" in text
        assert "last change copied" in text

    def test_rebuild_fills_empty_replicas_and_compare_agrees(self, bed: Bed, run: Callable[..., Any]) -> None:
        bed.write_every_domain()
        assert run("rebuild").exit_code == 0
        bed.require_equal()
        result = run("compare")
        assert result.exit_code == 0
        assert result.stdout.count("no differences") == 2

    def test_compare_exits_1_and_names_the_first_differing_keys(self, bed: Bed, run: Callable[..., Any]) -> None:
        bed.state_data(1)
        assert run("rebuild", "--target", "mongo").exit_code == 0
        bed.replica["state-items"].update_one({}, {"$set": {"payload.data": 9}})
        result = run("compare", "--target", "mongo", "--recheck-ms", "0")
        assert result.exit_code == ExitCode.DIFFERS
        assert "1 altered" in result.stdout
        assert "state/signal/bucket" in result.stdout
        data = json.loads(run("compare", "--target", "mongo", "--recheck-ms", "0", "--json").stdout)
        assert data[0]["differences"] == {"altered": 1}
        assert run("rebuild", "--target", "mongo").exit_code == 0
        bed.require_equal()

    def test_rebuild_moves_a_directory_replica_to_another_place(
        self, bed: Bed, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        bed.state_data(1)
        assert run("rebuild", "--target", "directory").exit_code == 0
        monkeypatch.setenv("CC_REPLICA_DIRECTORY", str(tmp_path / "elsewhere"))
        assert "not the replica that was filled" in run("status").stdout
        assert run("rebuild", "--target", "directory").exit_code == 0
        assert (tmp_path / "elsewhere/state/signal/bucket/bucket.json").exists()

    @pytest.mark.parametrize("command", ["status", "rebuild", "compare"])
    def test_wrong_settings_are_exit_code_2(
        self, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        assert run(command, "--target", "tape").exit_code == ExitCode.WRONG_ARGUMENT
        monkeypatch.delenv("CC_REPLICA_DIRECTORY")
        monkeypatch.delenv("CC_REPLICA_MONGO_CONNECTION_STRING")
        result = run(command)
        assert result.exit_code == ExitCode.WRONG_ARGUMENT
        assert "CC_REPLICA_DIRECTORY" in result.stderr

    def test_a_failing_server_is_exit_code_3_and_shows_no_secret(
        self, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CC_REPLICA_MONGO_CONNECTION_STRING", "mongodb://user:hidden@127.0.0.1:1/nowhere")
        monkeypatch.setenv("CC_LEASE_MS", "500")
        monkeypatch.setenv("CC_MONGO_TIMEOUT_MS", "300")
        for command in ("compare", "rebuild"):
            result = run(command, "--target", "mongo")
            assert result.exit_code == ExitCode.FAILED
            assert "hidden" not in result.output


class TestListsAndSeries:
    def test_list_rows_and_candles_are_copied_exactly(self, bed: Bed, target: Target) -> None:
        StorageInstance(bed.store, True).write_storage_data([{"id": "a", "priority": 1}, {"id": "b", "priority": 1}])
        StorageInstance(bed.store, True).write_storage_data([{"id": "a", "priority": 2}, {"id": "b", "priority": 1}])
        CandleInstance(bed.store, "BTC/USDT", "1m", "e").write_candles_data(candles(20))
        bed.copy(target)
        bed.role(target).apply(bed.events())
        found = Comparer(bed.source, target).run([BY_NAME["storage"], BY_NAME["candle"], STATE])
        assert (found.compared, found.is_equal) == (22, True)
