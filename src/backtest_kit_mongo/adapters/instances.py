"""The built-in instances by name: `StateInstance(store, "signal", "bucket")` binds one context of a domain to a store.

They are made of the signatures in `registries.py`; their methods are those of `contracts.py`.
"""

from __future__ import annotations

from typing import Any

from backtest_kit_mongo.adapters.candle_instance import CandleInstance as CandleInstance
from backtest_kit_mongo.adapters.registries import REGISTRIES


def __getattr__(name: str) -> Any:
    for registry in REGISTRIES:
        if getattr(registry.builtin, "__name__", "") == name:
            return registry.builtin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
