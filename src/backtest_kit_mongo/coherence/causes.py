"""What a write belongs to: a block says it, and the change events of the block's writes carry it.

A cause is not part of a change: it is not stored in the document, decides nothing, and may be lost (a change that
recovery publishes has none). It is what `bkm trace` makes a tree of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

__all__ = ["Cause", "as_fields", "caused_by", "from_fields", "is_cause", "present_cause"]


class Cause(NamedTuple):
    """Attributes:
    signal: id of the signal, or of the question that could have become one.
    step: names the step that wrote, among those of this signal.
    parent: the step that led to it; empty for the first.
    at: the simulated minute of the step, ms; None: it has none.
    """

    signal: str
    step: str
    parent: str = ""
    at: int | None = None


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


def as_fields(cause: Cause) -> dict[str, Any]:
    """As it stands in events and records; what is empty is left out."""
    fields: dict[str, Any] = {"signal": cause.signal, "step": cause.step}
    if cause.parent:
        fields["parent"] = cause.parent
    if cause.at is not None:
        fields["at"] = cause.at
    return fields


def is_cause(value: object) -> bool:
    """Whether a field of an event is one. A map may have more, of a later version."""
    if not isinstance(value, Mapping):
        return False
    texts = value.get("signal"), value.get("step"), value.get("parent", "")
    at = value.get("at")
    return all(type(text) is str for text in texts) and (at is None or (type(at) is int and -(2**63) <= at < 2**63))


def from_fields(value: Any) -> Cause | None:
    """What `as_fields` made; None for anything else."""
    if not is_cause(value):
        return None
    return Cause(value["signal"], value["step"], value.get("parent", ""), value.get("at"))
