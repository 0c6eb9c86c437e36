"""Curves as SVG text. Pure functions; colours are CSS classes of the page around them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Marker", "Plot", "thinned"]

WIDTH: Final = 1000
LEFT: Final = 64
RIGHT: Final = 12
BOTTOM: Final = 22
TOP: Final = 8
POINTS_MAX: Final = 1600
STEPS: Final = (1, 2, 2.5, 5, 10)
HOUR_MS: Final = 3_600_000
TIME_STEPS_MS: Final = tuple(
    hours * HOUR_MS for hours in (1 / 60, 1 / 12, 0.25, 0.5, 1, 2, 4, 8, 12, 24, 48, 168, 336, 720, 2160, 8760)
)

Values = NDArray[Any]


class Marker(NamedTuple):
    """A trade on the price: from its entry to its exit.

    Attributes:
        start, end: epoch ms.
        kind: CSS class: win or loss.
        is_long: which way the entry points.
        text: shown when the pointer rests on it.
    """

    start: int
    price_open: float
    end: int
    price_close: float
    kind: str
    is_long: bool
    text: str


def thinned(at: Values, value: Values, points_max: int = POINTS_MAX) -> tuple[Values, Values]:
    """Fewer points that look the same: lowest and highest of each stretch, in their order."""
    if len(at) <= points_max:
        return at, value
    edges = np.linspace(0, len(at), points_max // 2 + 1).astype(int)
    kept = sorted(
        {int(begin + index) for begin, end in pairwise(edges) for index in _ends(value[begin:end])} | {0, len(at) - 1}
    )
    return at[kept], value[kept]


def _ends(part: Values) -> tuple[int, int]:
    return int(part.argmin()), int(part.argmax())


class Plot:
    """One picture with a time axis.

    Args:
        span: first and last moment, epoch ms.
        low, high: range of the values.
    """

    def __init__(self, title: str, height: int, span: tuple[int, int], low: float, high: float) -> None:
        self.title, self.height, self.span = title, height, span
        margin = (high - low) * 0.04 or max(abs(high), 1) * 0.01
        self.low, self.high = low - margin, high + margin
        self._parts: list[str] = []
        self._axes()

    def x(self, at: Any) -> Any:
        return LEFT + (at - self.span[0]) / max(1, self.span[1] - self.span[0]) * (WIDTH - LEFT - RIGHT)

    def y(self, value: Any) -> Any:
        return TOP + (self.high - value) / (self.high - self.low) * (self.height - TOP - BOTTOM)

    def line(self, at: Values, value: Values, kind: str, *, is_stepped: bool = False) -> None:
        self._parts.append(f'<path class="{kind}" d="{self._path(at, value, is_stepped)}"/>')

    def area(self, at: Values, value: Values, kind: str, *, base: float = 0.0) -> None:
        """A stepped curve, filled down or up to `base`."""
        edge = f"L{self.x(at[-1]):.1f} {self.y(base):.1f}L{self.x(at[0]):.1f} {self.y(base):.1f}Z"
        self._parts.append(f'<path class="{kind}" d="{self._path(at, value, True)}{edge}"/>')

    def _path(self, at: Values, value: Values, is_stepped: bool) -> str:
        xs, ys = self.x(at.astype(float)), self.y(value)
        words = [f"M{xs[0]:.1f} {ys[0]:.1f}"]
        for x, y in zip(xs[1:].tolist(), ys[1:].tolist(), strict=True):
            words.append(f"H{x:.1f}V{y:.1f}" if is_stepped else f"L{x:.1f} {y:.1f}")
        return "".join(words)

    def band(self, since: float, until: float, kind: str) -> None:
        """A stretch of time, over the whole height."""
        x, width = self.x(since), max(1.0, self.x(until) - self.x(since))
        self._parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{TOP}" width="{width:.1f}" height="{self.height - TOP - BOTTOM}"/>'
        )

    def candle(self, since: float, until: float, prices: tuple[float, float, float, float]) -> None:
        """A candle: open, high, low, close. A body that is flat is a line."""
        opened, high, low, close = prices
        left, right = self.x(since), self.x(until)
        middle, width = (left + right) / 2, max(1.0, (right - left) * 0.7)
        top, bottom = self.y(max(opened, close)), self.y(min(opened, close))
        self._parts.append(
            f'<g class="{"up" if close >= opened else "down"}"><path d="M{middle:.1f} {self.y(high):.1f}'
            f'V{self.y(low):.1f}"/><rect x="{middle - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{max(1.0, bottom - top):.1f}"/></g>'
        )

    def point(self, at: float, value: float, kind: str, text: str) -> None:
        """A place on the curve; `text` is shown when the pointer rests on it."""
        self._parts.append(
            f'<circle class="{kind}" cx="{self.x(at):.1f}" cy="{self.y(value):.1f}" r="5"><title>{escape(text)}</title>'
            "</circle>"
        )

    def moment(self, at: float, kind: str, text: str, *, is_left: bool | None = None) -> None:
        """A moment with a name, over the whole height.

        Args:
            is_left: where the name stands; None: on the side that has room.
        """
        x = self.x(at)
        anchor, beside = ("end", x - 6) if (x > WIDTH / 2 if is_left is None else is_left) else ("start", x + 6)
        self._parts.append(
            f'<path class="{kind}" d="M{x:.1f} {TOP}V{self.height - BOTTOM}"/>'
            f'<text class="{kind}" x="{beside:.1f}" y="{TOP + 12}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def marks(self, markers: Sequence[Marker]) -> None:
        for one in markers:
            x, y, x2, y2 = self.x(one.start), self.y(one.price_open), self.x(one.end), self.y(one.price_close)
            tip = y - 7 if one.is_long else y + 7
            self._parts.append(
                f'<g class="{one.kind}"><title>{escape(one.text)}</title><path d="M{x:.1f} {y:.1f}L{x2:.1f} {y2:.1f}"/>'
                f'<polygon points="{x - 4:.1f},{y:.1f} {x + 4:.1f},{y:.1f} {x:.1f},{tip:.1f}"/>'
                f'<circle cx="{x2:.1f}" cy="{y2:.1f}" r="3"/></g>'
            )

    def _axes(self) -> None:
        for value in _ticks(self.low, self.high, max(2, self.height // 55)):
            y = self.y(value)
            self._parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            self._parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:,.10g}</text>')
        for at, text in _time_ticks(*self.span):
            x = self.x(at)
            self._parts.append(f'<text x="{x:.1f}" y="{self.height - 6}" text-anchor="middle">{text}</text>')

    def svg(self) -> str:
        inner = "".join(self._parts)
        return (
            f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{escape(self.title)}" '
            f'xmlns="http://www.w3.org/2000/svg">{inner}</svg>'
        )


def _ticks(low: float, high: float, count: int) -> Iterator[float]:
    rough = (high - low) / count
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next((one * scale for one in STEPS if one * scale >= rough), 10 * scale)
    first = math.ceil(low / step)
    for index in range(first, math.floor(high / step) + 1):
        yield index * step


def _time_ticks(since: int, until: int) -> Iterator[tuple[int, str]]:
    step = next((one for one in TIME_STEPS_MS if (until - since) / one <= 8), TIME_STEPS_MS[-1])
    form = "%H:%M" if until - since <= 36 * HOUR_MS else "%m-%d %H:%M" if step < 24 * HOUR_MS else "%Y-%m-%d"
    at = math.ceil(since / step) * step
    while at <= until:
        if (at - since) > 0.04 * (until - since) and (until - at) > 0.04 * (until - since):
            yield int(at), datetime.fromtimestamp(at / 1000, UTC).strftime(form)
        at += step
