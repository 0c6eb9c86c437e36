"""What is called as a class of values is, and makes values over other such classes; and what is asked of either."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from backtest_kit_mongo.backends.persist.base import PersistBase


class Wrapper(ABC):
    """A wrapper of classes of values. Equal if made of the same; pickled and copied by what it is made of."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Any, ...]:
        """The classes, or other wrappers, that hold the values; the first says which ids there are."""

    @abstractmethod
    def __call__(self, entity_name: str, base_dir: str) -> Any:
        """The values of an entity, with the methods of `PersistBase`."""


def innermost(maker: Any) -> Any:
    """The class that says which ids there are."""
    while isinstance(maker, Wrapper):
        maker = maker.parts[0]
    return maker


def needed(maker: Any) -> frozenset[str]:
    """Which servers of the settings are needed: `redis`, `mongo`, `postgres`."""
    if isinstance(maker, Wrapper):
        return frozenset().union(*map(needed, maker.parts))
    return frozenset(filter(None, [getattr(maker, "needs", "")]))


def lists_keys(maker: Any) -> bool:
    """Whether a class says which ids it has: one that takes its values elsewhere must say it itself."""
    maker = innermost(maker)
    keys = getattr(maker, "keys", None)
    inherits = issubclass(maker, PersistBase) and keys is PersistBase.keys
    return keys is not None and not (inherits and maker.read_value is not PersistBase.read_value)
