"""Replicas as directories: what the role writes is what a file store reads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest
from bson import ObjectId
from tests.worker.replica_support import Bed

from backtest_kit_mongo.adapters.instances import CandleInstance, MeasureInstance, StateInstance
from backtest_kit_mongo.backends.files import names as names
from backtest_kit_mongo.coherence.record import Domain, Key, Part, Record, Shape
from backtest_kit_mongo.domains.table import CANDLE, DOMAINS, SESSION, STATE
from backtest_kit_mongo.errors import CorruptData
from backtest_kit_mongo.testing.examples import BASE_MS, candles
from backtest_kit_worker.replicas.directory import MARKER
from backtest_kit_worker.replicas.paths import key_at
from backtest_kit_worker.replicas.target import ReplicaFailed, key_of

NASTY = ("x", "", "a_b", "a/b", "..", ".json", "b.json", "%", "~", "é" * 150, "_", "live", "a~")


def records(bed: Bed, domain: Domain) -> list[Record]:
    """Records of all documents of a domain, as the live store has them."""
    keys = [key_of(domain, document) for document in bed.raw(domain)]
    if domain.shape in (Shape.SLOT, Shape.KEYED):
        return [bed.store.read(key) for key in keys]
    return [record for scope in dict.fromkeys(key.scope for key in keys) for record in listed(bed.store, scope)]


def listed(store: Any, scope: Key) -> list[Record]:
    found = store.scan(scope, when=None, limit=None, keys_only=False)
    return sorted(found, key=lambda record: str(record.key))


@pytest.mark.live
class TestReadBack:
    def test_a_file_store_reads_every_domain_as_the_live_store_does(self, bed: Bed) -> None:
        bed.write_every_domain()
        bed.role(bed.to_directory()).apply(bed.events())
        files = bed.files()
        for domain in DOMAINS:
            if domain is CANDLE:
                continue
            wanted = records(bed, domain)
            assert wanted
            for record in wanted:
                single = domain.shape in (Shape.SLOT, Shape.KEYED)
                (copy,) = (
                    [files.read(record.key)]
                    if single
                    else [found for found in listed(files, record.key.scope) if str(found.key) == str(record.key)]
                )
                assert (copy.rev, copy.when, copy.removed) == (record.rev, record.when, record.removed), domain
                assert copy.payload == record.payload, domain

    def test_a_file_store_reads_the_same_candles(self, bed: Bed) -> None:
        rows = candles(50)
        CandleInstance(bed.store, "BTC/USDT", "1m", "e").write_candles_data(rows)
        bed.role(bed.to_directory()).apply(bed.events())
        series = CandleInstance(bed.files(), "BTC/USDT", "1m", "e")
        assert series.read_candles_data(50, BASE_MS, BASE_MS + 50 * 60_000) == rows

    def test_a_file_store_can_go_on_where_the_replica_ends(self, bed: Bed) -> None:
        bed.state_data(1)
        bed.role(bed.to_directory()).apply(bed.events())
        state = StateInstance(bed.files(), "signal", "bucket")
        state.write_state_data({"data": 2}, 2_000)
        assert state.read_state_data() == {"data": 2}

    def test_the_marker_is_no_document(self, bed: Bed) -> None:
        bed.role(bed.to_directory())
        assert [path.name for path in bed.directory.iterdir()] == [MARKER]


@pytest.mark.live
class TestGuard:
    def test_an_older_revision_never_replaces_a_newer_one(self, bed: Bed) -> None:
        states = []
        for value in range(3):
            bed.state_data(value)
            states += bed.raw(STATE)
        target = bed.to_directory()
        for order in permutations(states):
            (bed.directory / "state/signal/bucket/bucket.json").unlink(missing_ok=True)
            for document in order:
                target.put(STATE, [document])
            assert StateInstance(bed.files(), "signal", "bucket").read_state_data() == {"data": 2}
        assert target.put(STATE, states) == 0

    def test_a_removed_document_stays_removed(self, bed: Bed) -> None:
        measure = MeasureInstance(bed.store, "bucket")
        measure.write_measure_data({"id": "k", "data": 1, "removed": False}, "k", 1)
        measure.remove_measure_data("k")
        role = bed.role(bed.to_directory())
        for event in reversed(bed.events()):
            role.apply([event])
        copies = MeasureInstance(bed.files(), "bucket")
        assert copies.read_measure_data("k") is None
        assert list(copies.list_measure_data()) == []

    def test_a_damaged_file_is_kept_aside_and_replaced(self, bed: Bed) -> None:
        bed.state_data(1)
        target = bed.to_directory()
        target.put(STATE, bed.raw(STATE))
        file = bed.directory / "state/signal/bucket/bucket.json"
        file.write_bytes(b"{torn")
        target.put(STATE, bed.raw(STATE))
        assert StateInstance(bed.files(), "signal", "bucket").read_state_data() == {"data": 1}
        assert file.with_name("bucket.json.corrupt").read_bytes() == b"{torn"

    def test_a_directory_that_fails_raises_what_the_loop_retries(self, bed: Bed) -> None:
        bed.state_data(1)
        role = bed.role(bed.to_directory())
        (bed.directory / "state").write_text("in the way")
        with pytest.raises(ReplicaFailed, match="Nothing was acknowledged"):
            role.apply(bed.events())
        (bed.directory / "state").unlink()
        assert role.apply(bed.events()) == 1

    def test_a_document_that_no_file_can_hold_is_distinguished(self, bed: Bed) -> None:
        bed.state_data(1)
        bed.mongo["state-items"].update_one({}, {"$set": {"payload.data": ObjectId()}})
        with pytest.raises(CorruptData, match="never stores"):
            bed.to_directory().put(STATE, bed.raw(STATE))


def examples(domain: Domain) -> Iterator[Key]:
    """Keys with every nasty text in every place."""
    for place in range(len(domain.key)):
        for text in NASTY:
            parts: list[Part] = []
            for index, column in enumerate(domain.key):
                plain: Part = True if column.type is bool else 60_000 if column.type is int else f"p{index}"
                parts.append(text if index == place and column.type is str else plain)
            yield Key(domain, tuple(parts))


class TestPaths:
    @pytest.mark.parametrize("domain", DOMAINS, ids=lambda domain: domain.name)
    def test_the_key_of_a_file_is_read_off_its_path(self, domain: Domain) -> None:
        for key in examples(domain):
            assert key_at(domain, names.path(key)) == key

    @pytest.mark.parametrize(
        "path",
        [
            "state/signal/bucket/other.json",
            "state/bucket.json",
            "state/a/b/c/d.json",
            "memory/signal/bucket/bucket.json",
            "state/a:b/c/c.json",
        ],
    )
    def test_a_path_that_no_key_has_is_nobodys(self, path: str) -> None:
        assert key_at(STATE, path) is None

    def test_a_flag_that_is_none_is_nobodys(self) -> None:
        assert key_at(SESSION, "session/s/e/f/BTC_maybe.json") is None
