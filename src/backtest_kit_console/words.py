"""Values as people read them on a page. What comes from a database may be of any type and hold any text."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

import redis
from bson import json_util
from markupsafe import Markup, escape
from pymongo.errors import ExecutionTimeout, PyMongoError

from backtest_kit_mongo.coherence.showing import visible
from backtest_kit_mongo.operate.doctor.findings import duration
from backtest_kit_mongo.settings import Settings

__all__ = ["FILTERS", "address", "iso", "json_text", "millis_of", "now_ms", "said"]

TEXT_MAX: Final = 400
"""Characters of a value in a table; a page of the value itself has all of it."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def millis_of(value: Any) -> float | None:
    """A moment as epoch ms; None for what is none."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * 1000
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def moment(value: Any, empty: str = "-") -> Markup:
    """A moment in UTC, to the second."""
    found = millis_of(value)
    if found is None:
        return escape(visible(empty if value is None else cut(value)))
    try:
        at = datetime.fromtimestamp(found / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return escape(f"{found:.0f} ms")
    return Markup('<time datetime="{}">{}</time>').format(f"{at:%Y-%m-%dT%H:%M:%SZ}", f"{at:%Y-%m-%d %H:%M:%S}")


def minute(value: Any) -> Markup:
    """A moment in UTC, to the minute."""
    found = millis_of(value)
    try:
        at = None if found is None else datetime.fromtimestamp(found / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        at = None
    if at is None:
        return moment(value)
    return Markup('<time datetime="{}">{}</time>').format(f"{at:%Y-%m-%dT%H:%MZ}", f"{at:%Y-%m-%d %H:%M}")


def hour(value: Any) -> Markup:
    """A moment in UTC as time of the day, the day under it."""
    found = minute(value)
    day, _, time_of_day = found.striptags().partition(" ")
    return Markup('{}<span class="under">{}</span>').format(time_of_day, day) if time_of_day else found


def valued(value: Any) -> Markup:
    """A value of a payload; a number that is a moment is also shown as one."""
    shown = escape(visible(cut(value)))
    is_moment = isinstance(value, int) and not isinstance(value, bool) and 10**12 <= value < 4 * 10**12
    return Markup('{} <span class="of">{}</span>').format(shown, moment(value)) if is_moment else shown


def coded(text: str) -> Markup:
    """A sentence in which commands stand between backticks."""
    pieces = [escape(visible(piece)) for piece in text.split("`")]
    if len(pieces) % 2 == 0:
        return escape(visible(text))
    return Markup("").join(Markup("<code>{}</code>").format(one) if at % 2 else one for at, one in enumerate(pieces))


def behind(value: float | None) -> str:
    """A lag in words."""
    return "-" if value is None else duration(value) if value else "not behind"


def iso(value: float) -> str:
    """A moment for the script of a page."""
    return datetime.fromtimestamp(value / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def ago(value: Any) -> str:
    """How long ago a moment was."""
    found = millis_of(value)
    if found is None:
        return "-"
    passed = now_ms() - found
    return "just now" if abs(passed) < 1000 else f"{duration(passed)} ago" if passed > 0 else f"in {duration(-passed)}"


def number(value: Any) -> str:
    """A count, or a statistic with two places."""
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:,.2f}" if isinstance(value, float) and math.isfinite(value) else cut(value)


def price(value: Any) -> str:
    """A price, with the digits that it has."""
    if value is None:
        return "-"
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return f"{value:,.10g}"
    return cut(value)


def size(value: float | None) -> str:
    """Bytes."""
    if value is None:
        return "-"
    for unit, bytes_of in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= bytes_of:
            return f"{value / bytes_of:,.1f} {unit}"
    return f"{value:,.0f} bytes"


def cut(value: Any, count: int = TEXT_MAX) -> str:
    """Any value in a line; a long one ends with how long it is."""
    text = value if isinstance(value, str) else json_text(value)
    return text if len(text) <= count else f"{text[:count]}... ({len(text):,} characters)"


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as Extended JSON, which can say infinity, dates and bytes."""
    try:
        return json_util.dumps(
            value, ensure_ascii=False, indent=indent, json_options=json_util.RELAXED_JSON_OPTIONS, default=repr
        )
    except (TypeError, ValueError, RecursionError, OverflowError):
        return repr(value)


def address(path: str, given: Mapping[str, Any] | None = None, **more: Any) -> str:
    """A link: `given` with `more`; what is None or empty is left out."""
    left = {name: value for name, value in {**(given or {}), **more}.items() if value not in (None, "")}
    return f"{path}?{urlencode(left)}" if left else path


def said(cause: BaseException, settings: Settings) -> str:
    """What went wrong with a server, without the secrets that a driver's own text may quote."""
    if isinstance(cause, redis.RedisError):
        return f"Redis at {settings.redis_address} did not answer as it should: {type(cause).__name__}"
    if isinstance(cause, ExecutionTimeout):
        return "MongoDB did not find it in the time that a page may take. Name a symbol, or another time."
    if isinstance(cause, PyMongoError):
        return f"MongoDB at {settings.mongo_address} did not answer as it should: {type(cause).__name__}"
    return str(cause) or type(cause).__name__


FILTERS: Final = {
    "moment": moment, "ago": ago, "number": number, "price": price, "size": size, "cut": cut, "duration": duration,
    "visible": visible, "minute": minute, "valued": valued, "coded": coded, "behind": behind,
    "json": json_text, "hour": hour,
}  # fmt: skip
"""Of the templates."""
