"""What strategies call: one registry for each domain, the instance behind it, and what another implementation must
offer.
"""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """The registries are found here too, as they were when this was one file."""
    if name == "REGISTRIES" or name.startswith("Persist"):
        return getattr(import_module("backtest_kit_mongo.adapters.registries"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
