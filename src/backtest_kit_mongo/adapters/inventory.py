"""What this process's adapters have, domain by domain."""

from __future__ import annotations

from typing import NamedTuple

from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.adapters.registry import selection
from backtest_kit_mongo.coherence.inventory import Census
from backtest_kit_mongo.coherence.record import Part
from backtest_kit_mongo.errors import InvalidKey

__all__ = ["Held", "inventory"]


class Held(NamedTuple):
    """What there is of a domain.

    Attributes:
        domain: its name.
        where: the store that has it, or the implementation that serves it.
        census: how much; None where nobody can tell.
    """

    domain: str
    where: str
    census: Census | None


def inventory(**where: Part) -> list[Held]:
    """How much there is of each domain now, through the adapters as they are set up; documents themselves are given by
    each adapter's `entries()` and `list_contexts()`.

    Args:
        where: only documents with these key columns, as `symbol="BTC/USDT"`; domains without them are left out.

    Raises:
        EnvironmentFault: a server or disk failed.
    """
    found = []
    for registry in REGISTRIES:
        try:
            chosen = selection(registry.domain, where)
        except InvalidKey:
            continue
        store = registry.store
        census = None if store is None else store.census(registry.domain, chosen)
        found.append(Held(registry.domain.name, registry.serves, census))
    return found
