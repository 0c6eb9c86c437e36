"""A domain that the package does not have, added at run time: its row, its payload, its signature. Nothing else.

Not collected by itself: `test_eighteenth.py` runs it in a process of its own, whose table it changes.
"""

# mypy: disable-error-code="empty-body"

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ConfigDict

from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.adapters.registry import Registry
from backtest_kit_mongo.adapters.verbs import drop, has, list_entries, prepare, read, remove, write
from backtest_kit_mongo.backends.files.documents import FileTruth
from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.coherence.record import Column, Domain, Level, Shape
from backtest_kit_mongo.domains.payloads import Payload
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.ports import NoCache
from backtest_kit_mongo.settings import load
from backtest_kit_mongo.setup import make_store

Row = dict[str, Any]


class Verdict(Payload):
    """What somebody thinks of a run."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"data": {"good": True}, "removed": False}]})

    data: Any = None
    removed: bool | None = None


VERDICT = Domain(
    name="verdict", collection="verdict-items", shape=Shape.KEYED, empty=lambda: None, model=Verdict,
    key=(Column("runId"), Column("isFinal", bool), Column("judgeName")), has_when=True, has_removed=True,
    id_cache="verdict_cache:{runId}:{isFinal}:{judgeName}",
    path=(Level(literal="verdict"), Level(columns=("runId", "isFinal"))), file=Level(columns=("judgeName",)),
)  # fmt: skip


class PersistVerdictRegistry(Registry, domain=VERDICT):
    use_persist_verdict_adapter = Registry.use_adapter

    @prepare
    def wait_for_init(self, run_id: str, is_final: bool, initial: bool) -> None:
        """Initialise a context ahead of its first use."""

    @read
    def read_verdict_data(self, run_id: str, is_final: bool, judge: str, *, when: int | None = None) -> Row | None:
        """One verdict."""

    @has
    def has_verdict_data(self, run_id: str, is_final: bool, judge: str) -> bool:
        """Whether there ever was one."""

    @write
    def write_verdict_data(
        self, data: Row, run_id: str, is_final: bool, judge: str, *, when: int | None = None
    ) -> None:
        """Store or replace one."""

    @remove
    def remove_verdict_data(self, run_id: str, is_final: bool, judge: str) -> None:
        """Take it back."""

    @list_entries
    def list_verdict_data(
        self, run_id: str, is_final: bool, *, when: int | None = None, limit: int | None = None
    ) -> Iterator[Row]:
        """All of a run."""

    @drop
    def dispose(self, run_id: str, is_final: bool) -> None:
        """Forget the context."""


DOMAINS.add(VERDICT)
PersistVerdictAdapter = PersistVerdictRegistry()
REGISTRIES.add(PersistVerdictAdapter)

from backtest_kit_mongo.testing.conformance import (  # noqa: E402 - the suite takes the table as it is then.
    TestADocument as TestADocument,
)
from backtest_kit_mongo.testing.conformance import (
    TestAnEmptyStore as TestAnEmptyStore,
)
from backtest_kit_mongo.testing.conformance import (
    TestCollisions as TestCollisions,
)
from backtest_kit_mongo.testing.conformance import (
    TestHostileKeys as TestHostileKeys,
)
from backtest_kit_mongo.testing.conformance import (
    TestListMethods as TestListMethods,
)
from backtest_kit_mongo.testing.conformance import (
    TestLists as TestLists,
)
from backtest_kit_mongo.testing.conformance import (
    TestLookAhead as TestLookAhead,
)
from backtest_kit_mongo.testing.conformance import (
    TestLookAheadInLists as TestLookAheadInLists,
)
from backtest_kit_mongo.testing.conformance import (
    TestNothingIsShared as TestNothingIsShared,
)
from backtest_kit_mongo.testing.conformance import (
    TestSoftRemoval as TestSoftRemoval,
)
from backtest_kit_mongo.testing.conformance import (
    TestWrongKeys as TestWrongKeys,
)
from backtest_kit_mongo.testing.conformance import (
    TestWrongPayloads as TestWrongPayloads,
)
from backtest_kit_mongo.testing.conformance import (
    TestWrongTimes as TestWrongTimes,
)
from backtest_kit_mongo.testing.conformance import (
    tag as tag,
)

SERVERS = "EIGHTEENTH_SERVERS"


@pytest.fixture(scope="session")
def makers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], Store]]:
    files = tmp_path_factory.mktemp("files")
    settings = load(**json.loads(os.environ[SERVERS]), near_cache="verdict", lease_ms=3_000)
    return {
        "memory": lambda: Store("memory", MemoryTruth(), NoCache()),
        "files": lambda: Store("files", FileTruth(Path(files)), NoCache()),
        "servers": lambda: make_store(settings),
    }


@pytest.fixture(scope="session", params=["memory", "files", "servers"])
def store(request: pytest.FixtureRequest, makers: dict[str, Callable[[], Store]]) -> Iterator[Store]:
    made = makers[request.param]()
    yield made
    made.close()


@pytest.fixture(scope="session")
def twin(store: Store, makers: dict[str, Callable[[], Store]]) -> Iterator[Store]:
    made = store if store.name == "memory" else makers["files" if store.name == "files" else "servers"]()
    yield made
    made.close()


@pytest.fixture
def empty_store(store: Store) -> Store:
    """Nothing is written where the tests of an empty one look."""
    return store
