"""Registries: which implementation serves which context, and what happens when its first use fails."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, assert_type

import pytest

import backtest_kit_mongo as bk
from backtest_kit_mongo.adapters import verbs
from backtest_kit_mongo.adapters.registries import (
    REGISTRIES,
    PersistMemoryRegistry,
    PersistSignalRegistry,
    PersistStateRegistry,
)
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.stores import memory_store


class Recorder:
    """A user's own signal backend."""

    made: list[tuple[str, str, str]]
    inits: list[bool]

    def __init__(self, symbol: str, strategy_name: str, exchange_name: str) -> None:
        type(self).made.append((symbol, strategy_name, exchange_name))
        self.row: Any = None

    def wait_for_init(self, initial: bool) -> None:
        type(self).inits.append(initial)

    def read_signal_data(self) -> Any:
        return self.row

    def write_signal_data(self, row: Any) -> None:
        self.row = row


@pytest.fixture
def own() -> type[Recorder]:
    return type("Own", (Recorder,), {"made": [], "inits": []})


@pytest.fixture
def signals() -> PersistSignalRegistry:
    registry = PersistSignalRegistry()
    registry.use_memory()
    return registry


def test_an_own_implementation_serves_each_context_by_one_instance(
    own: type[Recorder], signals: PersistSignalRegistry
) -> None:
    signals.use_persist_signal_adapter(own)
    signals.write_signal_data({"id": "1"}, "BTC", "s", "e")
    assert signals.read_signal_data("BTC", "s", "e") == {"id": "1"}
    assert signals.read_signal_data("ETH", "s", "e") is None
    assert own.made == [("BTC", "s", "e"), ("ETH", "s", "e")]


def test_contexts_that_look_alike_when_joined_have_their_own_instances(
    own: type[Recorder], signals: PersistSignalRegistry
) -> None:
    signals.use_persist_signal_adapter(own)
    signals.write_signal_data({"id": "1"}, "a:b", "c", "e")
    assert signals.read_signal_data("a", "b:c", "e") is None


def test_a_new_implementation_drops_the_old_instances(own: type[Recorder], signals: PersistSignalRegistry) -> None:
    signals.use_persist_signal_adapter(own)
    signals.write_signal_data({"id": "1"}, "BTC", "s", "e")
    signals.use_dummy()
    assert signals.read_signal_data("BTC", "s", "e") is None


def test_clear_drops_instances_and_keeps_the_implementation(
    own: type[Recorder], signals: PersistSignalRegistry
) -> None:
    signals.use_persist_signal_adapter(own)
    signals.read_signal_data("BTC", "s", "e")
    signals.clear()
    signals.read_signal_data("BTC", "s", "e")
    assert own.made == [("BTC", "s", "e")] * 2


def test_initial_is_true_until_an_initialisation_succeeded(own: type[Recorder], signals: PersistSignalRegistry) -> None:
    failures = [ConnectionError("not yet"), ConnectionError("not yet")]

    def wait_for_init(self: Recorder, initial: bool) -> None:
        own.inits.append(initial)
        if failures:
            raise failures.pop()

    signals.use_persist_signal_adapter(type("Flaky", (own,), {"wait_for_init": wait_for_init}))
    for _ in range(2):
        with pytest.raises(ConnectionError):
            signals.read_signal_data("BTC", "s", "e")
    signals.read_signal_data("BTC", "s", "e")
    signals.read_signal_data("BTC", "s", "e")
    assert own.inits == [True, True, True]
    assert len(own.made) == 1


