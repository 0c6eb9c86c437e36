"""Import paths of earlier releases: they go on working, and say once what to write instead."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

from backtest_kit_mongo import locks

__all__ = ["MOVED", "install"]

logger = locks.logger(__name__)

PACKAGE: Final = __name__.rpartition(".")[0]
MOVED: Final = {
    f"{PACKAGE}.{old}": new if new.startswith("backtest_kit_verify") else f"{PACKAGE}.{new}"
    for old, new in {
        "auditor": "operate.cache_check",
        "backends.ports": "ports",
        "bound": "adapters.bound",
        "candle_instance": "adapters.candle_instance",
        "candles.compaction": "operate.compaction",
        "candles.fetching": "operate.fetching",
        "chaos": "backtest_kit_verify.chaos",
        "contracts": "adapters.contracts",
        "crud": "collections.crud",
        "demo": "backtest_kit_verify.demo",
        "cli.park": "cli.dead_letters",
        "cli.servers": "cli.embedded",
        "doctor": "operate.doctor",
        "drivers.flights": "drivers.single_flight",
        "drivers.sync": "drivers.store",
        "embedded.servers": "embedded.pair",
        "feed.consume.feed": "feed.consume.change_feed",
        "feed.parked": "feed.dead_letters",
        "feed.servers": "feed.opened",
        "instances": "adapters.instances",
        "registry": "adapters.registry",
        "simulation": "backtest_kit_verify.simulation",
        "stream": "feed.consume",
        "testing.spots": "testing.handles",
        "top": "operate.top",
    }.items()
}
"""Old module or package, and where it is now; what was below an old package is below the new one."""


class _Alias(Loader):
    """The module under its new name, also found under the old one."""

    def __init__(self, target: str) -> None:
        self._target = target

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        found = importlib.import_module(self._target)
        self._own = found.__spec__
        logger.warning("%s has moved: import %s", spec.name, self._target)
        return found

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = (
            self._own
        )  # It was executed under its own name; the import system has just put the alias there.


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(PACKAGE):
            return None
        head, tail = fullname, ""
        while head not in MOVED:
            head, dot, last = head.rpartition(".")
            if not dot:
                return None
            tail = f".{last}{tail}"
        return ModuleSpec(fullname, _Alias(MOVED[head] + tail))


def install() -> None:
    """Look here first: below an alias the usual finders would load a module a second time."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
