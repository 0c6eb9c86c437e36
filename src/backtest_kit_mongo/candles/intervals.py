"""The intervals of candles, and where their candles open.

An interval is one of `INTERVALS`, perhaps with an offset: `1d+16h` are days that open at 16:00 UTC, `1h+30m` hours that
open at half past. Candles of another offset are another series, so two kinds of days never mix in one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from backtest_kit_mongo.errors import InvalidKey

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_Times = TypeVar("_Times", int, "NDArray[np.int64]")

_UNIT_MS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000}
INTERVAL_MS: Final = {
    name: int(name[:-1]) * _UNIT_MS[name[-1]]
    for name in ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d")
} | {"1w": 7 * _UNIT_MS["d"]}
"""Candle intervals of one length, and their lengths in ms."""
MONTH: Final = "1M"
MONTH_MS: Final = 2_629_746_000
"""A month's mean length, a twelfth of 365.2425 days."""
MONTH_MAX_MS: Final = 31 * _UNIT_MS["d"]
MONDAY_MS: Final = 4 * _UNIT_MS["d"]
"""Weeks open on Mondays, and the epoch was a Thursday."""
_OFFSET: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_NAME_MAX: Final = 32


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the candles of an interval open. All times are epoch ms, one or an array.

    Attributes:
        step_ms: length of a candle. A month's is its mean, for estimates only.
        offset_ms: where the first one opens, counted from the epoch.
    """

    name: str
    step_ms: int
    offset_ms: int = 0

    def index(self, times: _Times) -> _Times:
        """Number of the candle in which each moment lies."""
        return (times - self.offset_ms) // self.step_ms

    def open(self, index: _Times) -> _Times:
        """Open times of candles, by their numbers."""
        return index * self.step_ms + self.offset_ms

    def after(self, times: _Times) -> _Times:
        """The next open times after open times: where those candles end."""
        return times + self.step_ms

    def rest(self, times: _Times) -> _Times:
        """How far moments lie behind the open time before them; 0 at open times."""
        return (times - self.offset_ms) % self.step_ms

    @property
    def longest_ms(self) -> int:
        """Length of the longest candle."""
        return self.step_ms

    def floor(self, moment: int) -> int:
        """The last open time that is not after a moment."""
        return moment - self.rest(moment)

    def ceil(self, moment: int) -> int:
        """The first open time that is not before a moment."""
        return self.open(self.index(moment - 1) + 1)

    def shift(self, opens_at: int, count: int) -> int:
        """The open time so many candles after one."""
        return self.open(self.index(opens_at) + count)

    def count(self, since: int, until: int) -> int:
        """How many candles open in [since, until)."""
        return max(0, self.index(until - 1) - self.index(since - 1))

    def times(self, since: int, until: int) -> NDArray[np.int64]:
        """All open times in [since, until), ascending."""
        import numpy as np

        first = self.index(since - 1) + 1
        return self.open(np.arange(first, first + self.count(since, until), dtype=np.int64))

    @property
    def said(self) -> str:
        """In words where its candles open."""
        if not self.offset_ms:
            return f"a multiple of {self.step_ms:,} ms ({self.name})"
        return f"a multiple of {self.step_ms:,} ms plus {self.offset_ms:,} ms ({self.name})"


@dataclass(frozen=True, slots=True)
class _Months(Grid):
    """Candles that open on the first of each month, UTC. Here the number of a candle is that of its month."""

    def index(self, times: _Times) -> _Times:
        import numpy as np

        # NumPy for single moments too: `datetime` ends with the year 9999, a range without an end does not.
        return _as(times, np.asarray(times, np.int64).astype("M8[ms]").astype("M8[M]").astype(np.int64))

    def open(self, index: _Times) -> _Times:
        import numpy as np

        return _as(index, np.asarray(index, np.int64).astype("M8[M]").astype("M8[ms]").astype(np.int64))

    def after(self, times: _Times) -> _Times:
        return self.open(self.index(times) + 1)

    def rest(self, times: _Times) -> _Times:
        return times - self.open(self.index(times))

    @property
    def longest_ms(self) -> int:
        return MONTH_MAX_MS

    @property
    def said(self) -> str:
        return f"the first of a month, 00:00 UTC ({self.name})"


def _as(given: _Times, array: Any) -> _Times:
    found: Any = array if getattr(given, "shape", None) else int(array)
    return found  # type: ignore[no-any-return]  # As what was given: one moment, or an array.


ANYWHERE: Final = Grid("any", 1)
"""Rows may lie at any moment."""
ALONE: Final = Grid("unknown", 0)
"""No row is another's neighbour: of an interval that only a newer release knows."""


@lru_cache(maxsize=256)
def find_grid(name: str) -> Grid | None:
    """The grid of an interval; None if there is none of this name. A grid has one name: `1d+24h` is none."""
    if name == MONTH:
        return _Months(MONTH, MONTH_MS)
    base, plus, offset = name.partition("+")
    step_ms = INTERVAL_MS.get(base, 0)
    if not step_ms or len(name) > _NAME_MAX:
        return None
    first_ms = MONDAY_MS if base == "1w" else 0
    if not plus:
        return Grid(name, step_ms, first_ms)
    found = _OFFSET.fullmatch(offset)
    parts = zip(_UNIT_MS.values(), found.groups(), strict=True) if found else ()
    offset_ms = sum(unit_ms * int(part) for unit_ms, part in parts if part)
    if not 0 < offset_ms < step_ms or with_offset(base, offset_ms) != name:
        return None
    return Grid(name, step_ms, first_ms + offset_ms)


def with_offset(base: str, offset_ms: int) -> str:
    """The name of the interval whose candles open so much later than those of `base`, whole seconds."""
    text = ""
    for unit, unit_ms in _UNIT_MS.items():
        count, offset_ms = divmod(offset_ms, unit_ms)
        text += f"{count}{unit}" if count else ""
    return f"{base}+{text}" if text else base


def grid_of(name: object) -> Grid:
    """Where the candles of an interval open.

    Raises:
        InvalidKey: there is no such interval.
    """
    if (found := find_grid(name) if isinstance(name, str) else None) is None:
        raise InvalidKey(f"{REFUSED}, not {name!r:.40}")
    return found


class _Intervals(frozenset[str]):
    """The intervals without an offset. `in` knows those with one too."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and find_grid(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter((*INTERVAL_MS, MONTH))


INTERVALS: Final = _Intervals((*INTERVAL_MS, MONTH))
REFUSED: Final = f"the interval must be one of {', '.join(INTERVALS)}, or one with an offset such as 1d+16h"
