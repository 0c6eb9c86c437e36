"""What a look at a deployment finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pymongo.errors import OperationFailure

UNAUTHORIZED: Final = 13
"""MongoDB's code for "this user may not"."""


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"
    """Good to know; nothing need be done."""
    WARNING = "warning"
    """Nothing is broken, but it will be, or something goes slower than it should."""
    ERROR = "error"
    """A promise of this package is broken, or will be at the next fault."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. Texts hold no secrets: addresses without users and passwords, no payloads.

    Attributes:
        name: what was looked at, as "area.what"; stable, for scripts and runbooks.
        seen: what is there.
        advice: what to do; empty if nothing need be done.
    """

    name: str
    level: Level
    seen: str
    advice: str = ""


def ok(name: str, seen: str) -> Finding:
    return Finding(name, Level.OK, seen)


def note(name: str, seen: str, advice: str = "") -> Finding:
    return Finding(name, Level.NOTE, seen, advice)


def warning(name: str, seen: str, advice: str) -> Finding:
    return Finding(name, Level.WARNING, seen, advice)


def error(name: str, seen: str, advice: str) -> Finding:
    return Finding(name, Level.ERROR, seen, advice)


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level among findings; OK if there are none."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)


def duration(ms: float) -> str:
    """A length of time for people."""
    for unit, unit_ms in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if abs(ms) >= unit_ms:
            return f"{ms / unit_ms:.1f} {unit}"
    return f"{ms:.1f} ms" if abs(ms) < 10 else f"{ms:.0f} ms"


def version(text: str) -> tuple[int, ...]:
    """The numbers of a version, to compare; what is no number ends it."""
    numbers = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def said(cause: Exception) -> str:
    """What a server or driver says is wrong, in a line. MongoDB would repeat the whole command."""
    text = str((cause.details or {}).get("errmsg", cause)) if isinstance(cause, OperationFailure) else str(cause)
    return f"{text.partition(' to execute command')[0]:.200}"


def is_unauthorized(cause: Exception) -> bool:
    """Whether MongoDB refused because of the user's rights: then nothing was done."""
    return isinstance(cause, OperationFailure) and cause.code == UNAUTHORIZED
