"""The derived parts of `docs/domains.md`: keys, methods and places of each domain, and the fields of all payloads."""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.backends.files.layout import Level, layout
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.coherence.record import Domain, OnConflict, Shape
from backtest_kit_mongo.domains.payloads.base import Millis, Minutes, Price
from backtest_kit_mongo.domains.payloads.notifications import NOTIFICATION_VARIANTS
from backtest_kit_mongo.domains.table import DOMAINS

PAGE = Path(__file__).parents[1] / "docs" / "domains.md"
UNITS = ((Millis, "int, epoch ms"), (Minutes, "float, minutes (inf: no limit)"), (Price, "float"))


def page_text() -> str:
    """`docs/domains.md` as it should be: what stands between the marks is made anew."""
    blocks = {domain.name: _facts(domain) for domain in DOMAINS} | {"payloads": _payloads()}

    def filled(found: re.Match[str]) -> str:
        return f"<!-- derived: {found[1]} -->\n\n{blocks[found[1]]}\n<!-- end -->"

    return re.sub(r"<!-- derived: (\w+) -->\n.*?<!-- end -->", filled, PAGE.read_text("utf-8"), flags=re.S)


def _facts(domain: Domain) -> str:
    registry = REGISTRIES.of(domain)
    kind = type(registry)
    calls = [name for name in vars(kind) if not name.startswith(("_", "use_", "builtin"))]
    rules = [
        *(["removed softly: the document stays, marked"] if domain.has_removed else []),
        *(["not seen by reads at an earlier simulation time"] if domain.has_when else []),
        *(["the first write of a row wins"] if domain.on_conflict is OnConflict.KEEP else []),
    ]
    more = ", or blocks ([candles.md](candles.md#candles-in-files))" if domain.shape is Shape.SERIES else ""
    rows = [
        ("key", ", ".join(f"`{column.name}`" for column in domain.key)),
        ("adapter", f"`{registry.name}`: {', '.join(f'`{name}`' for name in calls)}"),
        ("payload", _type(domain.model)),
        ("nothing stored reads as", f"`{domain.empty()!r}`"),
        ("MongoDB", f"`{collection_of(domain)}`"),
        ("files", f"`{'/'.join(map(_level, layout(domain).levels))}.json`{more}"),
        *([("rules", "; ".join(rules))] if rules else []),
    ]
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {text} |\n" for name, text in rows)


def _level(level: Level) -> str:
    return level.literal or "_".join(f"{{{name}}}" for name in level.columns)


def _payloads() -> str:
    seen: dict[str, type[BaseModel]] = {}
    for domain in DOMAINS:
        _collect(domain.model, seen)
    parts = []
    for name, model in seen.items():
        hints, base = get_type_hints(model, include_extras=True), model.__mro__[1]
        rows = [
            f"| `{field.alias or own}`{' *' if field.is_required() else ''} | {_type(hints[own])} | "
            f"{field.description or ''} |\n"
            for own, field in model.model_fields.items()
            if base.__name__ not in seen or own not in base.model_fields
        ]
        more = f" Has all fields of {base.__name__}." if base.__name__ in seen else ""
        said = _wrapped(" ".join((model.__doc__ or "").split()) + more)
        table = f"\n\n| field | type | meaning |\n|---|---|---|\n{''.join(rows)}" if rows else "\n"
        parts.append(f"### {name}\n\n{said}{table}")
    variants = "".join(
        f"| `{name}` | {', '.join(f'`{field}`' for field in added)} |\n"
        for name, added in NOTIFICATION_VARIANTS.items()
    )
    return "\n".join(parts) + f"\n### Types of notifications\n\n| type | adds |\n|---|---|\n{variants}"


def _wrapped(text: str) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > 99:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


def _collect(annotation: Any, seen: dict[str, type[BaseModel]]) -> None:
    """Models in the order in which they are met, those of a model's fields behind it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation.__name__ not in seen:
            seen[annotation.__name__] = annotation
            for hint in get_type_hints(annotation, include_extras=True).values():
                _collect(hint, seen)
        return
    for one in get_args(annotation):
        _collect(one, seen)


def _type(annotation: Any) -> str:
    """An annotation for readers."""
    for alias, text in UNITS:
        if annotation == alias:
            return text
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, types.UnionType):
        kinds = [one for one in arguments if one is not type(None)]
        return " or ".join(map(_type, kinds))
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if origin in (list, tuple, dict):
        inside = [_type(one) for one in arguments]
        return f"{origin.__name__} of {' to '.join(inside) if origin is dict else ', '.join(inside)}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return "any JSON value" if annotation is Any else getattr(annotation, "__name__", str(annotation))


if __name__ == "__main__":
    PAGE.write_text(page_text(), "utf-8")
