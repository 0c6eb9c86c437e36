"""The ground of all payload models: how strict they are, their scalar types, checking and dumping.

A payload is checked on its way into the store and then stored exactly as the caller gave it. Absence is tolerated,
contradiction is not: engine versions share databases and differ in which fields exist, so a live bot must not lose a
state write over a missing field; a wrong type, an unknown enum value or a non-finite price is refused. Unknown fields
are kept.

Python names are snake_case, stored names camelCase; checking and dumping speak stored names. A dict with a Python name
would be checked under one name and found under another, so it is refused.
"""

from functools import cache
from math import inf
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, Strict, TypeAdapter, ValidationInfo, model_validator
from pydantic.alias_generators import to_camel, to_snake
from pydantic_core import PydanticCustomError

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


AS_STORED: Final = {"names": "as stored"}
"""Context of a check: names are those that will be stored. A constructor takes Python names instead."""


class Payload(BaseModel):
    """A stored object: strict types, unknown fields kept, Python names snake_case, stored names camelCase."""

    model_config = ConfigDict(strict=True, extra="allow", alias_generator=to_camel, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _stored_names_only(cls, data: Any, info: ValidationInfo) -> Any:
        if info.context is AS_STORED and isinstance(data, dict) and not _renamed(cls).keys().isdisjoint(data):
            given, stored = next((name, stored) for name, stored in _renamed(cls).items() if name in data)
            raise PydanticCustomError(
                "python_name", "{given}: the stored name is {stored}", {"given": given, "stored": stored}
            )
        return data


@cache
def _renamed(model: type[BaseModel]) -> dict[str, str]:
    """Python names that are not stored names, with the names that are."""
    stored = {name: field.alias or name for name, field in model.model_fields.items()}
    spelled = stored | {to_snake(alias): alias for alias in stored.values()}
    return {name: alias for name, alias in spelled.items() if name not in stored.values()}


def check(tp: Any, payload: object) -> None:
    """Check a payload of stored names against a model, or against any annotation of models.

    Nothing is returned on purpose: what gets stored is the caller's own data, not a coerced copy.

    Raises:
        pydantic.ValidationError: with every field that does not fit.
    """
    adapter(tp).validate_python(payload, context=AS_STORED)


@cache
def adapter(tp: Any) -> TypeAdapter[Any]:
    """What validates a model, or any annotation of models; with the context `AS_STORED` under stored names only."""
    brings_own_config = isinstance(tp, type) and issubclass(tp, BaseModel)
    return TypeAdapter(tp) if brings_own_config else TypeAdapter(tp, config=ConfigDict(strict=True))
