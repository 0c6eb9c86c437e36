"""Combinations of parameters: a grid, a list, or a function that draws them."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from difflib import get_close_matches
from functools import partial
from itertools import islice, product
from typing import Any, Final, TypeAlias

import numpy as np

from backtest_kit.declare import Strategy
from backtest_kit.errors import DeclarationError

__all__ = ["Params", "Sampler", "combinations", "parse_param", "require_taken", "with_params"]

Value: TypeAlias = bool | int | float | str | None
Params: TypeAlias = Mapping[str, Value]
Sampler: TypeAlias = Callable[[random.Random], Params]

COUNT_MAX: Final = 1_000_000
"""More combinations than that are a mistake."""


def combinations(
    params: Mapping[str, Iterable[Value]] | Iterable[Params] | Sampler | None, samples: int | None = None
) -> list[dict[str, Value]]:
    """All combinations, each once, in the order in which they were given.

    Args:
        params: a dict of lists (every combination of them), a list of dicts (those), a function that draws one from the
            `random.Random` that it is given, or None: the strategy's own defaults.
        samples: how many a function draws. It is seeded with their count alone, so a repeated call draws the same.

    Raises:
        DeclarationError: there is none, a value is no plain number, text, bool or None, or there are too many.
    """
    if (samples is not None) is not callable(params):
        raise DeclarationError("samples= says how often a function draws parameters; give both or neither")
    if params is None:
        return [{}]
    found: dict[tuple[Any, ...], dict[str, Value]] = {}
    for one in _drawn(params, samples or 0):
        checked = {_name(name): _plain(name, value) for name, value in one.items()}
        found.setdefault(tuple((name, type(value), value) for name, value in sorted(checked.items())), checked)
        if len(found) > COUNT_MAX:
            raise DeclarationError(f"there are more than {COUNT_MAX:,} combinations of parameters. Nothing was run.")
    if not found:
        raise DeclarationError("there is no combination of parameters: a list of values is empty. Nothing was run.")
    return list(found.values())


def _drawn(params: Any, samples: int) -> Iterator[Params]:
    if callable(params):
        source = random.Random(samples)
        yield from (_mapping(params(source)) for _ in range(samples))
    elif isinstance(params, Mapping):
        for name, values in params.items():
            if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
                raise DeclarationError(
                    f"params[{name!r}] is {values!r:.60}; a grid takes a list of values for each name"
                )
        # One more than are allowed is enough to refuse them, of ten million or of an iterator without an end.
        lists = {name: list(islice(values, COUNT_MAX + 1)) for name, values in params.items()}
        if math.prod(map(len, lists.values())) > COUNT_MAX:
            raise DeclarationError(f"there are more than {COUNT_MAX:,} combinations of parameters. Nothing was run.")
        yield from (dict(zip(lists, values, strict=True)) for values in product(*lists.values()))
    elif isinstance(params, Iterable) and not isinstance(params, (str, bytes)):
        yield from map(_mapping, params)
    else:
        raise DeclarationError(f"params is a dict of lists, a list of dicts or a function, not {params!r:.60}")


def _mapping(one: Any) -> Params:
    if not isinstance(one, Mapping):
        raise DeclarationError(f"a combination of parameters is a dict, not {one!r:.60}")
    return one


def _name(name: object) -> str:
    if not isinstance(name, str) or not name.isidentifier():
        raise DeclarationError(f"a parameter's name is one that Python takes as an argument, not {name!r:.60}")
    return name


def _plain(name: str, value: Any) -> Value:
    plain = value.item() if isinstance(value, np.generic) else value
    if plain is not None and type(plain) not in (bool, int, float, str):
        raise DeclarationError(
            f"parameter {name} is {value!r:.60}; a run is known by numbers, texts, bools and None. Nothing was run."
        )
    if isinstance(plain, float) and not math.isfinite(plain):
        raise DeclarationError(f"parameter {name} is {value!r}; only finite numbers can be compared. Nothing was run.")
    found: Value = plain
    return found


def require_taken(strategy: Strategy, params: Iterable[Params]) -> None:
    """Raises:
    DeclarationError: get_signal does not take a parameter.
    """
    try:
        taken = list(inspect.signature(strategy.get_signal).parameters.values())[1:]
    except (TypeError, ValueError):
        return  # Written in C: it cannot be asked.
    takes_any = any(one.kind is one.VAR_KEYWORD for one in taken)
    named = {one.name: one for one in taken if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    for one in params:
        for name in one:
            if name not in named and not takes_any:
                near = get_close_matches(name, named, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(named) or 'none'}."
                raise DeclarationError(
                    f"strategy {strategy.name!r} does not take a parameter {name!r}; {hint} Write it as an argument "
                    f"of get_signal after ctx, with a default: def {strategy.name}(ctx, {name}=..). Nothing was run."
                )


def with_params(strategy: Strategy, params: Params) -> Strategy:
    """The strategy with values for its parameters; it keeps its name."""
    if not params:
        return strategy
    found = copy(strategy)  # `replace` would examine the function again, for each of ten thousand runs.
    object.__setattr__(found, "get_signal", partial(strategy.get_signal, **params))
    return found


# -- as an option: fast=5..20:5


def parse_param(text: str) -> tuple[str, Sequence[Value]]:
    """A parameter and its values from `fast=5,10,20`, `fast=5..20:5`, `stop=0.5..2:0.5`, `side=long,short`,
    `trail=true,false`.

    Both ends of a range belong to it; without a step it is 1.

    Raises:
        DeclarationError: it is none of these.
    """
    name, equals, values = text.partition("=")
    if not equals or not name.strip() or not values.strip():
        raise DeclarationError(f"--param {text!r:.80}: write NAME=VALUES, as fast=5..20:5 or fast=5,10,20")
    if ".." in values:
        return _name(name.strip()), _range(text, values)
    return _name(name.strip()), [_value(one.strip()) for one in values.split(",") if one.strip()]


def _value(text: str) -> Value:
    words: dict[str, Value] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _range(text: str, values: str) -> Sequence[Value]:
    ends, _, step_text = values.partition(":")
    first_text, _, last_text = ends.partition("..")
    numbers = [_value(one.strip()) for one in (first_text, last_text, step_text or "1")]
    first, last, step = numbers
    if any(isinstance(one, (str, bool)) or one is None for one in numbers):
        raise DeclarationError(f"--param {text!r:.80}: a range is FROM..TO or FROM..TO:STEP in numbers")
    assert isinstance(first, (int, float))
    assert isinstance(last, (int, float))
    assert isinstance(step, (int, float))
    if step <= 0 or last < first:
        raise DeclarationError(f"--param {text!r:.80}: a range goes up, by a step above 0")
    count = int((last - first) / step + 1e-9) + 1
    if count > COUNT_MAX:
        raise DeclarationError(f"--param {text!r:.80}: that is {count:,} values")
    if all(isinstance(one, int) for one in numbers):
        return list(range(int(first), int(last) + 1, int(step)))
    return [float(f"{first + index * step:.12g}") for index in range(count)]
