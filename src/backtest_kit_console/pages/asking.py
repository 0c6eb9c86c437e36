"""What a page is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from backtest_kit_console.live import Live
from backtest_kit_console.sources import Sources

__all__ = ["ROWS", "Answer", "Asked", "Download", "Paged", "Show", "paged"]

T = TypeVar("T")
ROWS: Final = 50
"""Of a table on one page."""


class Answer(NamedTuple):
    """A template and its values."""

    template: str
    values: Mapping[str, Any] = {}
    status: int = 200


class Download(NamedTuple):
    """A file; its name is of ASCII."""

    name: str
    content: bytes
    kind: str


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        query: what stands after the question mark, of a name the last.
        form_value: what a form must carry, so that no other page can send it.
    """

    sources: Sources
    live: Live
    query: Mapping[str, str] = field(default_factory=dict)
    form_value: str = ""

    def text(self, name: str) -> str:
        """What people type."""
        return self.query.get(name, "").strip()

    def exact(self, name: str) -> str:
        """What links of this server carry: a stored name may begin or end with a space."""
        return self.query.get(name, "")

    def whole(self, name: str, default: int, most: int = 1_000_000) -> int:
        """A whole number from 0 to `most`; what is none is the default."""
        text = self.text(name)
        return min(int(text), most) if text.isdecimal() and len(text) < 20 else default


Show: TypeAlias = Callable[[Asked], Answer | Download]


class Paged(NamedTuple, Generic[T]):
    """A part of a list.

    Attributes:
        first: number of the first row, from 0.
        total: of all rows; None: they are not counted.
        has_more: of those that are not, whether there are further ones.
    """

    rows: Sequence[T]
    first: int
    total: int | None
    has_more: bool = False

    @property
    def before(self) -> int | None:
        """Where the page before begins."""
        return max(0, self.first - ROWS) if self.first else None

    @property
    def after(self) -> int | None:
        end = self.first + len(self.rows)
        return end if (self.has_more if self.total is None else end < self.total) else None


def paged(rows: Sequence[T], asked: Asked) -> Paged[T]:
    """The part that `from=` names."""
    first = min(asked.whole("from", 0), max(0, len(rows) - 1))
    return Paged(rows[first : first + ROWS], first, len(rows))
