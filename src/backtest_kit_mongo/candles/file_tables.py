"""Rows of numbers from the text of CSV files, not yet checked: where columns are, and which row was which line."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np
from numpy.typing import NDArray

from backtest_kit_mongo.candles import file_times
from backtest_kit_mongo.candles.columns import FIELDS
from backtest_kit_mongo.candles.layouts import NO_VOLUME, Layout, Said, WrongFile, fields, layout_of

LINES_MAX: Final = 50_000
"""Lines parsed at once: what a file needs beyond its columns stays at some megabytes."""
HEAD: Final = 4
"""Lines by which a file is recognised."""
PIPE: Final = Path("-")
"""Standard input."""

Where = Callable[[int], str]
"""How a reader finds a row of the file again, for messages."""


@dataclass(frozen=True, slots=True)
class Table:
    """A file's rows before they are checked: a float64 column for each of HEADER, and which of `FIELDS` are
    integers.
    """

    arrays: Sequence[NDArray[np.float64]]
    integers: int


def wrong_at(path: Path, where: Where, row: int, column: str, what: str) -> WrongFile:
    """The error to raise for a value of a file."""
    return WrongFile(f"{path}, {where(row)}, column {column}: {what}. Nothing of this file was used.")


# -- CSV


def read_csv(path: Path, said: Said, on_note: Callable[[str], object]) -> tuple[Table, Where]:
    """A file of lines, perhaps packed (gz, or zip with one file in it), or standard input.

    Raises:
        WrongFile: nobody knows how its lines are to be read, a column is missing, or a field is no number.
        OSError, EOFError, UnicodeDecodeError, zlib.error, BadZipFile: it cannot be read.
    """
    with _text(path) as file:
        first_lines = list(islice(file, HEAD))
        layout = layout_of(path, first_lines, said)
        lines_left = chain(first_lines[layout.head :], file)
        blocks, numbers = [np.empty((0, len(FIELDS)))], [np.empty(0, np.int64)]
        times: list[file_times.Dates | NDArray[np.float64]] = []
        integers = (1 << len(FIELDS)) - 1
        first = layout.head + 1
        while lines := list(islice(lines_left, LINES_MAX)):
            kept = [index for index, line in enumerate(lines) if not line.isspace()]
            filled = lines if len(kept) == len(lines) else [lines[index] for index in kept]
            numbers.append(np.array(kept, np.int64) + first)
            moments, values = _parsed(path, filled, numbers[-1], layout)
            times.append(moments)
            blocks.append(values)
            integers = _still_integers(integers, blocks[-1], filled, layout)
            first += len(lines)
    of_row = np.concatenate(numbers)
    try:
        found = _as_ms(times, layout)
    except file_times.NotATime as cause:
        raise wrong_at(path, _line, int(of_row[cause.row]), "timestamp", str(cause)) from None
    for note in (*layout.notes, found.note):
        if note:
            on_note(note)
    return Table((found.ms, *np.concatenate(blocks).T.copy()), integers), lambda row: _line(of_row[row])


def _as_ms(times: Sequence[file_times.Dates | NDArray[np.float64]], layout: Layout) -> file_times.Times:
    dates = [part for part in times if isinstance(part, file_times.Dates)]
    if dates:
        return file_times.joined(dates, is_zone_known=layout.zone is not None)
    numbers = [part for part in times if not isinstance(part, file_times.Dates)]
    return file_times.read_numbers(np.concatenate([np.empty(0), *numbers]), layout.unit)


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    """The file's text; a byte order mark is not part of it."""
    name = path.name.lower()
    with ExitStack() as stack:
        raw: Any
        if path == PIPE:
            raw = io.BufferedReader(io.BytesIO(sys.stdin.buffer.read()))
        elif name.endswith(".zip"):
            archive = stack.enter_context(zipfile.ZipFile(path))
            raw = stack.enter_context(archive.open(only_member(path, archive)))
        elif name.endswith(".gz"):
            raw = stack.enter_context(gzip.open(path))
        else:
            raw = stack.enter_context(path.open("rb"))
        is_wide = raw.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # As MetaTrader and Excel write them.
        yield stack.enter_context(io.TextIOWrapper(raw, encoding="utf-16" if is_wide else "utf-8-sig"))


def only_member(path: Path, archive: zipfile.ZipFile) -> str:
    """The one file of an archive.

    Raises:
        WrongFile: there are none or several.
    """
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]
    if len(names) != 1:
        raise WrongFile(f"{path} holds {len(names)} files ({', '.join(names)[:200]}): unpack it, and import those.")
    return names[0]


