"""Values with copies in the process, and values with replicas."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from tests.conformance.test_persist import check

import backtest_kit_mongo as bk
from backtest_kit_mongo.adapters import choices
from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.backends.files.names import natural_order
from backtest_kit_mongo.collections import replicated
from backtest_kit_mongo.collections.cached import Copies
from backtest_kit_mongo.collections.persist import CachedPersist, MongoPersist, ReplicatedPersist, SqlitePersist
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.stores import new_persist_store
from backtest_kit_mongo.testing.conformance import (  # noqa: F401 - the rest says nothing new of a wrapper
    TestADocument,
    TestSteps,
    empty_store,
    tag,
    twin,
)

Held = dict[tuple[str, str], dict[str, str]]


class Kept:
    """A server of values: the test sees and changes what is in it, hears of writes, and takes it away."""

    needs = ""
    held: Held
    fails: bool
    reads: int
    told: list[tuple[str, Any]]
    during_write: Callable[[], None]
    during_read: Callable[[], None]

    def __init__(self, entity_name: str, base_dir: str | Path) -> None:
        self.values = self.held.setdefault((str(base_dir), entity_name), {})

    def wait_for_init(self, initial: bool) -> None:
        self._ask()

    def _ask(self) -> None:
        if type(self).fails:
            raise bk.ServerUnreachable("away")

    def has_value(self, id: str) -> bool:  # noqa: A002 - the contract's name
        self._ask()
        return id in self.values

    def read_value(self, id: str) -> Any:  # noqa: A002 - the contract's name
        self._ask()
        type(self).reads += 1
        if id not in self.values:
            raise bk.NotFound(f"Entity signal/BTC%2FUSDT:{id} not found")
        found = self.values[id]
        type(self).during_read()
        return json.loads(found)

    def write_value(self, id: str, value: Any) -> None:  # noqa: A002 - the contract's name
        self._ask()
        self.values[id] = json.dumps(value)
        self.told.append((id, value))
        type(self).during_write()

    def remove_value(self, id: str) -> None:  # noqa: A002 - the contract's name
        self._ask()
        if id not in self.values:
            raise bk.NotFound(f"Entity signal/BTC%2FUSDT:{id} not found")
        del self.values[id]

    def keys(self) -> Iterator[str]:
        self._ask()
        return iter(sorted(self.values, key=natural_order))


def server() -> type[Kept]:
    attributes: dict[str, Any] = {"held": {}, "fails": False, "reads": 0, "told": []}
    return type("Server", (Kept,), {**attributes, "during_write": lambda: None, "during_read": lambda: None})


@pytest.fixture(scope="class")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    both = CachedPersist(ReplicatedPersist(server(), (server(),)))
    return new_persist_store(both, str(tmp_path_factory.mktemp("values")))


def test_a_wrapper_is_a_class_of_values_that_travels() -> None:
    for maker in (CachedPersist(SqlitePersist), ReplicatedPersist(SqlitePersist, (bk.PersistBase,))):
        assert pickle.loads(pickle.dumps(maker)) == maker
        bk.PersistSignalAdapter.use_persist_signal_adapter(maker)
        named = choices.of(REGISTRIES)
        bk.shutdown()
        choices.choose(REGISTRIES, named)
        assert bk.PersistSignalAdapter.choice == maker
        assert type(maker).__name__ in bk.backends()["signal"]
        bk.shutdown()


class TestCached:
    def test_it_does_what_a_class_of_values_does_and_reads_once(self, tmp_path: Path) -> None:
        check(CachedPersist(SqlitePersist)("signal/BTC%2FUSDT", tmp_path))
        inner = server()
        values = CachedPersist(inner)("e", "d")
        values.write_value("a", {"n": [1]})
        values.read_value("a")["n"].append(2)
        assert values.read_value("a") == {"n": [1]}
        assert inner.reads == 0
        assert CachedPersist(inner)("e", "d").read_value("a") == {"n": [1]}
        assert inner.reads == 0

    def test_a_read_that_overlaps_a_write_never_brings_back_the_old_value(self) -> None:
        inner = server()
        values, other = CachedPersist(inner)("e", "d"), CachedPersist(inner)("e", "d")
        inner.held["d", "e"]["a"] = "1"

        def write() -> None:
            inner.during_read = staticmethod(lambda: None)
            other.write_value("a", 2)

        inner.during_read = staticmethod(write)
        assert values.read_value("a") == 1
        assert values.read_value("a") == 2

    def test_of_writes_that_overlap_none_is_kept(self) -> None:
        inner = server()
        values = CachedPersist(inner)("e", "d")

        def another() -> None:
            inner.during_write = staticmethod(lambda: None)
            values.write_value("a", 2)
            inner.held["d", "e"]["a"] = "1"  # The outer one was the last to be carried out.

        inner.during_write = staticmethod(another)
        values.write_value("a", 1)
        assert values.read_value("a") == 1

    def test_a_write_that_failed_leaves_no_copy_and_others_writes_are_seen_in_time(self) -> None:
        inner = server()
        values = CachedPersist(inner, staleness_ms=0)("e", "d")
        values.write_value("a", 1)
        inner.held["d", "e"]["a"] = "7"
        assert values.read_value("a") == 7
        values = CachedPersist(inner)("e", "d")
        assert values.read_value("a") == 7
        inner.fails = True
        with pytest.raises(bk.ServerUnreachable):
            values.write_value("a", 8)
        with pytest.raises(bk.ServerUnreachable):
            values.read_value("a")

    def test_copies_are_bounded_by_number_and_by_bytes(self) -> None:
        for copies in (Copies(3, 10**9, 60), Copies(10**9, 2_500, 60)):
            for number in range(9):
                with copies.writing(("d", "e", str(number)), "x" * 100):
                    pass
            assert 2 <= len(copies) <= 3
            assert copies.get(("d", "e", "8"))[0] is not None
            assert copies.get(("d", "e", "0"))[0] is None

    @pytest.mark.live
    def test_what_another_process_writes_in_mongodb_is_heard(self, bkm_settings: Settings) -> None:
        bk.setup({name: getattr(bkm_settings, name) for name in bkm_settings.model_fields_set})
        try:
            values = CachedPersist(MongoPersist, staleness_ms=3_600_000)("e", "d")
            values.write_value("a", 0)
            end_s, number = time.monotonic() + 300, 0
            while values.read_value("a") == 0:
                number += 1
                MongoPersist("e", "d").write_value("a", number)  # Past the copies, as another process would.
                assert time.monotonic() < end_s
        finally:
            bk.shutdown()


class TestReplicated:
    def test_replicas_get_each_write_in_order_after_the_primary(self) -> None:
        primary, replica = server(), server()
        maker = ReplicatedPersist(primary, (replica,))
        values = maker("signal/BTC%2FUSDT", "d")
        check(values)
        assert maker.close() == []
        primary.told.clear()
        replica.told.clear()
        for number in range(20):
            values.write_value(f"k{number % 3}", number)
        assert maker.close() == []
        assert replica.held == primary.held
        assert replica.told == primary.told

    def test_a_replica_that_is_away_is_behind_for_all_to_see_and_gets_everything_later(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(replicated, "AGAIN_S", 0.001)
        monkeypatch.setattr(replicated, "AGAIN_MAX_S", 0.001)
        primary, replica = server(), server()
        replica.fails = True
        maker = ReplicatedPersist(primary, (replica,), bytes_max=2_000)
        values = maker("e", "d")
        for number in range(3):
            values.write_value("a", number)
        (left,) = maker.close(0)
        assert (left.waiting, left.entities) == (3, 0)
        assert "replica Server lacks 3 writes" in caplog.text
        for number in range(100):
            values.write_value(f"b{number}", "x" * 100)  # More than may wait.
        values.remove_value("b7")
        lag = maker.lag()[0]
        assert (lag.waiting, lag.entities) == (0, 1)
        assert lag.oldest_s > 0
        replica.fails = False
        assert maker.close() == []
        assert replica.held == primary.held
        assert maker.lag()[0][1:] == (0, 0, 0.0, "")

    def test_what_a_killed_process_had_not_copied_is_copied_by_the_next(self) -> None:
        primary, replica = server(), server()
        primary.held["d", "e"] = {"a": "1", "b": "2"}
        replica.held["d", "e"] = {"a": "0", "gone": "3"}
        maker = ReplicatedPersist(primary, (replica,))
        maker("e", "d").wait_for_init(True)
        assert maker.close() == []
        assert replica.held == primary.held

    def test_a_write_that_another_process_overtook_ends_as_the_primary_has_it(self) -> None:
        primary, replica = server(), server()
        entered, leave = Event(), Event()

        def overtaken() -> None:
            entered.set()
            assert leave.wait(60)

        replica.during_write = staticmethod(overtaken)
        maker = ReplicatedPersist(primary, (replica,))
        writer = Thread(target=maker("e", "d").write_value, args=("a", 1))
        writer.start()
        assert entered.wait(60)
        primary.held["d", "e"]["a"] = replica.held["d", "e"]["a"] = "2"  # The other's write, and its copy.
        replica.held["d", "e"]["a"] = "1"  # Ours comes last.
        replica.during_write = staticmethod(lambda: None)
        leave.set()
        writer.join()
        assert maker.close() == []
        assert replica.held["d", "e"]["a"] == "2"

    def test_classes_that_cannot_be_compared_are_refused(self) -> None:
        class Half(Kept):
            keys = None  # type: ignore[assignment]

        for wrong in ((SqlitePersist, ()), (SqlitePersist, (SqlitePersist,)), (SqlitePersist, (Half,))):
            with pytest.raises(bk.InvalidSetting):
                ReplicatedPersist(*wrong)
