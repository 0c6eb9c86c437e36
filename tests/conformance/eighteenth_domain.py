"""A domain that the package does not have, added at run time: its row, its payload, its signature. Nothing else."""

# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ConfigDict

from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.adapters.registry import Registry
from backtest_kit_mongo.adapters.verbs import drop, has, list_entries, prepare, read, remove, write
from backtest_kit_mongo.coherence.record import Column, Domain, Shape
from backtest_kit_mongo.domains.payloads import Payload
from backtest_kit_mongo.domains.table import DOMAINS

Row = dict[str, Any]


class Verdict(Payload):
    """What somebody thinks of a run."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"data": {"good": True}, "removed": False}]})

    data: Any = None
    removed: bool | None = None


VERDICT = Domain(
    name="verdict", shape=Shape.KEYED, empty=lambda: None, model=Verdict, has_when=True, has_removed=True,
    key=(Column("runId"), Column("isFinal", bool), Column("judgeName")),
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
