"""A block whose writes say what they belong to: the change events of the block carry it, and so does the audit log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from backtest_kit_mongo.coherence.causes import Cause
from backtest_kit_mongo.coherence.moments import moment_ms
from backtest_kit_mongo.coherence.texts import plain_text
from backtest_kit_mongo.errors import InvalidKey

__all__ = ["caused_by", "present_cause"]

_present: ContextVar[Cause | None] = ContextVar("backtest_kit_cause", default=None)
present_cause: Final[Callable[[], Cause | None]] = _present.get
"""The cause in force here."""


@contextmanager
def caused_by(cause: Cause | None) -> Iterator[None]:
    """Every write of this thread or task in the block says that it belongs to `cause`; the innermost block counts.

    Raises:
        InvalidKey: it is no cause: a part is no text, or `at` no moment. The block is not entered.
    """
    token = _present.set(None if cause is None else _checked(cause))
    try:
        yield
    finally:
        _present.reset(token)


def _checked(cause: Any) -> Cause:
    """Here, because what cannot be told would be found out only after the write."""
    if not isinstance(cause, Cause):
        raise InvalidKey(f"a cause is a bk.Cause, not {cause!r:.80}")
    texts = {name: plain_text(getattr(cause, name), f"cause: {name}") for name in ("signal", "step", "parent")}
    return Cause(**texts, at=None if cause.at is None else moment_ms(cause.at, "cause: at"))
