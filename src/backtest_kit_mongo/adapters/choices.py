"""What adapters were set to use, in a form that travels to other processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from operator import attrgetter
from typing import Any

from backtest_kit_mongo import stores
from backtest_kit_mongo.adapters.registry import Registry
from backtest_kit_mongo.errors import NotSetUp


def of(registries: Iterable[Registry]) -> dict[str, str]:
    """What adapters were set to use, by name; an own implementation is named by the place of its definition."""
    named = {}
    for registry in registries:
        choice = registry.choice
        if choice is not None:
            place = f"{getattr(choice, '__module__', '')}:{getattr(choice, '__qualname__', type(choice).__qualname__)}"
            named[registry.name] = choice if isinstance(choice, str) else place
    return named


def choose(registries: Iterable[Registry], named: dict[str, str]) -> None:
    """Tell adapters the same, unless they were set in this process."""
    for registry in registries:
        choice = named.get(registry.name)
        if choice is None or registry.choice is not None:
            continue
        if ":" not in choice:
            if choice == "memory":
                stores.inherit_memory()
            {"json": registry.use_json, "memory": registry.use_memory, "dummy": registry.use_dummy}[choice]()
            continue
        module, _, name = choice.partition(":")
        try:
            registry.use_adapter(attrgetter(name)(import_module(module)))
        except (ImportError, AttributeError):
            registry.use_adapter(_refusal(registry.name, choice))


def _refusal(adapter: str, choice: str) -> Callable[..., Any]:
    def refuse(*context: str) -> Any:
        raise NotSetUp(
            f"the process that started this one uses an implementation of its own for {adapter}, and {choice} cannot "
            "be found here. Nothing was read or written. Choose one in this process too."
        )

    return refuse
