"""What an encoding loses, put back: where the lossy places are is derived from the annotations of a payload.

Three kinds of loss, one mechanism:

========  =============================================  =====================================
kind      what comes back from the store                 which annotation marks the place
========  =============================================  =====================================
integer   a whole float: Node writes integers above      ``int``
          2**31 as BSON doubles
infinity  ``None``: JSON has no Infinity                 ``Annotated[float, NULL_IS_INFINITY]``
date      an ISO 8601 string: JSON has no dates          ``datetime``
========  =============================================  =====================================

A reader names the kinds that its encoding loses. MongoDB keeps Infinity and dates, and a null found there may stand
for a value that was never given; so only a reader of JSON asks for "infinity".
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache, reduce
from math import inf
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel

__all__ = ["NULL_IS_INFINITY", "Kind", "Restoration", "restoration", "restore"]

Kind: TypeAlias = Literal["integer", "infinity", "date"]

NULL_IS_INFINITY: Final = "null is infinity"
"""Marker for ``Annotated[float, ...]``: a null in JSON at this place was an Infinity."""


class _Loss(NamedTuple):
    seen_as: type
    revive: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Restoration:
    """What to restore in a value and below it; false when there is nothing.

    loss: of the value itself. leaves: losses of members of a dict, by stored name (flat, since a loop over them is
    most of a read's cost). branches: what is below such members. each: what is in and below every element of a list or
    every value of a dict with free keys.
    """

    loss: _Loss | None = None
    leaves: tuple[tuple[str, type, Callable[[Any], Any]], ...] = ()
    branches: tuple[tuple[str, "Restoration"], ...] = ()
    each: "Restoration | None" = None

    def __bool__(self) -> bool:
        return self.loss is not None or self.is_container

    @property
    def is_container(self) -> bool:
        """Whether there is something to restore below the value."""
        return bool(self.leaves or self.branches or self.each)


_NOTHING: Final = Restoration()
_ABSENT: Final = object()


def restore(value: Any, spec: Restoration) -> Any:
    """Restore a decoded payload in place and return it; what shows no loss is left as it is, absent keys stay absent.

    Only dicts and lists are walked: decoders produce no other containers.
    """
    if isinstance(value, dict):
        for name, seen_as, revive in spec.leaves:
            if type(held := value.get(name, _ABSENT)) is seen_as:
                value[name] = revive(held)
        for name, inner in spec.branches:
            if held := value.get(name):
                restore(held, inner)
        if (each := spec.each) is not None:
            for key, held in value.items():
                value[key] = restore(held, each)
    elif isinstance(value, list):
        if (each := spec.each) is not None:
            for index, held in enumerate(value):
                value[index] = restore(held, each)
    elif spec.loss is not None and type(value) is spec.loss.seen_as:
        return spec.loss.revive(value)
    return value


@cache
def restoration(tp: Any, *kinds: Kind) -> Restoration:
    """Where values of these kinds live in a payload type: a model, or lists, dicts, tuples and unions of models."""
    return _derive(tp, (), {kind: _LOSSES[kind] for kind in kinds})


def _derive(tp: Any, marks: tuple[Any, ...], losses: Mapping[Kind, _Loss]) -> Restoration:
    origin, args = get_origin(tp), get_args(tp)
    if origin is Annotated:
        return _derive(args[0], (*marks, *args[1:]), losses)
    if origin in (Union, UnionType):
        return _overlay(_derive(arm, marks, losses) for arm in args if arm is not NoneType)
    if origin is list or origin is dict:
        return Restoration(each=_derive(args[-1], (), losses) or None)
    if origin is tuple:
        return Restoration(each=_overlay(_derive(element, (), losses) for element in args) or None)
    if isinstance(tp, type) and issubclass(tp, BaseModel):
        return _derive_model(tp, losses)
    kind = _kind(tp, marks)
    return _NOTHING if kind is None or kind not in losses else Restoration(losses[kind])


def _derive_model(model: type[BaseModel], losses: Mapping[Kind, _Loss]) -> Restoration:
    members = [
        (field.alias or name, _derive(field.annotation, tuple(field.metadata), losses))
        for name, field in model.model_fields.items()
    ]
    return Restoration(
        leaves=tuple((name, *inner.loss) for name, inner in members if inner.loss is not None),
        branches=tuple((name, inner) for name, inner in members if inner.is_container),
    )


def _kind(tp: Any, marks: tuple[Any, ...]) -> Kind | None:
    if tp is int:
        return "integer"
    if tp is datetime:
        return "date"
    return "infinity" if tp is float and NULL_IS_INFINITY in marks else None


def _overlay(specs: Iterable[Restoration]) -> Restoration:
    """The arms of a union, or the elements of a tuple, in one spec; an int in any of them counts for all."""
    return reduce(_merge, specs, _NOTHING)


def _merge(one: Restoration, other: Restoration) -> Restoration:
    branches = dict(one.branches)
    for name, inner in other.branches:
        branches[name] = _merge(branches.get(name, _NOTHING), inner)
    return Restoration(
        one.loss or other.loss,
        tuple({leaf[0]: leaf for leaf in (*one.leaves, *other.leaves)}.values()),
        tuple(branches.items()),
        _merge(one.each, other.each) if one.each and other.each else one.each or other.each,
    )


def _revive_integer(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def _revive_infinity(_: None) -> float:
    return inf


def _revive_date(value: str) -> datetime | str:
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return value


_LOSSES: Final[dict[Kind, _Loss]] = {
    "integer": _Loss(float, _revive_integer),
    "infinity": _Loss(NoneType, _revive_infinity),
    "date": _Loss(str, _revive_date),
}
