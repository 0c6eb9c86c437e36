"""How the lines of a file of candles are laid out: found out from its first lines, or said by the user.

Own files name their columns as `HEADER` does, and their times are epoch milliseconds. Others are recognised by their
header, or, without one, by how many columns they have and how their times look. Whatever was recognised or assumed is
said in a note: what is stored stays. Each candle is checked afterwards like any other (`plausible.py`), which also
finds columns that were taken for each other.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from backtest_kit_mongo.candles.columns import FIELDS
from backtest_kit_mongo.candles.file_times import UNITS, is_number
from backtest_kit_mongo.errors import CallerError

HEADER: Final = ("timestamp", *FIELDS)
SEPARATORS: Final = ",;\t|"
NO_VOLUME: Final = -1


class WrongFile(CallerError, ValueError):
    """A file of candles cannot be used; the message names file, line and column. Nothing of it was used."""


class Known(NamedTuple):
    """Files of one kind.

    Attributes:
        title: how the kind is called in messages.
        zone: of its times, where it does not say one; empty: not known, so UTC, which is said.
        by_date: its daily bars are of an exchange's day: their date is what is meant, not the moment.
    """

    title: str
    zone: str = ""
    by_date: bool = False


KNOWN: Final[Mapping[str, Known]] = {
    "own": Known("own files (timestamp, open, high, low, close, volume)"),
    "binance": Known("Binance Vision", zone="UTC"),
    "ccxt": Known("rows of ccxt or freqtrade", zone="UTC"),
    "cdd": Known("CryptoDataDownload", zone="UTC"),
    "dukascopy": Known("Dukascopy", zone="UTC"),
    "freqtrade": Known("freqtrade", zone="UTC"),
    "histdata": Known("HistData, Eastern Standard Time all year", zone="Etc/GMT+5"),
    "kraken": Known("Kraken OHLCVT", zone="UTC"),
    "mt5": Known("MetaTrader"),
    "tradingview": Known("TradingView"),
    "yahoo": Known("Yahoo Finance", by_date=True),
    "named": Known("columns by their names"),
}
"""What `--format` takes; `named` is whatever names its columns in an understandable way."""
TIME_NAMES: Final = (
    "timestamp", "unix", "unix timestamp", "open_time", "open time", "time", "datetime", "date", "gmt time",
    "local time", "index", "__index_level_0__",
)  # fmt: skip
SHORT: Final = {"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume", "vol": "volume", "adj close": ""}


@dataclass(frozen=True, slots=True)
class Said:
    """What the user says of a file; None: find it out.

    Attributes:
        kind: a name of `KNOWN`.
        columns: names of the columns in their order (`time`, `open`, ..; anything else is passed over), for a file
            without header, or `open=Opening price` for one with.
        unit: of numeric times: s, ms, us or ns.
        zone: of times that say none: a name as Europe/Berlin.
        separator: one character.
    """

    kind: str | None = None
    columns: str | None = None
    unit: str | None = None
    zone: str | None = None
    separator: str | None = None

    def __post_init__(self) -> None:
        """Raises:
        CallerError: there is no such format, unit, zone or separator.
        """
        if self.kind is not None and self.kind not in KNOWN:
            raise CallerError(f"--format must be one of {', '.join(KNOWN)}, not {self.kind!r:.40}")
        if self.unit is not None and self.unit not in UNITS:
            raise CallerError(f"--unit must be one of {', '.join(UNITS)}, not {self.unit!r:.40}")
        if self.separator is not None and len(self.separator) != 1:
            raise CallerError(f"--separator must be one character, not {self.separator!r:.40}")
        if self.zone is not None:
            zone_of(self.zone)


@dataclass(frozen=True, slots=True)
class Layout:
    """How to read the lines of one file.

    Attributes:
        head: lines before the first candle.
        times: the columns that make the time together: one, or a date and a time of day.
        values: the columns of `FIELDS`; the last may be `NO_VOLUME`.
        width: fields of a line.
        unit: of numeric times; None: by their size, each for itself.
        notes: what is to be said.
    """

    kind: str
    separator: str
    head: int
    times: tuple[int, ...]
    values: tuple[int, ...]
    width: int
    unit: str | None
    zone: ZoneInfo | None
    notes: tuple[str, ...] = field(default=())

    @property
    def by_date(self) -> bool:
        return KNOWN[self.kind].by_date

    def names(self) -> tuple[str, ...]:
        """What messages call the columns of `times` and `values`."""
        return ("timestamp",) * len(self.times) + FIELDS


def zone_of(name: str) -> ZoneInfo:
    """A time zone.

    Raises:
        CallerError: there is none of this name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as cause:
        raise CallerError(f"--timezone: no time zone {name!r:.60}; expected a name as Europe/Berlin or UTC") from cause