def _parsed(
    path: Path, lines: Sequence[str], numbers: NDArray[np.int64], layout: Layout
) -> tuple[file_times.Dates | NDArray[np.float64], NDArray[np.float64]]:
    """The times and the values of lines. NumPy's parser reads the same float64 as Python's, in compiled code."""
    if not lines:
        return np.empty(0), np.empty((0, len(FIELDS)))
    places = tuple(place for place in layout.values if place != NO_VOLUME)
    texts = _date_texts(lines, layout)
    if all(line.count(layout.separator) == layout.width - 1 for line in lines):
        try:
            rows = _loaded(lines, places if texts else (*layout.times, *places), layout)
        except ValueError:
            rows = np.empty((0, 0))
        if len(rows) == len(lines):  # A quote that is not closed takes the next line in.
            if len(places) < len(FIELDS):
                rows = np.column_stack((rows, np.zeros(len(rows))))
            return (_dates(path, texts, numbers, layout), rows) if texts else (rows[:, 0].copy(), rows[:, 1:])
    raise _explained(path, lines, numbers, layout, has_dates=bool(texts))


def _date_texts(lines: Sequence[str], layout: Layout) -> list[str]:
    """The times as they are written; empty if they are numbers."""
    first = fields(lines[0], layout.separator)
    if len(first) <= max(layout.times) or (len(layout.times) == 1 and not _may_be_date(first[layout.times[0]], layout)):
        return []
    rows = (fields(line, layout.separator) for line in lines)
    return [" ".join(row[place] for place in layout.times) if len(row) > max(layout.times) else "" for row in rows]


def _may_be_date(text: str, layout: Layout) -> bool:
    return (
        bool(text) and text[0].isdigit() and (layout.kind != "own" or not text.isdigit()) and file_times.is_date(text)
    )


def _dates(path: Path, texts: Sequence[str], numbers: NDArray[np.int64], layout: Layout) -> file_times.Dates:
    try:
        return file_times.of_dates(texts, layout.zone, by_date=layout.by_date)
    except file_times.NotATime as cause:
        raise wrong_at(path, _line, int(numbers[cause.row]), "timestamp", str(cause)) from None


def _loaded(lines: Sequence[str], places: Sequence[int], layout: Layout) -> NDArray[np.float64]:
    return np.loadtxt(
        lines, np.float64, comments=None, delimiter=layout.separator, quotechar='"', usecols=places, ndmin=2
    )


def _explained(
    path: Path, lines: Sequence[str], numbers: NDArray[np.int64], layout: Layout, *, has_dates: bool
) -> WrongFile:
    """Which field of which line is no number."""
    named = [*zip(layout.names(), (*layout.times, *layout.values), strict=True)][
        len(layout.times) if has_dates else 0 :
    ]
    for number, line in zip(numbers.tolist(), lines, strict=True):
        plain = line.rstrip("\n").split(layout.separator)
        quoted = next(csv.reader([line], delimiter=layout.separator), [])
        if len(plain) != layout.width == len(quoted):
            thousands = next((text for text in quoted if layout.separator in text), "")
            return WrongFile(
                f"{path}, line {number}: {thousands!r} is not a number: write it without separators of thousands. "
                "Nothing of this file was used."
            )
        if len(plain) != layout.width:
            return WrongFile(
                f"{path}, line {number}: {len(plain)} fields, but the first line has {layout.width}. Nothing of this "
                "file was used."
            )
        for name, place in named:
            try:
                _loaded([line], (place,), layout)
            except ValueError:
                return wrong_at(path, _line, number, name, _no_number(plain[place]))
    return WrongFile(f"{path}, lines {numbers[0]} to {numbers[-1]}: a quotation mark is not closed.")


def _line(number: int) -> str:
    return f"line {number}"


def _no_number(text: str) -> str:
    if not text.strip(' "'):
        return "there is no value"
    has_comma = file_times.is_number(text.strip(' "').replace(",", ".", 1)) and "," in text
    return f"{text.strip()!r:.60} is not a number" + (": write it with a point" if has_comma else "")


def _still_integers(integers: int, rows: NDArray[np.float64], lines: Sequence[str], layout: Layout) -> int:
    """Which columns are written as integers (1413) and not as floats (1413.0); only whole numbers need a look at the
    text.
    """
    for bit, place in enumerate(layout.values):
        if integers >> bit & 1 and len(rows) and place != NO_VOLUME:
            column = rows[:, bit]
            whole = bool((np.isfinite(column) & (np.floor(column) == column)).all())
            if not whole or not all(map(_is_integer, (line.split(layout.separator)[place] for line in lines))):
                integers &= ~(1 << bit)
    return integers


def _is_integer(text: str) -> bool:
    return text.strip(' \n"').removeprefix("-").isdigit()