def test_sixteen_threads_share_one_instance_that_is_initialised_once(
    own: type[Recorder], signals: PersistSignalRegistry
) -> None:
    signals.use_persist_signal_adapter(own)
    barrier = threading.Barrier(16)

    def first_use() -> None:
        barrier.wait()
        signals.read_signal_data("BTC", "s", "e")

    threads = [threading.Thread(target=first_use) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(own.made) == 1
    assert own.inits.count(True) == 1


def test_dispose_drops_one_context_only() -> None:
    memory = PersistMemoryRegistry()
    memory.use_memory()
    memory.write_memory_data({"data": 1}, "s", "b", "m", 1)
    memory.write_memory_data({"data": 1}, "s", "c", "m", 1)
    memory.dispose("s", "b")
    assert memory.context_count == 1
    assert memory.has_memory_data("s", "b", "m")


def test_wait_for_init_prepares_a_context_ahead_of_its_use() -> None:
    states = PersistStateRegistry()
    states.use_memory()
    states.wait_for_init("s", "b", False)
    assert states.context_count == 0
    states.wait_for_init("s", "b", True)
    assert states.context_count == 1


@pytest.fixture
def _default_registries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    bk.shutdown()
    yield
    bk.shutdown()


@pytest.mark.usefixtures("_default_registries")
def test_the_default_is_files_below_the_working_directory(tmp_path: Path) -> None:
    bk.PersistStateAdapter.write_state_data({"data": 1}, "s", "b", 1)
    assert (tmp_path / "dump" / "state" / "s" / "b" / "b.json").is_file()


def test_all_registries_have_the_same_switches() -> None:
    for registry in REGISTRIES:
        for switch in ("use_json", "use_memory", "use_dummy", "clear"):
            assert callable(getattr(registry, switch))


@pytest.mark.usefixtures("_default_registries")
def test_a_message_shows_the_beginning_of_a_long_key_and_says_how_long_it_is() -> None:
    with pytest.raises(bk.InvalidPayload) as caught:
        bk.PersistStateAdapter.write_state_data({"data": object()}, "s" * 70_000, "b", when=1_700_000_000_000)
    assert len(str(caught.value)) < 400
    assert "(70,000 characters)" in str(caught.value)


def test_editors_and_type_checkers_know_what_each_method_takes_and_gives() -> None:
    """Proved by mypy, which checks this file; one of each kind of method."""
    row = {"id": "1", "data": 1}
    with ExitStack() as stack:
        for registry in REGISTRIES:
            stack.enter_context(registry.serving(memory_store()))
        assert_type(bk.PersistSignalAdapter.read_signal_data("BTC", "s", "e"), dict[str, Any] | None)
        assert_type(bk.PersistRiskAdapter.read_position_data("r", exchange_name="e"), list[Any])
        assert_type(bk.PersistPartialAdapter.read_partial_data("BTC", "s", "id", "e", when=5), dict[str, Any])
        assert_type(bk.PersistStorageAdapter.read_storage_data(True, limit=5), list[dict[str, Any]])
        assert_type(bk.PersistMeasureAdapter.list_measure_data("b"), Iterator[str])
        assert_type(bk.PersistMemoryAdapter.list_memory_data("s", "b"), Iterator[dict[str, Any]])
        assert_type(bk.PersistMemoryAdapter.has_memory_data("s", "b", "m"), bool)
        bk.PersistSessionAdapter.write_session_data(row, "s", "e", "", 5, symbol="BTC", backtest=False)
        bk.PersistStateAdapter.write_state_data(row, "s", bucket_name="b", when=5)
        with pytest.raises(TypeError, match="strategy"):
            bk.PersistSignalAdapter.read_signal_data("BTC", strategy="s", exchange_name="e")  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="exchange_name"):
            bk.PersistSignalAdapter.write_signal_data(row, "BTC", "s")  # type: ignore[call-arg]


def test_a_method_has_its_signature_and_its_documentation_at_run_time() -> None:
    method = bk.PersistMemoryAdapter.read_memory_data
    assert list(inspect.signature(method).parameters) == ["signal_id", "bucket_name", "memory_id", "when"]
    assert inspect.getdoc(method) == "The note; None if there is none or it was removed."


def test_a_signature_that_does_not_fit_the_key_is_refused_when_it_is_declared() -> None:
    class Lacking:
        @verbs.read
        def read_state_data(self, signal_id: str) -> Any: ...

    class Surplus:
        @verbs.write
        def write_state_data(self, data: Any, signal_id: str, bucket_name: str, colour: str) -> None: ...

    for wrong, said in ((Lacking, "no parameter bucket_name"), (Surplus, "colour")):
        with pytest.raises(TypeError, match=said):
            verbs.calls_of(wrong, STATE)
