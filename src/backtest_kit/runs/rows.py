"""Rows of the list in the store (temporary: files with locks)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

import backtest_kit_mongo as bk

__all__ = ["StoredRows"]


class StoredRows:
    def __init__(self) -> None:
        self.root = Path("dump") / "ledger"
        self.root.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def place() -> str:
        return str(Path("dump").resolve())

    def read(self, key: str) -> tuple[dict[str, Any] | None, int]:
        path = self.root / key.replace("/", "%2F")
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            return None, 0
        return found["row"], found["rev"]

    def write(self, key: str, row: Mapping[str, Any], expected: int) -> int:
        path = self.root / key.replace("/", "%2F")
        with FileLock(str(path) + ".lock"):
            _, rev = self.read(key)
            if rev != expected:
                raise bk.Conflict("x")
            new = path.with_suffix(".new")
            new.write_text(json.dumps({"row": row, "rev": rev + 1}))
            new.replace(path)
        return rev + 1

    def remove(self, key: str) -> None:
        (self.root / key.replace("/", "%2F")).unlink(missing_ok=True)
