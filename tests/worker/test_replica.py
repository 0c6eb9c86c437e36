"""The replica role and its copies in another MongoDB database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from bson.raw_bson import RawBSONDocument
from tests.worker.replica_support import NOWHERE, Bed

from backtest_kit_mongo.adapters.instances import CandleInstance, MeasureInstance, StateInstance
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.coherence.events import Event, Origin
from backtest_kit_mongo.domains.table import CANDLE, DOMAINS, MEASURE, STATE
from backtest_kit_mongo.errors import InvalidSetting
from backtest_kit_mongo.testing.examples import BASE_MS, MINUTE_MS, candles
from backtest_kit_worker.dead_letters import DeadLetterWriter
from backtest_kit_worker.loop import Loop, LoopOptions
from backtest_kit_worker.replicas import mongo as mongo_target
from backtest_kit_worker.replicas import replicas_of
from backtest_kit_worker.replicas.mongo import MongoTarget
from backtest_kit_worker.replicas.settings import ReplicaSettings, load_replicas
from backtest_kit_worker.replicas.source import Source
from backtest_kit_worker.replicas.target import Marker, ReplicaFailed, ReplicaUnreachable
from backtest_kit_worker.roles.replica import ReplicaRole

pytestmark = pytest.mark.live


def loop(bed: Bed, *targets: Any) -> Loop:
    role = ReplicaRole(bed.deployment, targets)
    dead_letters, options = DeadLetterWriter(bed.mongo), LoopOptions(block_ms=1, claim_idle_ms=1)
    return Loop(bed.deployment.redis, bed.deployment.streams, role, dead_letters, "one", options)


def pending(bed: Bed) -> int:
    redis: Any = bed.deployment.redis
    return sum(redis.xpending(stream, "replica")["pending"] for stream in bed.deployment.streams)


def revisions(bed: Bed, count: int) -> list[RawBSONDocument]:
    """One document in its first `count` revisions."""
    found = []
    for value in range(count):
        bed.state_data(value)
        found += bed.raw(STATE)
    return found


class TestCopies:
    def test_documents_of_every_domain_are_the_same_bytes_under_the_same_indexes(self, bed: Bed) -> None:
        bed.write_every_domain()
        events = bed.events()
        assert bed.role(bed.to_mongo()).apply(events) > 0
        assert {event.domain for _, event in events} == {domain.name for domain in DOMAINS}
        bed.require_equal()
        for domain in DOMAINS:
            unique = [
                [
                    index["key"]
                    for index in database[collection_of(domain)].index_information().values()
                    if "unique" in index
                ]
                for database in (bed.mongo, bed.replica)
            ]
            assert unique[0] == unique[1] == [[(name, 1) for name in domain.columns]]

    def test_events_in_any_order_give_the_newest_state(self, bed: Bed) -> None:
        for value in (1, 2, 3):
            bed.state_data(value)
        role = bed.role(bed.to_mongo())
        for events in permutations(bed.events()):
            bed.replica["state-items"].delete_many({})
            for event in events:
                role.apply([event])
            bed.require_equal()

    def test_an_older_revision_never_replaces_a_newer_one(self, bed: Bed) -> None:
        states = revisions(bed, 3)
        target = bed.to_mongo()
        target.open()
        for order in permutations(states):
            bed.replica["state-items"].delete_many({})
            for document in order:
                target.put(STATE, [document])
            bed.require_equal()
        assert target.put(STATE, states) == 0

    @pytest.mark.parametrize("first", [0, 1])
    def test_of_two_first_copies_at_once_the_newer_one_stays(
        self, bed: Bed, monkeypatch: pytest.MonkeyPatch, first: int
    ) -> None:
        states = revisions(bed, 2)
        target, other = bed.to_mongo(), bed.to_mongo()
        target.open()
        ask = mongo_target._newer

        def overtaken(collection: Any, documents: list[RawBSONDocument]) -> Any:
            answer = ask(collection, documents)
            monkeypatch.setattr(mongo_target, "_newer", ask)
            other.put(STATE, [states[first]])
            return answer

        monkeypatch.setattr(mongo_target, "_newer", overtaken)
        target.put(STATE, [states[1 - first]])
        bed.require_equal()

    def test_redelivery_changes_nothing_and_is_no_news(self, bed: Bed) -> None:
        bed.write_every_domain()
        role = bed.role(bed.to_mongo())
        role.apply(bed.events())
        assert role.apply(bed.events()) == 0
        assert bed.role(bed.to_mongo()).apply(bed.events()) == 0
        bed.require_equal()

    def test_a_removal_survives_an_upsert_that_is_delivered_late(self, bed: Bed) -> None:
        measure = MeasureInstance(bed.store, "bucket")
        measure.write_measure_data({"id": "k", "data": 1, "removed": False}, "k", 1)
        (written,) = bed.raw(MEASURE)
        measure.remove_measure_data("k")
        role, target = bed.role(bed.to_mongo()), bed.to_mongo()
        for event in reversed(bed.events()):
            role.apply([event])
        target.put(MEASURE, [written])
        (copy,) = bed.replica["measure-items"].find()
        assert (copy["removed"], copy["payload"]["removed"], copy["rev"]) == (True, True, 2)

    def test_many_changes_of_one_document_are_one_copy(self, bed: Bed) -> None:
        revisions(bed, 5)
        assert bed.role(bed.to_mongo()).apply(bed.events()) == 1

    def test_a_foreign_write_that_raises_no_revision_goes_along_with_the_next_event(self, bed: Bed) -> None:
        bed.state_data(1)
        role = bed.role(bed.to_mongo())
        role.apply(bed.events())
        bed.mongo["state-items"].update_one({}, {"$set": {"payload.data": 2}, "$currentDate": {"updatedDate": True}})
        role.apply(bed.events())
        bed.require_equal()

    def test_a_document_that_was_deleted_and_made_anew_takes_the_place_of_its_copy(self, bed: Bed) -> None:
        role = bed.role(bed.to_mongo())
        bed.state_data(1)
        role.apply(bed.events())
        bed.mongo["state-items"].delete_many({})
        bed.state_data(2)
        role.apply(bed.events())
        bed.require_equal()

    def test_a_deleted_document_leaves_all_replicas_and_no_late_event_brings_it_back(self, bed: Bed) -> None:
        role = bed.role(bed.to_mongo(), bed.to_directory())
        bed.write_every_domain()
        role.apply(bed.events())
        keys = [entry.key for domain in DOMAINS if domain is not CANDLE for entry in bed.store.browse(domain)]
        for key in keys:
            bed.store.delete(key, {"by": "me", "why": "a test"})
        bed.state_data("anew", signal="x_0/é")
        for event in reversed(bed.events()):
            role.apply([event])
        assert role.apply(bed.events()) == 0
        bed.require_equal()
        files = bed.files()
        assert [one.key for domain in DOMAINS for one in files.browse(domain)] == [
            one.key for domain in DOMAINS for one in bed.store.browse(domain)
        ]

    def test_a_document_that_is_deleted_while_it_is_copied_does_not_stay(
        self, bed: Bed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bed.state_data(1)
        role, put = bed.role(bed.to_mongo()), MongoTarget.put

        def overtaken(*arguments: Any) -> int:
            (entry,) = bed.store.browse(STATE)
            bed.store.delete(entry.key, {})
            monkeypatch.setattr(MongoTarget, "put", put)
            bed.role(bed.to_mongo()).apply(bed.events())
            return put(*arguments)

        monkeypatch.setattr(MongoTarget, "put", overtaken)
        role.apply(bed.events())
        assert bed.raw(STATE, replica=True) == []


class TestCandles:
    def test_a_batch_brings_the_rows_of_its_ranges_and_no_others(self, bed: Bed) -> None:
        series = CandleInstance(bed.store, "BTC", "1m", "e")
        rows = candles(10)
        series.write_candles_data(rows[:3] + rows[5:8])
        events = bed.events()
        series.write_candles_data(rows)
        assert bed.role(bed.to_mongo()).apply(events) == 1
        copied = bed.replica["candle-items"].distinct("timestamp")
        assert copied == [BASE_MS + n * MINUTE_MS for n in (0, 1, 2, 5, 6, 7)]
        bed.role(bed.to_mongo()).apply(bed.events())
        bed.require_equal()

    def test_a_conflicting_candle_is_not_copied_and_keeps_nothing_else_from_being(self, bed: Bed) -> None:
        series = CandleInstance(bed.store, "BTC", "1m", "e")
        series.write_candles_data(candles(2))
        assert series.write_candles_data([{**row, "volume": 9.0} for row in candles(3)]).conflicts
        assert [event.operation for _, event in bed.events()].count("conflict") == 2
        bed.role(bed.to_mongo()).apply(bed.events())
        bed.require_equal()

    def test_the_first_write_of_a_candle_wins(self, bed: Bed) -> None:
        CandleInstance(bed.store, "BTC", "1m", "e").write_candles_data(candles(2))
        role, target = bed.role(bed.to_mongo()), bed.to_mongo()
        role.apply(bed.events())
        before = bed.raw(CANDLE, replica=True)
        bed.mongo["candle-items"].update_many({}, {"$set": {"close": 1.0}})
        assert target.put(CANDLE, bed.raw(CANDLE)) == 0
        assert [copy.raw for copy in bed.raw(CANDLE, replica=True)] == [copy.raw for copy in before]


class _Deposed(Source):
    """A source whose first reads are a deposed primary's, until a linearizable one has made sure."""

    def __init__(self, inner: Source, old: Sequence[RawBSONDocument]) -> None:
        self._inner = inner
        self._old: Sequence[RawBSONDocument] | None = old

    def by_ids(self, *args: Any) -> Iterator[list[RawBSONDocument]]:
        return self._inner.by_ids(*args) if self._old is None else iter([list(self._old)])

    def present_ids(self, *args: Any) -> set[bytes]:
        return self._inner.present_ids(*args)

    def fence(self) -> None:
        self._inner.fence()
        self._old = None


