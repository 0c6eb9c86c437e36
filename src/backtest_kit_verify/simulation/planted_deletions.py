"""Planted bugs of deletions for good (`coherence/deletion.py`), in the form of `planted.py`; and all bugs together.

What a deletion shares with other writes (LEASE deletes the entry, a right is needed to install) is planted there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from backtest_kit_mongo.coherence import deletion, lists
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_verify.simulation.planted import HARD, PLANTED, Planted, altered, without


def without_revision(plan: fx.Plan[Any], _: lists.KnownRows | None) -> fx.Plan[Any]:
    """What is installed of a deletion is no newer than what was deleted."""

    def change(effect: fx.Effect[Any]) -> fx.Effect[Any]:
        if isinstance(effect, fx.Commit) and effect.published and effect.published[0].operation == "delete":
            return replace(effect, entry=effect.entry._replace(rev=effect.entry.rev - 1))
        return effect

    return altered(plan, change)


def without_deadline(plan: fx.Plan[Any], _: lists.KnownRows | None) -> fx.Plan[Any]:
    """It may reach MongoDB after its lease."""
    return altered(
        plan, lambda effect: replace(effect, deadline_s=None) if isinstance(effect, deletion.Delete) else effect
    )


def without_caches(plan: fx.Plan[Any], _: lists.KnownRows | None) -> fx.Plan[Any]:
    """It is an order to MongoDB alone: no lease before it, nothing told to the cache after it, as from a shell."""

    def change(effect: fx.Effect[Any]) -> fx.Effect[Any] | None:
        return effect if isinstance(effect, deletion.Delete) else None

    return altered(plan, change) if _is_deletion(plan) else plan


def _is_deletion(plan: Any) -> bool:
    return bool(plan.__name__ == "_counted")


DELETIONS: Final[Mapping[str, Planted]] = {
    "delete-past-caches": without("caches follow a deletion", "P1 P8", faults=False, wrap=without_caches),
    "delete-without-revision": without("a deletion is a revision", "I1 I2 I10", faults=False, wrap=without_revision),
    "delete-after-deadline": without(
        "a deletion's deadline lies before its lease's end",
        "I1 I5b I7",
        within=HARD,
        faults=False,
        wrap=without_deadline,
    ),
}
EVERY_PLANTED: Final[Mapping[str, Planted]] = {**PLANTED, **DELETIONS}
