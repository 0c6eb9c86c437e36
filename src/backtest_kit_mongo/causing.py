"""A block whose writes say what they belong to: the change events of the block carry it, and so does the audit log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from backtest_kit_mongo.coherence.causes import Cause

__all__ = ["caused_by", "present_cause"]

_present: ContextVar[Cause | None] = ContextVar("backtest_kit_cause", default=None)
present_cause: Final[Callable[[], Cause | None]] = _present.get
"""The cause in force here."""


@contextmanager
def caused_by(cause: Cause | None) -> Iterator[None]:
    """Every write of this thread or task in the block says that it belongs to `cause`; the innermost block counts."""
    token = _present.set(cause)
    try:
        yield
    finally:
        _present.reset(token)