class TestStaleReads:
    def test_a_read_older_than_its_event_is_made_sure_of_and_repeated(self, bed: Bed) -> None:
        states = revisions(bed, 2)
        role = bed.role(bed.to_mongo())
        role._source = _Deposed(bed.source, states[:1])
        role.apply(bed.events())
        bed.require_equal()

    def test_a_document_that_is_not_there_yet_is_looked_for_again(self, bed: Bed) -> None:
        bed.state_data(1)
        role = bed.role(bed.to_mongo())
        role._source = _Deposed(bed.source, [])
        role.apply(bed.events())
        bed.require_equal()

    def test_an_event_of_a_document_that_was_deleted_for_good_blocks_nothing(
        self, bed: Bed, caplog: pytest.LogCaptureFixture
    ) -> None:
        bed.state_data(1, "gone")
        bed.mongo["state-items"].delete_many({})
        bed.state_data(2)
        assert bed.role(bed.to_mongo()).apply(bed.events()) == 1
        bed.require_equal()
        assert "no longer has state" in caplog.text


class TestFailures:
    def test_an_unreachable_target_raises_and_acknowledges_nothing(self, bed: Bed) -> None:
        bed.state_data(1)
        failing = loop(bed, bed.to_nowhere())
        for _ in range(2):
            with pytest.raises(ReplicaUnreachable, match=r"127\.0\.0\.1:1/nowhere failed") as raised:
                failing.run_until_idle()
            assert "secret" not in str(raised.value)
            assert pending(bed) == 1
        assert bed.mongo["parked-items"].count_documents({}) == 0

    def test_a_target_that_fails_keeps_nothing_from_the_other(self, bed: Bed) -> None:
        bed.state_data(1)
        role = bed.role(bed.to_nowhere(), bed.to_directory())
        with pytest.raises(ReplicaUnreachable):
            role.apply(bed.events())
        assert StateInstance(bed.files(), "signal", "bucket").read_state_data() == {"data": 1}

    def test_a_refusal_by_the_target_is_no_outage(self, bed: Bed) -> None:
        bed.state_data(1)
        role = bed.role(bed.to_mongo())
        bed.replica.command("collMod", "state-items", validator={"payload.data": {"$ne": 1}})
        try:
            with pytest.raises(ReplicaFailed, match="failed while writing state") as raised:
                role.apply(bed.events())
            assert not isinstance(raised.value, ReplicaUnreachable)
        finally:
            bed.replica.command("collMod", "state-items", validator={})

    def test_what_failed_is_applied_by_the_next_delivery(self, bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
        bed.state_data(1)
        target = bed.to_mongo()
        working = loop(bed, target)
        with monkeypatch.context() as broken:
            broken.setattr(MongoTarget, "put", _fail)
            with pytest.raises(ReplicaUnreachable):
                working.run_until_idle()
        loop(bed, target).run_until_idle()
        bed.require_equal()
        assert pending(bed) == 0

    def test_an_event_of_an_unknown_domain_is_parked_and_blocks_nothing(self, bed: Bed) -> None:
        bed.state_data(1)
        strange = Event("new", ("x",), "d1", 1, "upsert", 1, 1, Origin("h", 1), b"\xc0")
        redis: Any = bed.deployment.redis
        redis.xadd(bed.deployment.streams[0], {"e": strange.header(), "p": strange.body})
        bed.state_data(2)
        loop(bed, bed.to_mongo()).run_until_idle()
        bed.require_equal()
        assert pending(bed) == 0
        (parked,) = bed.mongo["parked-items"].find()
        assert "unknown domain 'new'" in parked["cause"]


def _fail(*_: Any, **__: Any) -> int:
    raise ReplicaUnreachable("gone")


class TestWhoseReplica:
    def test_a_database_with_other_data_is_refused(self, bed: Bed) -> None:
        bed.replica["state-items"].insert_one({"signalId": "theirs"})
        with pytest.raises(InvalidSetting, match="bears no marker"):
            bed.role(bed.to_mongo())
        assert bed.replica["state-items"].count_documents({}) == 1

    def test_another_sources_replica_is_refused(self, bed: Bed) -> None:
        bed.to_mongo().mark(Marker("another", "run"))
        with pytest.raises(InvalidSetting, match="another source"):
            bed.role(bed.to_mongo())

    def test_the_source_itself_is_refused(self, bed: Bed) -> None:
        target = bed.to_mongo(bed.servers.mongo_connection_string(bed.deployment.settings.database))
        with pytest.raises(InvalidSetting, match="itself a source"):
            bed.role(target)

    def test_another_place_than_the_one_that_was_filled_is_refused(self, bed: Bed, tmp_path: Path) -> None:
        bed.role(bed.to_directory())
        elsewhere = replace(bed, directory=tmp_path / "elsewhere")
        with pytest.raises(InvalidSetting, match="replica rebuild --target directory"):
            bed.role(elsewhere.to_directory())

    def test_a_worker_whose_replica_was_replaced_acknowledges_nothing_more(self, bed: Bed, tmp_path: Path) -> None:
        role = bed.role(bed.to_directory())
        elsewhere = replace(bed, directory=tmp_path / "elsewhere").to_directory()
        bed.service(elsewhere).restart(elsewhere)
        bed.state_data(1)
        with pytest.raises(ReplicaUnreachable, match="new copy"):
            role.apply(bed.events())
        with pytest.raises(ReplicaUnreachable, match="is not the replica that was filled"):
            role.apply(bed.events())

    def test_a_worker_that_died_while_it_enrolled_the_target_is_succeeded_by_the_next(self, bed: Bed) -> None:
        target = bed.to_mongo()
        bed.state.begin(target, again=False)
        bed.state_data(1)
        bed.role(target).apply(bed.events())
        bed.require_equal()


class TestSettings:
    def test_no_replica_is_an_error_that_names_the_variables(self, bed: Bed) -> None:
        with pytest.raises(InvalidSetting, match="CC_REPLICA_DIRECTORY"):
            replicas_of(bed.deployment, ReplicaSettings())

    def test_both_variables_are_read_and_empty_ones_count_as_absent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CC_REPLICA_MONGO_CONNECTION_STRING", "")
        monkeypatch.setenv("CC_REPLICA_DIRECTORY", "")
        assert not load_replicas().is_configured
        monkeypatch.setenv("CC_REPLICA_MONGO_CONNECTION_STRING", NOWHERE)
        monkeypatch.setenv("CC_REPLICA_DIRECTORY", "copies")
        settings = load_replicas()
        assert settings.is_configured
        assert settings.directory == Path("copies")
        assert "secret" not in repr(settings)

    def test_a_wrong_connection_string_is_not_shown(self) -> None:
        with pytest.raises(InvalidSetting, match="CC_REPLICA_MONGO_CONNECTION_STRING") as raised:
            load_replicas(mongo_connection_string="mongodb://user:sec:ret@host")
        assert "ret" not in str(raised.value).replace("CC_", "")

    def test_the_database_is_by_default_named_as_the_source(self, bed: Bed) -> None:
        settings = load_replicas(mongo_connection_string="mongodb://u:secret@elsewhere:27018")
        (target,) = replicas_of(bed.deployment, settings)
        assert target.place == f"elsewhere:27018/{bed.deployment.settings.database}"
        target.close()
