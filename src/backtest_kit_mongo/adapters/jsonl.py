"""The log as a file of JSON lines: appended to, never rewritten, for `tail -f` and `jq`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from backtest_kit_mongo import locks
from backtest_kit_mongo.adapters.bound import checked_limit
from backtest_kit_mongo.adapters.contracts import Ids, Payload, Row
from backtest_kit_mongo.adapters.list_rows import several
from backtest_kit_mongo.adapters.registry import Registry
from backtest_kit_mongo.coherence.record import Change, Part
from backtest_kit_mongo.coherence.showing import shown
from backtest_kit_mongo.domains.checks import make_change, make_key, row_item
from backtest_kit_mongo.domains.table import LOG
from backtest_kit_mongo.look_ahead import hidden_from, simulation_now

__all__ = ["DEFAULT_PATH", "JsonlLog", "use_jsonl"]

logger = locks.logger(__name__)

DEFAULT_PATH: Final = Path("dump/log/log.jsonl")
"""Relative on purpose: it follows the working directory."""


class JsonlLog:
    """A `PersistLogInstance`. Rows that this process wrote before are not written again; each line is one write, so
    lines of several processes do not mix.
    """

    def __init__(self, path: Path | str = DEFAULT_PATH) -> None:
        self._path = Path(path)
        self._written: dict[Part, int] = {}
        """By id what was written, as a hash."""
        self._reported: set[tuple[Part, int]] = set()
        self._lock = locks.Lock()

    def wait_for_init(self, initial: bool) -> None:
        """Nothing: the file appears with its first line."""

    def read_log_data(self, *, limit: int | None = None, ids: Ids = None) -> list[Row]:
        """Lines of the file, oldest first; with `limit` the newest so many, the newest first. At a simulation time
        without later ones. A line does not say when it was written, so there is no `since`.
        """
        now = simulation_now("log")
        newest = checked_limit(limit)
        wanted = None if ids is None else {ids} if isinstance(ids, str) else set(ids)
        rows = [row for row in self._rows() if now is None or not _is_later(row, now)]
        if wanted is not None:
            rows = [row for row in rows if row.get("id") in wanted]
        return rows if newest is None and wanted is None else rows[::-1][:newest]

    def _rows(self) -> Iterator[Row]:
        try:
            lines = self._path.read_text("utf-8").splitlines()
        except FileNotFoundError:
            return
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError:
                logger.warning("%s, line %d is no JSON and is left out", self._path, number)
                continue
            if isinstance(row, dict):
                yield row

    def write_log_data(self, rows: Sequence[Payload]) -> None:
        """Append the rows that are new.

        Raises:
            InvalidPayload: a row is no log entry. No row was written.
            OSError: the file cannot be written.
        """
        changes = [make_change(make_key(LOG, (row_item(LOG, row),)), row) for row in several("log", rows)]
        with self._lock:
            new, dropped = self._sorted(changes)
            self._append(new)
        for change in dropped:
            logger.warning("log: another row is written under the id %r, and the first stays: NOT written is %s",
                           change.key.item, shown(repr(change.payload)))  # fmt: skip

    def append_log_data(self, row: Payload) -> None:
        """Append one row, unless its id was written before. Errors as of `write_log_data`."""
        self.write_log_data([row])

    def _append(self, new: Sequence[Change]) -> None:
        if new:
            text = "".join(f"{json.dumps(change.payload, default=str, ensure_ascii=False)}\n" for change in new)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(file, text.encode())
            finally:
                os.close(file)
            self._written.update((change.key.item, hash(change.body)) for change in new)

    def _sorted(self, changes: Sequence[Change]) -> tuple[list[Change], list[Change]]:
        """The first row of each id that is not written yet, and what differs from the first of its id, each once."""
        new: dict[Part, Change] = {}
        dropped = []
        for change in changes:
            item, digest = change.key.item, hash(change.body)
            first = self._written[item] if item in self._written else hash(new.setdefault(item, change).body)
            if digest != first and (item, digest) not in self._reported:
                self._reported.add((item, digest))
                dropped.append(change)
        return list(new.values()), dropped


def use_jsonl(registry: Registry, path: Path | str = DEFAULT_PATH) -> None:
    """Append lines of JSON to a file, relative to the working directory."""
    registry.use_adapter(partial(JsonlLog, path))


def _is_later(row: Row, now: int) -> bool:
    from backtest_kit_mongo.coherence.record import Record

    return hidden_from(Record(make_key(LOG, (str(row.get("id")),)), payload=row), now) is not None
