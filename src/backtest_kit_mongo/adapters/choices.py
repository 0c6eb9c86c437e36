"""What adapters were set to use, in a form that travels to other processes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from importlib import import_module
from operator import attrgetter
from typing import Any

from backtest_kit_mongo import stores
from backtest_kit_mongo.adapters.registry import Choice, Registry
from backtest_kit_mongo.errors import NotSetUp


def of(registries: Iterable[Registry]) -> dict[str, str | bytes]:
    """What adapters were set to use, by name; an own implementation is named by the place of its definition, or
    pickled if it is an object.
    """
    return {registry.name: _travelling(registry.choice) for registry in registries if registry.choice is not None}


def _travelling(choice: Choice) -> str | bytes:
    if isinstance(choice, str):
        return choice
    if hasattr(choice, "__qualname__"):
        return f"{choice.__module__}:{choice.__qualname__}"
    try:
        return pickle.dumps(choice)
    except Exception:
        return f":{type(choice).__qualname__}"


def choose(registries: Iterable[Registry], named: dict[str, str | bytes]) -> None:
    """Tell adapters the same, unless they were set in this process."""
    for registry in registries:
        choice = named.get(registry.name)
        if choice is None or registry.choice is not None:
            continue
        if isinstance(choice, bytes):
            registry.use_adapter(_unpickled(registry.name, choice))
            continue
        if ":" not in choice:
            if choice == "memory":
                stores.inherit_memory()
            {"json": registry.use_json, "memory": registry.use_memory, "dummy": registry.use_dummy}[choice]()
            continue
        module, _, name = choice.partition(":")
        try:
            registry.use_adapter(attrgetter(name)(import_module(module)))
        except (ImportError, AttributeError, ValueError):
            registry.use_adapter(_refusal(registry.name, choice))


def _unpickled(adapter: str, choice: bytes) -> Any:
    try:
        return pickle.loads(choice)
    except Exception as cause:
        return _refusal(adapter, f"it ({cause!r:.100})")


def _refusal(adapter: str, choice: str) -> Callable[..., Any]:
    def refuse(*context: str) -> Any:
        raise NotSetUp(
            f"the process that started this one uses an implementation of its own for {adapter}, and {choice} cannot "
            "be found here. Nothing was read or written. Choose one in this process too."
        )

    return refuse
