"""What changed between two payloads, field by field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final


class _Absent:
    """A field that is not there, which is something else than None."""

    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = _Absent()


@dataclass(frozen=True, slots=True)
class Difference:
    """One field.

    Attributes:
        path: `data.levels[2].price`; empty for the payload itself.
        before, after: ABSENT where there is no such field.
    """

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        name = self.path or "payload"
        if self.before is ABSENT:
            return f"+ {name}: {self.after!r}"
        if self.after is ABSENT:
            return f"- {name}: {self.before!r}"
        return f"~ {name}: {self.before!r} -> {self.after!r}"


def differences(before: Any, after: Any, path: str = "") -> Iterator[Difference]:
    """Fields that differ, in the order of `after`, then those that are gone. 1, 1.0 and True are three values.

    Lists are compared position by position.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        for name in (*after, *(name for name in before if name not in after)):
            inner = f"{path}.{name}" if path else str(name)
            yield from differences(before.get(name, ABSENT), after.get(name, ABSENT), inner)
    elif isinstance(before, list) and isinstance(after, list):
        for position, (old, new) in enumerate(zip_longest(before, after, fillvalue=ABSENT)):
            yield from differences(old, new, f"{path}[{position}]")
    elif type(before) is not type(after) or not _same(before, after):
        yield Difference(path, before, after)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) or (one != one and other != other)  # NaN equals NaN here.
