"""The registries of this process, one per domain: which implementation serves which context.

Each has its domain's methods (`signatures.py`, `row_signatures.py`), `use_persist_<domain>_adapter(Ctor)`,
`use_json()`, `use_memory()`, `use_dummy()` and `clear()`; Memory, State, Dictionary and Session also `wait_for_init`
and `dispose`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from backtest_kit_mongo.adapters.registry import Factory, Registries, Registry
from backtest_kit_mongo.adapters.row_signatures import (
    PersistCandleRegistry as PersistCandleRegistry,
)
from backtest_kit_mongo.adapters.row_signatures import (
    PersistLogRegistry as PersistLogRegistry,
)
from backtest_kit_mongo.adapters.row_signatures import (
    PersistNotificationRegistry as PersistNotificationRegistry,
)
from backtest_kit_mongo.adapters.row_signatures import (
    PersistStorageRegistry as PersistStorageRegistry,
)
from backtest_kit_mongo.adapters.signatures import (
    PersistBreakevenRegistry as PersistBreakevenRegistry,
)
from backtest_kit_mongo.adapters.signatures import (
    PersistDictionaryRegistry as PersistDictionaryRegistry,
)
from backtest_kit_mongo.adapters.signatures import (
    PersistIntervalRegistry as PersistIntervalRegistry,
)
from backtest_kit_mongo.adapters.signatures import (
    PersistMeasureRegistry as PersistMeasureRegistry,
)
from backtest_kit_mongo.adapters.signatures import (
    PersistMemoryRegistry as PersistMemoryRegistry,
)
from backtest_kit_mongo.adapters.signatures import (
    PersistPartialRegistry as PersistPartialRegistry,
)
from backtest_kit_mongo.adapters.signatures import (
    PersistRecentRegistry as PersistRecentRegistry,
)
from backtest_kit_mongo.adapters.signatures import (
    PersistRiskRegistry as PersistRiskRegistry,
)
from backtest_kit_mongo.adapters.signatures import (
    PersistRunRegistry as PersistRunRegistry,
)
from backtest_kit_mongo.adapters.signatures import (
    PersistScheduleRegistry as PersistScheduleRegistry,
)
from backtest_kit_mongo.adapters.signatures import (
    PersistSessionRegistry as PersistSessionRegistry,
)
from backtest_kit_mongo.adapters.signatures import (
    PersistSignalRegistry as PersistSignalRegistry,
)
from backtest_kit_mongo.adapters.signatures import (
    PersistStateRegistry as PersistStateRegistry,
)
from backtest_kit_mongo.adapters.signatures import (
    PersistStrategyRegistry as PersistStrategyRegistry,
)

if TYPE_CHECKING:
    from backtest_kit_mongo.drivers.store import Store

__all__ = [
    "PersistBreakevenAdapter",
    "PersistCandleAdapter",
    "PersistDictionaryAdapter",
    "PersistIntervalAdapter",
    "PersistLogAdapter",
    "PersistMeasureAdapter",
    "PersistMemoryAdapter",
    "PersistNotificationAdapter",
    "PersistPartialAdapter",
    "PersistRecentAdapter",
    "PersistRiskAdapter",
    "PersistRunAdapter",
    "PersistScheduleAdapter",
    "PersistSessionAdapter",
    "PersistSignalAdapter",
    "PersistStateAdapter",
    "PersistStorageAdapter",
    "PersistStrategyAdapter",
    "read_candles",
    "use_store",
    "write_candles",
]

PersistCandleAdapter = PersistCandleRegistry()
PersistSignalAdapter = PersistSignalRegistry()
PersistScheduleAdapter = PersistScheduleRegistry()
PersistStrategyAdapter = PersistStrategyRegistry()
PersistRiskAdapter = PersistRiskRegistry()
PersistPartialAdapter = PersistPartialRegistry()
PersistBreakevenAdapter = PersistBreakevenRegistry()
PersistStorageAdapter = PersistStorageRegistry()
PersistNotificationAdapter = PersistNotificationRegistry()
PersistLogAdapter = PersistLogRegistry()
PersistMeasureAdapter = PersistMeasureRegistry()
PersistIntervalAdapter = PersistIntervalRegistry()
PersistMemoryAdapter = PersistMemoryRegistry()
PersistRecentAdapter = PersistRecentRegistry()
PersistStateAdapter = PersistStateRegistry()
PersistDictionaryAdapter = PersistDictionaryRegistry()
PersistSessionAdapter = PersistSessionRegistry()
PersistRunAdapter = PersistRunRegistry()

read_candles = PersistCandleAdapter.read_candles
write_candles = PersistCandleAdapter.write_candles

REGISTRIES = Registries(value for value in list(globals().values()) if isinstance(value, Registry))
"""All registries of the process, in the order of the domain table."""
for _registry in REGISTRIES:
    _registry.__module__ = __name__  # Where pickle finds it by its name.


def use_store(store: Store | Factory) -> None:
    """Serve every domain by this store from now on, or over a class that keeps values (`PersistBase`); `setup()`
    changes nothing of it.
    """
    for registry in REGISTRIES:
        registry.use(store)


def _forget_after_fork() -> None:
    for registry in REGISTRIES:
        registry.forget_after_fork()


os.register_at_fork(after_in_child=_forget_after_fork)
