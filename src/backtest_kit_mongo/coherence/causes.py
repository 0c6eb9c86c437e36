"""What a write belongs to, as its writer says; `causing.py` has the block that says it.

A cause is not part of a change: it is not stored in the document, decides nothing, and may be lost (a change that
recovery publishes has none). It is what `bkm trace` makes a tree of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

__all__ = ["Cause", "as_fields", "from_fields", "is_cause"]


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


def as_fields(cause: Cause) -> dict[str, Any]:
    """As it stands in events and records; what is empty is left out."""
    return {name: value for name, value in cause._asdict().items() if value not in ("", None)}


def is_cause(value: Any) -> bool:
    """Whether a field of an event is one. A map may have more, of a later version."""
    if not isinstance(value, Mapping):
        return False
    *texts, at = Cause._fields
    moment = value.get(at)
    is_moment = moment is None or (_is_int(moment) and -(2**63) <= moment < 2**63)
    return is_moment and all(type(value.get(name, "")) is str for name in texts)


def _is_int(value: object) -> TypeGuard[int]:
    """Also of the kind that MongoDB's driver makes of 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool)


def from_fields(value: Any) -> Cause | None:
    """What `as_fields` made; None for anything else."""
    if not is_cause(value):
        return None
    found = Cause("", "")._replace(**{name: value[name] for name in Cause._fields if name in value})
    return found if found.at is None else found._replace(at=int(found.at))
