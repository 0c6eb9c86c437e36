"""Positions: what is open, of all strategies and hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from backtest_kit_console.board import Position
from backtest_kit_console.live import OPEN_MAX

from .asking import ROWS, Answer, Asked, paged

__all__ = ["show"]

NAMES: Final = ("symbol", "strategy", "exchange")
CHOICES_MAX: Final = 50
"""Names in a list to choose from; of more, one is typed."""
NOT_YET: Final = "The positions are not read yet; this page will show them, or load it again."


def show(asked: Asked) -> Answer:
    every, version = asked.live.positions()
    chosen = {name: asked.exact(name) for name in NAMES if asked.text(name)}
    shown = [one for one in every if all(getattr(one, name) == wanted for name, wanted in chosen.items())]
    waiting = sum(one.is_waiting for one in every)
    values = {
        "page": paged(shown, asked),
        "chosen": chosen,
        "choices": {name: _choices(every, name) for name in NAMES},
        "rows_max": ROWS,
        "open": len(every) - waiting,
        "waiting": waiting,
        "since": f"{asked.live.epoch}-{version}",
        "trouble": asked.live.trouble or ("" if asked.live.read_ms else NOT_YET),
        "read_ms": asked.live.read_ms,
        "is_cut": len(every) >= OPEN_MAX,
    }
    return Answer("positions.html", values)


def _choices(every: Sequence[Position], name: str) -> list[str]:
    """What can be chosen; nothing if it is too much for a list."""
    found = sorted({getattr(one, name) for one in every})
    return found if len(found) <= CHOICES_MAX else []
