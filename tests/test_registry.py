"""Registries: which implementation serves which context, and what happens when its first use fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import backtest_kit_mongo as bk
from backtest_kit_mongo.adapters.instances import MemoryInstance, SignalInstance, StateInstance
from backtest_kit_mongo.adapters.registries import (
    REGISTRIES,
    PersistMemoryRegistry,
    PersistSignalRegistry,
    PersistStateRegistry,
)


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
    registry = PersistSignalRegistry(SignalInstance)
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
    memory = PersistMemoryRegistry(MemoryInstance)
    memory.use_memory()
    memory.write_memory_data({"data": 1}, "s", "b", "m", 1)
    memory.write_memory_data({"data": 1}, "s", "c", "m", 1)
    memory.dispose("s", "b")
    assert memory.context_count == 1
    assert memory.has_memory_data("s", "b", "m")


def test_wait_for_init_prepares_a_context_ahead_of_its_use() -> None:
    states = PersistStateRegistry(StateInstance)
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
