"""What is given as a document of a user's own collection, and what is stored of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from pydantic import BaseModel, ValidationError

from backtest_kit_mongo.coherence.codec import dump
from backtest_kit_mongo.errors import InvalidPayload, InvalidSetting

Row = dict[str, Any]
REMOVED = "removed"
"""The field that a soft removal sets."""
NAME_MAX_BYTES = 250
"""MongoDB's limit for a name with its database's is 255, of which the database and the dot take at least two."""


def fields_of(dto: Mapping[str, Any] | BaseModel) -> Row:
    """By name, without the id."""
    data = dump(dto) if isinstance(dto, BaseModel) else dict(dto)
    return {name: value for name, value in data.items() if name not in ("id", "_id")}


def _agreed(given: Any, checked: Any) -> Any:
    """What is stored: the value as given where the model took it as it is, otherwise what the model made of it."""
    plain = checked.value if isinstance(checked, Enum) else checked
    return given if plain == given else plain


def now() -> datetime:
    """As MongoDB stores it."""
    exact = datetime.now(UTC)
    return exact.replace(microsecond=exact.microsecond // 1000 * 1000)


def name_fault(name: Any) -> str | None:
    """Why MongoDB would take it for no name of a user's collection. Reported when it is given, not at the first use."""
    if not isinstance(name, str) or not name:
        return "it must be a text that is not empty"
    if len(name.encode(errors="replace")) > NAME_MAX_BYTES:
        return f"it is longer than {NAME_MAX_BYTES} bytes"
    if "\0" in name or "$" in name:
        return "it holds a zero byte or $"
    if name.startswith((".", "system.")) or name.endswith(".") or ".." in name:
        return "its dots leave a part empty, or it begins with system."
    return None


def checked(collection: str, model: type[BaseModel] | None, dto: Mapping[str, Any] | BaseModel) -> tuple[Row, Row]:
    """The given fields as the model has them, because what was checked is what is stored, and its defaults of the
    others. Fields that it does not know stay as given.

    Raises:
        InvalidPayload.
    """
    fields = fields_of(dto)
    if operators := [name for name in fields if name.startswith("$")]:
        raise InvalidPayload(f"{collection}: names of fields begin with $: {operators}. Nothing was written.")
    if model is None:
        return fields, {}
    for name, field in model.model_fields.items():
        stored = field.serialization_alias or name
        if name in fields and stored != name:
            raise InvalidPayload(f"{collection}: {name}: the stored name is {stored}. Nothing was written.")
    try:
        valid = model.model_validate(fields)
    except ValidationError as cause:
        raise InvalidPayload(
            f"{collection}: {cause.errors(include_url=False, include_input=False)}. Nothing was written."
        ) from cause
    every = {name: getattr(valid, name) for name in model.model_fields}
    whole = fields_of(dump(valid.model_copy(update=every)))  # What is a default is not left out.
    given = {name: _agreed(value, whole.get(name, value)) for name, value in fields.items()}
    return given, {name: value for name, value in whole.items() if name not in fields}


def key_of(unique: Sequence[str] | str, model: type[BaseModel] | None) -> tuple[str, ...]:
    """The fields that no two documents may have in common.

    Raises:
        InvalidSetting: they are no names of fields, or none of the model's.
    """
    names: tuple[Any, ...] = (unique,) if isinstance(unique, str) else tuple(unique)
    known = None if model is None else {field.serialization_alias or name for name, field in model.model_fields.items()}
    for name in names:
        if not isinstance(name, str) or not name or "." in name or name.startswith("$") or names.count(name) > 1:
            raise InvalidSetting(f"unique: {name!r:.40} is no name of a field, or is there twice")
        if known is not None and name not in known:
            raise InvalidSetting(f"unique: the model stores no {name!r:.40}, but {', '.join(sorted(known))}")
    return names
