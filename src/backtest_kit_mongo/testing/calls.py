"""Every domain through its registry: one way to read a document and one to write it, derived from the signatures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.adapters.registry import Registry
from backtest_kit_mongo.adapters.verbs import Call
from backtest_kit_mongo.coherence.record import Domain, Part, Shape
from backtest_kit_mongo.drivers.store import Store

Parts = tuple[Part, ...]
use_registry: Callable[[Registry], Any] = lambda registry: registry  # noqa: E731
"""How tests use a registry: as it is, or with `--bkm-aio` as an event loop does."""


@dataclass(frozen=True, slots=True)
class Calls:
    """How users of a domain reach it; `parts` is the whole key in key order."""

    domain: Domain

    def over(self, store: Store) -> Any:
        """A registry of its own, so that those of the process stay as they are."""
        registry = type(REGISTRIES.of(self.domain))()
        registry.use_store(lambda: store)
        return use_registry(registry)

    def read(self, registry: Any, parts: Parts, when: Any) -> Any:
        """One document; of a series the window of one row."""
        if self.domain.shape is Shape.SERIES:
            moment: Any = parts[3]
            return registry.read_candles_data(parts[1], parts[2], parts[0], 1, moment, moment + 1)
        if self.domain.shape is not Shape.LIST:
            return self._call(registry, "read", parts, when=when)
        rows = self._call(registry, "read_rows", parts)
        return next((row for row in rows if row[self.domain.row_id] == parts[-1]), None)

    def write(self, registry: Any, payload: Any, parts: Parts, when: Any) -> None:
        if self.domain.shape is Shape.SERIES:
            registry.write_candles_data([payload], parts[1], parts[2], parts[0])
        elif self.domain.shape is Shape.LIST:
            self._call(registry, "write_rows", parts, payload=[payload])
        else:
            self._call(registry, "write", parts, payload=payload, when=when)

    def _call(self, registry: Any, verb: str, parts: Parts, **more: Any) -> Any:
        call = call_of(registry, verb)
        assert call is not None
        return getattr(registry, call.name)(**call.arguments(parts, **more))


def call_of(registry: Registry, verb: str) -> Call | None:
    """The registry's method for a verb; None if it has none."""
    return next((call for call in registry.calls.values() if call.verb.name == verb), None)


def calls(domain: Domain) -> Calls:
    """How users of a domain reach it."""
    return Calls(domain)


def domains_with(*verbs: str) -> tuple[Domain, ...]:
    """Those whose registries have a method for one of these verbs."""
    return tuple(one.domain for one in REGISTRIES if any(call_of(one, verb) for verb in verbs))
