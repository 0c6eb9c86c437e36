"""What a strategy saw while it was asked: stored answers that it read. Only where somebody takes notes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

__all__ = ["Answers", "answer_read", "noting_answers"]

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
