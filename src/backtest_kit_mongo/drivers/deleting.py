"""What a store does to be rid of documents for good."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backtest_kit_mongo.coherence import deletion
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.drivers.counts import WRITTEN, Counts
from backtest_kit_mongo.drivers.drive import Perform
from backtest_kit_mongo.drivers.scopes import current
from backtest_kit_mongo.errors import CallerError
from backtest_kit_mongo.ports import Truth


def deletion_handlers(truth: Truth) -> Mapping[type[fx.Effect[Any]], Perform]:
    """Who performs the effects of deletions."""
    return {deletion.Delete: truth.delete, deletion.DeleteAll: truth.delete_all}


class DeletionVerbs:
    """A part of `Store`, which has these attributes and methods."""

    counts: Counts
    _run: Callable[..., Any]

    def delete(self, key: Key, note: Mapping[str, str]) -> Record | None:
        """Delete a document for good; `note` says who and why. None: there was none.

        Raises:
            CallerError: a step is in force, and deletions are not part of steps.
        """
        _require_no_step(key)
        deleted: Record | None = self._run(deletion.delete(key, note), self.counts.writes[key.domain])
        return deleted

    def delete_all(self, keys: Sequence[Key], note: Mapping[str, str]) -> tuple[Record | None, ...]:
        """The same of several documents of one domain: rows of one list, or documents of one partition of the cache."""
        _require_no_step(keys[0])
        tally = self.counts.writes[keys[0].domain]
        deleted: tuple[Record | None, ...] = self._run(deletion.delete_all(tuple(keys), note), tally)
        for _ in keys[1:]:
            tally.add(WRITTEN, 0.0)
        return deleted


def _require_no_step(key: Key) -> None:
    if current.get() is not None:
        raise CallerError(f"{key}: a deletion for good cannot be part of a step. Nothing was deleted.")
