"""The ground of all payload models: how strict they are, their scalar types, checking and dumping.

A payload is checked on its way into the store and then stored exactly as the caller gave it. Absence is tolerated,
contradiction is not: engine versions share databases and differ in which fields exist, so a live bot must not lose a
state write over a missing field; a wrong type, an unknown enum value or a non-finite price is refused. Unknown fields
are kept.

Python names are snake_case, stored names camelCase; checking and dumping speak stored names.
"""

from functools import cache
from math import inf
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, Strict, TypeAdapter
from pydantic.alias_generators import to_camel

from backtest_kit_mongo.coherence.codec import dump
from backtest_kit_mongo.coherence.restoring import NULL_IS_INFINITY

__all__ = ["Millis", "Minutes", "Payload", "Position", "Price", "check", "dump"]

Millis: TypeAlias = Annotated[int, Strict()]
"""Epoch milliseconds; never a float, not even a whole one."""

Price: TypeAlias = Annotated[float, Strict(), Field(allow_inf_nan=False)]
"""A finite price in quote currency."""

Minutes: TypeAlias = Annotated[float, Strict(), Field(gt=-inf), NULL_IS_INFINITY]
"""Minutes, Infinity meaning "no timeout"; NaN and -Infinity are refused."""

Position: TypeAlias = Literal["long", "short"]
"""Direction of a trade."""


class Payload(BaseModel):
    """A stored object: strict types, unknown fields kept, Python names snake_case, stored names camelCase."""

    model_config = ConfigDict(strict=True, extra="allow", alias_generator=to_camel, populate_by_name=True)


def check(tp: Any, payload: object) -> None:
    """Check a payload of stored names against a model, or against any annotation of models.

    Nothing is returned on purpose: what gets stored is the caller's own data, not a coerced copy.

    Raises:
        pydantic.ValidationError: with every field that does not fit.
    """
    _adapter(tp).validate_python(payload)


@cache
def _adapter(tp: Any) -> TypeAdapter[Any]:
    brings_own_config = isinstance(tp, type) and issubclass(tp, BaseModel)
    return TypeAdapter(tp) if brings_own_config else TypeAdapter(tp, config=ConfigDict(strict=True))
