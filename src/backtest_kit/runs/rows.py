"""Rows of the ledger, in the domain `run` of the store, by compare-and-set."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import backtest_kit_mongo as bk

__all__ = ["Rows", "StoredRows", "Write"]

logger = logging.getLogger(__name__)

ADAPTERS_MAX: Final = 4096
"""An adapter keeps something of each key; of more runs than that it forgets them, a worker may do millions."""


class Write(NamedTuple):
    """A row to write, and the revision that it must have now; 0: there is none."""

    key: str
    row: Mapping[str, Any]
    expected: int


class Rows(Protocol):
    """Where rows are: a value and its revision by key; 0 is the revision of what is not there."""

    def read(self, key: str) -> tuple[dict[str, Any] | None, int]: ...

    def write(self, key: str, row: Mapping[str, Any], expected: int) -> int:
        """The new revision.

        Raises:
            bk.Conflict: the row has another revision than `expected`; nothing was written.
        """
        ...

    def write_all(self, writes: Sequence[Write]) -> list[int | None]:
        """The new revision of each; None where the row has another one than expected, and was not written."""
        ...

    def remove(self, key: str) -> None: ...


class StoredRows:
    """`Rows` that `PersistRunAdapter` keeps: in MongoDB after `setup()`, in files below ./dump without servers."""

    def __init__(self) -> None:
        self._any_key: Any = None
        self._writes_together = True

    @staticmethod
    def place() -> str:
        """Where they are, for people and for comparing two processes."""
        try:
            database = bk.get_mongo()[bk.get_config().database]
        except bk.NotSetUp:
            return str(Path("dump").resolve())
        identity: dict[str, Any] = database["cache-identity"].find_one({}, {"deployment": 1}) or {}
        return f"database {database.name} (deployment {identity.get('deployment', 'unknown')})"

    def read(self, key: str) -> tuple[dict[str, Any] | None, int]:
        """The row and its revision; 0 if there never was one, or if a power failure left half of a file."""
        with bk.simulation_time(None), bk.revisions() as seen:
            try:
                found = bk.PersistRunAdapter.read_run_data(key)
            except bk.CorruptData as cause:
                logger.warning("a row cannot be read and counts as none, so its run is done again: %s", cause)
                return None, 0
        for self._any_key, revision in seen.items():
            return None if found is None else found["data"], revision
        return None, 0

    def write(self, key: str, row: Mapping[str, Any], expected: int) -> int:
        """Raises:
        bk.Conflict: the row has another revision; nothing was written.
        """
        return self._step([Write(key, row, expected)])[0]

    def write_all(self, writes: Sequence[Write]) -> list[int | None]:
        """Together; and where that cannot be, because one of them fails or the server has no transactions, one by
        one.
        """
        if len(writes) > 1 and self._writes_together:
            try:
                return [*self._step(writes)]
            except (bk.Conflict, bk.Contended):
                pass
            except bk.UnsafeServer:
                self._writes_together = False
        return [self._written(one) for one in writes]

    def _written(self, one: Write) -> int | None:
        try:
            return self._step([one])[0]
        except (bk.Conflict, bk.Contended):
            return None

    def _step(self, writes: Sequence[Write]) -> list[int]:
        if self._any_key is None:
            self.read(writes[0].key)
        keys = [self._any_key._replace(parts=(one.key,)) for one in writes]
        expected = {key: one.expected for key, one in zip(keys, writes, strict=True)}
        with bk.simulation_time(None), bk.step(expect=expected) as step:
            for one in writes:
                bk.PersistRunAdapter.write_run_data({"kind": _kind(one.key), "data": dict(one.row)}, one.key)
        if bk.PersistRunAdapter.context_count > ADAPTERS_MAX:
            bk.PersistRunAdapter.clear()
        return [step.revisions[key] for key in keys]

    def remove(self, key: str) -> None:
        """Forget a row; nothing happens if there is none."""
        with bk.simulation_time(None):
            bk.PersistRunAdapter.write_run_data(None, key)


def _kind(key: str) -> str:
    if key == "studies":
        return "studies"
    return "study" if key.startswith("study:") else "run"
