"""What a process hands down to those that it starts: children keep their data where their parent does.

`fork` copies everything. With `spawn` (macOS, Windows) and `forkserver` (Linux from Python 3.14 on) a child begins from
nothing, so settings and choices travel with the process object that `multiprocessing` sends it through a pipe, secrets
included: never by the environment, which other programs and crash reports show. Joblib, loky and `ProcessPoolExecutor`
    start their workers this way too.

A program started otherwise (`subprocess`, Ray, Celery) gets a mark in its environment, without any secret, so that it
can refuse to keep files that nobody will look at.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing import process
from typing import Any, Final

Estate = dict[str, Any]
"""Plain data; empty if there is nothing to hand down."""
NAME: Final = "backtest_kit_mongo"
MARK: Final = "BACKTEST_KIT_MONGO_SET_UP"
"""Environment variable: which MongoDB the parent's adapters use."""


class _Will:
    """Travels in the configuration that each process object hands to its children, as `multiprocessing`'s own key does.
    Pickled when a process is started; at the other end it is plain data, for which nothing of this package is imported.
    """

    give: Callable[[], Estate] = dict
    receive: Callable[[Estate], object] = bool
    inherited: Estate = {}  # noqa: RUF012 - replaced, never changed.

    def __reduce__(self) -> tuple[type[Estate], tuple[Estate]]:
        return dict, (self.give() or self.inherited,)


_will = _Will()


def hand_down(give: Callable[[], Estate], receive: Callable[[Estate], None]) -> None:
    """From now on children inherit what `give` returns when they are started; `receive` gets what this process
    inherits.
    """
    _will.give, _will.receive = give, receive
    config: dict[str, Any] = process.current_process()._config  # type: ignore[attr-defined]
    config.setdefault(
        NAME, _will
    )  # What this process inherits itself is there already, or comes with its process object.


def accept() -> None:
    """Receive what this process has inherited, once."""
    config: dict[str, Any] = process.current_process()._config  # type: ignore[attr-defined]
    found = config.get(NAME)
    config[NAME] = _will
    if isinstance(found, dict) and found:
        _will.inherited = found
        _will.receive(found)


def mark(address: str | None) -> None:
    """Let programs that this one starts know where its adapters keep their data."""
    if address is None:
        os.environ.pop(MARK, None)
    else:
        os.environ[MARK] = address