def layout_of(path: object, lines: Sequence[str], said: Said) -> Layout:
    """The layout of a file of which these are the first lines.

    Raises:
        WrongFile: it is none of those that are known, or not what the user says.
    """
    skipped = 1 if len(lines) > 1 and _is_banner(lines[0]) else 0
    if not any(line.strip() for line in lines[skipped:]):
        raise WrongFile(f"{path} begins with empty lines, or is empty: there is no candle in it.")
    first = lines[skipped]
    separator = said.separator or max(SEPARATORS, key=first.count)
    names = fields(first, separator)
    if _is_header(names):
        return _by_header(path, lines, skipped, separator, names, said)
    return _by_place(path, skipped, separator, names, said)


def fields(line: str, separator: str) -> list[str]:
    """The fields of a line, without quotation marks and blanks around them."""
    return [text.strip() for text in next(csv.reader([line.rstrip("\r\n")], delimiter=separator), [])]


def _is_banner(line: str) -> bool:
    return "http" in line.lower() or line.startswith("#")


def _is_header(names: Sequence[str]) -> bool:
    """Whether a line names columns: nothing in it is a number, and its first field is no date."""
    return any(re.search("[A-Za-z]", name) for name in names) and not any(
        is_number(name) or re.match(r"\d", name) for name in names
    )


def _by_header(
    path: object, lines: Sequence[str], skipped: int, separator: str, names: Sequence[str], said: Said
) -> Layout:
    plain = [name.strip("<>").lower() for name in names]
    head, kind = skipped + 1, said.kind
    if plain[:1] == ["price"] and len(lines) > head and lines[head].lower().startswith("ticker"):
        # yfinance writes two more lines of a header, and leaves the column of dates without a name in the first.
        head, plain[0], kind = head + 2, "date", kind or "yahoo"
    found = find_columns(path, plain, said)
    kind = kind or _kind_of(plain, skipped)
    notes = _notes(kind, found.notes)
    values = found.values
    if kind == "mt5" and "vol" in plain and "tickvol" in plain and "volume" not in _said_names(said):
        vol = plain.index("vol")
        is_zero = all(fields(line, separator)[vol : vol + 1] in (["0"], []) for line in lines[head:])
        values = (*values[:-1], plain.index("tickvol")) if is_zero else values
        notes += (f"volume is {'TICKVOL, because VOL is 0' if is_zero else 'VOL, not TICKVOL'}; --columns volume=..",)
    unit = said.unit or ("ms" if kind == "own" else None)
    return Layout(
        kind, separator, head, found.times, values, len(names), unit, _zone(kind, said), notes
    )  # fmt: skip


class Columns(NamedTuple):
    """Where the columns are."""

    times: tuple[int, ...]
    values: tuple[int, ...]
    notes: tuple[str, ...]


def find_columns(path: object, names: Sequence[str], said: Said) -> Columns:
    """Where the time and the values are, by lower-case names.

    Raises:
        WrongFile: one is not there, or there twice.
    """
    chosen = _said_names(said)
    notes: list[str] = []
    as_written = [SHORT.get(name, name) for name in names]
    if "time" in chosen:
        times: tuple[int, ...] = (_only(path, names, chosen["time"], needed=True),)
    else:
        times = _time_columns(path, as_written)
    values = []
    for name in FIELDS:
        wanted = chosen.get(name, name)
        place = _only(
            path, names if name in chosen else as_written, wanted, needed=name != "volume" or "timestamp" in names
        )
        values.append(place)
    if values[-1] == NO_VOLUME:
        values[-1], note = _volume_column(names)
        notes.append(note)
    return Columns(times, tuple(values), tuple(notes))


def _said_names(said: Said) -> dict[str, str]:
    pairs = (one.partition("=") for one in (said.columns or "").split(","))
    return {name.strip().lower(): column.strip(" <>").lower() for name, sign, column in pairs if sign}


def _time_columns(path: object, names: Sequence[str]) -> tuple[int, ...]:
    if "date" in names and "time" in names and "unix" not in names:
        return names.index("date"), names.index("time")
    for name in TIME_NAMES:
        if name in names:
            return (_only(path, names, name, needed=True),)
    raise _unknown(path, names, "timestamp")


