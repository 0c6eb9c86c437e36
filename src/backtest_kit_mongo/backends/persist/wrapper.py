"""What is called as a class of values is, and makes values over another such class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Wrapper(ABC):
    """A wrapper of a class of values. Equal if made of the same; pickled and copied by what it is made of."""

    inner: Any
    """The class, or another wrapper, that holds the values and says which ids there are."""

    @abstractmethod
    def __call__(self, entity_name: str, base_dir: str) -> Any:
        """The values of an entity, with the methods of `PersistBase`."""


def innermost(maker: Any) -> Any:
    """The class itself."""
    while isinstance(maker, Wrapper):
        maker = maker.inner
    return maker
