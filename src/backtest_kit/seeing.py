"""What a strategy saw while it was asked: stored answers that it read. Only where somebody takes notes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import backtest_kit_mongo as bk

__all__ = ["AnswerMissing", "Answers", "Deeds", "answer_read", "noting_answers", "recorded_deeds", "replaying_deeds"]

Answers: TypeAlias = list[tuple[str, str]]
"""Bucket and key of rows of the measure domain."""

_notes: ContextVar[Answers | None] = ContextVar("backtest_kit_notes", default=None)


def answer_read(bucket: str, key: str) -> None:
    """A stored answer was read, or computed and stored."""
    notes = _notes.get()
    if notes is not None and (bucket, key) not in notes:
        notes.append((bucket, key))


@contextmanager
def noting_answers() -> Iterator[Answers]:
    """What is read in the block, and in coroutines that it runs."""
    notes: Answers = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


class AnswerMissing(bk.BacktestKitError):
    """A replay of a session needs a stored answer that was not recorded. The function was not called."""


Deeds: TypeAlias = Callable[[str, str, int], Any]
"""What a deed (`bt.once`) of bucket and key came to at a minute; None: nothing was done then."""

_deeds: ContextVar[Deeds | None] = ContextVar("backtest_kit_deeds", default=None)


def recorded_deeds() -> Deeds | None:
    """Where this is a replay of a session: functions with an effect on the world are not called again."""
    return _deeds.get()


@contextmanager
def replaying_deeds(deeds: Deeds) -> Iterator[None]:
    """In the block nothing is done and nothing is computed anew: what was recorded is answered."""
    token = _deeds.set(deeds)
    try:
        yield
    finally:
        _deeds.reset(token)
