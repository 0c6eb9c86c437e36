"""Times in files of candles: numbers of any unit and dates as people write them, as epoch milliseconds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

UNITS: Final = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
"""Milliseconds of each."""
DAY_MS: Final = 86_400_000
_SIZES: Final = ((1e8, 1e10, "s"), (1e11, 1e13, "ms"), (1e14, 1e16, "us"), (1e17, 1e19, "ns"))
"""From 1973 on no two of them overlap."""
_ZONE: Final = re.compile(r" ?(?:GMT|UTC)?(?P<offset>[+-]\d\d:?\d\d)$| ?(?:GMT|UTC|Z)$")
_HOUR: Final = re.compile(r" (?P<hour>\d{1,2})-(?P<half>AM|PM)$")


class NotATime(ValueError):
    """A text is no time, or may be two.

    Attributes:
        row: which.
    """

    def __init__(self, row: int, said: str) -> None:
        super().__init__(said)
        self.row = row


class Times(NamedTuple):
    """Open times of a file.

    Attributes:
        ms: epoch milliseconds.
        note: what was found out or assumed; empty: nothing.
    """

    ms: NDArray[np.float64]
    note: str = ""


NO_ZONE: Final = "its times have no zone and are taken as UTC; --timezone says otherwise"


class Dates(NamedTuple):
    """Times that were written as dates.

    Attributes:
        times: epoch milliseconds.
        has_zone: they say their zone.
    """

    times: NDArray[np.float64]
    has_zone: bool


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_date(text: str) -> bool:
    """Whether a text is a date rather than a number: eight digits are a date."""
    return not is_number(text) or re.fullmatch(r"(19|2[01])\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])", text) is not None


def of_numbers(numbers: NDArray[np.float64], unit: str | None) -> tuple[NDArray[np.float64], str]:
    """Numbers as milliseconds, and which units they are in; without a unit each has the one that its size says.

    Raises:
        NotATime: the size of one says no unit.
    """
    if unit is not None:
        return _scaled(numbers, unit), unit
    found, units = numbers.copy(), []
    unknown = np.ones(len(numbers), np.bool_)
    for low, high, name in _SIZES:
        chosen = (numbers >= low) & (numbers < high)
        unknown &= ~chosen
        if chosen.any():
            found[chosen] = _scaled(numbers[chosen], name)
            units.append(name)
    if unknown.any():
        row = int(np.argmax(unknown))
        raise NotATime(row, f"{float(numbers[row]):.17g} is no time in {', '.join(UNITS)} since 1970")
    return found, " and ".join(units)


def read_numbers(numbers: NDArray[np.float64], unit: str | None) -> Times:
    """`of_numbers`, with the note."""
    found, units = of_numbers(numbers, unit)
    return Times(found, "" if unit is not None or units in ("", "ms") else f"its times are in {units}")


def joined(parts: Sequence[Dates], *, is_zone_known: bool) -> Times:
    """Dates of one file, with the note."""
    has_zone = is_zone_known or all(part.has_zone for part in parts)
    return Times(np.concatenate([part.times for part in parts]), "" if has_zone else NO_ZONE)


def _scaled(numbers: NDArray[np.float64], unit: str) -> NDArray[np.float64]:
    # A nanosecond count is beyond what a float holds exactly, by less than a millisecond.
    return np.rint(numbers * UNITS[unit]) if UNITS[unit] < 1 else numbers * UNITS[unit]


def of_dates(texts: Sequence[str], zone: ZoneInfo | None, *, by_date: bool) -> Dates:
    """Dates as milliseconds. Without a zone of their own they are of `zone`, or UTC.

    Args:
        by_date: what is meant is the date, whatever its zone: midnight UTC of it, where all are at midnight.

    Raises:
        NotATime: one is none, or day and month cannot be told apart.
    """
    ordered = _order(texts)
    moments = []
    for row, text in enumerate(texts):
        try:
            moments.append(datetime.fromisoformat(ordered(text.strip())))
        except ValueError:
            raise NotATime(row, f"{text.strip()!r:.60} is not a time") from None
    has_zone = all(moment.tzinfo is not None for moment in moments)
    if by_date and not any((moment.hour, moment.minute, moment.second) != (0, 0, 0) for moment in moments):
        moments = [moment.replace(tzinfo=UTC) for moment in moments]
    own = zone or UTC
    aware = [moment if moment.tzinfo is not None else moment.replace(tzinfo=own) for moment in moments]
    return Dates(np.array([moment.timestamp() * 1000 for moment in aware], np.float64), has_zone)


def _order(texts: Sequence[str]) -> Callable[[str], str]:
    """How a date of these is brought into ISO order: by the first, and where that does not tell, by all of them."""
    first = texts[0].strip() if texts else ""
    if re.match(r"\d{1,2}[./-]\d{1,2}[./-]\d{4}", first):
        return _month_first if not _is_day_first(texts) else _day_first
    return _year_first


def _is_day_first(texts: Sequence[str]) -> bool:
    if "." in texts[0][:3]:
        return True  # Who writes dots writes the day first.
    pairs = {tuple(map(int, re.findall(r"\d+", text)[:2])) for text in texts}
    is_day, is_month = any(pair[0] > 12 for pair in pairs), any(pair[1] > 12 for pair in pairs if len(pair) > 1)
    if is_day == is_month:
        raise NotATime(0, f"{texts[0].strip()!r:.60}: day and month cannot be told apart; write dates as 2024-01-31")
    return is_day


def _year_first(text: str) -> str:
    if found := _HOUR.search(text):
        hour = int(found["hour"]) % 12 + (12 if found["half"] == "PM" else 0)
        text = f"{text[: found.start()]} {hour:02}:00"
    date, rest = (text[:10].replace(".", "-").replace("/", "-"), text[10:]) if not text[:8].isdigit() else (
        text[:8], text[8:]
    )  # fmt: skip
    zone = _ZONE.search(rest)
    offset = "" if zone is None else zone["offset"] or "+00:00"
    clock = (rest if zone is None else rest[: zone.start()]).strip(" T")
    if clock.isdigit() and len(date) == 8:
        return f"{date}T{clock.zfill(6)}{offset}"
    if len(date) == 8:
        date = f"{date[:4]}-{date[4:6]}-{date[6:]}"
    return f"{date}T{clock or '00:00'}{offset}"


def _day_first(text: str) -> str:
    day, month, year, rest = _parts(text)
    return _year_first(f"{year}-{month:0>2}-{day:0>2}{rest}")


def _month_first(text: str) -> str:
    month, day, year, rest = _parts(text)
    return _year_first(f"{year}-{month:0>2}-{day:0>2}{rest}")


def _parts(text: str) -> tuple[str, str, str, str]:
    found = re.match(r"(\d{1,2})[./-](\d{1,2})[./-](\d{4})(.*)", text)
    if found is None:
        raise ValueError(text)
    return found[1], found[2], found[3], found[4]