def _only(path: object, names: Sequence[str], name: str, *, needed: bool) -> int:
    if names.count(name) > 1:
        raise WrongFile(f"{path}: two columns are named {name!r}. Say which is meant: --columns, or rename one.")
    if name in names:
        return names.index(name)
    if needed:
        raise _unknown(path, names, name)
    return NO_VOLUME


def _unknown(path: object, names: Sequence[str], name: str) -> WrongFile:
    return WrongFile(
        f"{path}: no column is named {name!r}. The first line must name the columns {', '.join(HEADER)}, in any order, "
        f"or be of a known kind ({', '.join(KNOWN)}); it has {', '.join(names)[:200] or 'nothing'}. Or say which they "
        f"are: --columns 'time=When,open=First,..'."
    )


def _volume_column(names: Sequence[str]) -> tuple[int, str]:
    """A column that is a volume though it is not called so, and what to say of it."""
    for place, name in enumerate(names):
        if name.startswith("volume "):  # CryptoDataDownload: of the base currency first.
            return place, f"volume is the column {name!r}"
    if "tickvol" in names:
        return names.index("tickvol"), "volume is the number of ticks (TICKVOL)"
    return NO_VOLUME, "it has no volume: 0 is stored"


def _kind_of(names: Sequence[str], skipped: int) -> str:
    if all(name in names for name in HEADER):
        return "own"
    if skipped or "unix" in names or any(name.startswith("volume ") for name in names):
        return "cdd"
    if "adj close" in names or "stock splits" in names:
        return "yahoo"
    if "tickvol" in names:
        return "mt5"
    return {"gmt time": "dukascopy", "local time": "dukascopy", "open_time": "binance", "time": "tradingview"}.get(
        names[0], "named"
    )


def _by_place(path: object, skipped: int, separator: str, first: Sequence[str], said: Said) -> Layout:
    kind = said.kind or _kind_of_row(first)
    # A time of day beside the date is a column of its own.
    times: tuple[int, ...] = (0, 1) if _has_clock(first) else (0,)
    places: tuple[int, ...] = ()
    if kind:
        places = tuple(range(len(times), len(times) + len(FIELDS)))
    if said.columns and "=" not in said.columns:
        times, places = _said_places(path, said.columns)
        kind = kind or "ccxt"
    if not places or len(first) <= max(*times, *places):
        raise WrongFile(
            f"{path}: the first line names no columns, and is not of a known kind ({', '.join(KNOWN)}): it has "
            f"{len(first)} fields: {separator.join(first)[:120]}. Say what they are: --columns "
            "time,open,high,low,close,volume."
        )
    notes = _notes(kind or "ccxt", ("it names no columns",))
    return Layout(
        kind or "ccxt", separator, skipped, times, places, len(first), said.unit,
        _zone(kind or "ccxt", said), notes,
    )  # fmt: skip


def _said_places(path: object, columns: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where the user says that times and values are."""
    order = [name.strip().lower() for name in columns.split(",")]
    times = ["date", "time"]
    if not {*times} <= {*order}:
        times = [next((name for name in ("time", "timestamp", "date") if name in order), "time")]
    if missing := [name for name in (*times, *FIELDS[:-1]) if name not in order]:
        raise WrongFile(f"{path}: --columns names no {', '.join(missing)}.")
    places = (order.index(name) if name in order else NO_VOLUME for name in FIELDS)
    return tuple(map(order.index, times)), tuple(places)


def _has_clock(first: Sequence[str]) -> bool:
    return len(first) > len(HEADER) and re.fullmatch(r"\d{1,2}:\d\d(:\d\d)?", first[1]) is not None


def _kind_of_row(first: Sequence[str]) -> str:
    """Which files without header have such lines; empty: none that is known."""
    if _has_clock(first) and re.fullmatch(r"\d{4}\.\d\d\.\d\d", first[0]):
        return "mt5"
    if len(first) == len(HEADER) and re.fullmatch(r"\d{8} \d{6}", first[0]):
        return "histdata"
    if not all(map(is_number, first)):
        return ""
    return {12: "binance", 11: "binance", 7: "kraken", 8: "kraken", 6: "ccxt"}.get(len(first), "")


def _zone(kind: str, said: Said) -> ZoneInfo | None:
    name = said.zone or KNOWN[kind].zone
    return zone_of(name) if name else None


def _notes(kind: str, found: Sequence[str]) -> tuple[str, ...]:
    return tuple(found) if kind == "own" else (f"read as {KNOWN[kind].title}", *found)
