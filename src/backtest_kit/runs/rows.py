"""Rows of the ledger, in the domain `run` of the store, by compare-and-set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import backtest_kit_mongo as bk

__all__ = ["StoredRows"]


class StoredRows:
    """`Rows` that `PersistRunAdapter` keeps: in MongoDB after `setup()`, in files below ./dump without servers."""

    def __init__(self) -> None:
        self._keys: dict[str, Any] = {}

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
        """The row and its revision; 0 if there never was one."""
        with bk.simulation_time(None), bk.revisions() as seen:
            found = bk.PersistRunAdapter.read_run_data(key)
        for self._keys[key], revision in seen.items():
            return None if found is None else found["data"], revision
        return None, 0

    def write(self, key: str, row: Mapping[str, Any], expected: int) -> int:
        """Raises:
        bk.Conflict: the row has another revision; nothing was written.
        """
        known = self._known(key)
        with bk.simulation_time(None), bk.step(expect={known: expected}) as step:
            bk.PersistRunAdapter.write_run_data({"kind": _kind(key), "data": dict(row)}, key)
        return step.revisions[known]

    def remove(self, key: str) -> None:
        """Forget a row; nothing happens if there is none."""
        with bk.simulation_time(None):
            bk.PersistRunAdapter.write_run_data(None, key)

    def _known(self, key: str) -> Any:
        if key not in self._keys:
            self.read(key)
        return self._keys[key]


def _kind(key: str) -> str:
    if key == "studies":
        return "studies"
    return "study" if key.startswith("study:") else "run"
