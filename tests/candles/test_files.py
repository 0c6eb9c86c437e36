"""Candle files: what is read is exactly what was written, and what cannot be read is reported with its line and
column.
"""

from __future__ import annotations

import gzip
import random
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from backtest_kit_mongo.candles import columns as cols
from backtest_kit_mongo.candles.files import (
    SUFFIXES,
    ParquetMissing,
    SeriesName,
    WrongFile,
    find,
    name_of,
    read_file,
    series_of,
    write_file,
)
from backtest_kit_mongo.candles.intervals import grid_of

needs_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="the extra `parquet` is not installed")
every_kind = pytest.mark.parametrize(
    "suffix", [pytest.param(suffix, marks=needs_pyarrow if suffix == ".parquet" else ()) for suffix in SUFFIXES]
)
MINUTE = 60_000
GRID = grid_of("1m")
START = 1_704_067_200_000
DAY_2025 = 1_735_689_600_000
HEADER = "timestamp,open,high,low,close,volume"
TWO = f"{HEADER}\n60000,1.5,2.5,0.1,1.25,7\n120000,5.330000000000001e-05,44193.0,1e-07,3.0,1413\n"


def read(path: Path, text: str) -> cols.Columns:
    path.write_text(text, "utf-8")
    return read_file(path, GRID).columns


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "BTCUSDT-1m.csv"


def test_a_file_that_is_read_and_written_again_has_the_same_text(path: Path, tmp_path: Path) -> None:
    columns = read(path, TWO)
    assert columns.integers == 0b10000
    write_file(columns, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == TWO
    write_file(columns, tmp_path / "again.csv.gz")
    assert gzip.decompress((tmp_path / "again.csv.gz").read_bytes()).decode() == TWO


@every_kind
def test_every_kind_of_file_keeps_every_number_and_which_were_integers(suffix: str, tmp_path: Path) -> None:
    seeded = random.Random(7)
    low = [seeded.uniform(0, 10.0 ** seeded.randint(-12, 12)) for _ in range(500)]
    rows = [
        {
            "timestamp": START + i * MINUTE,
            "open": x,
            "high": x * 1.1,
            "low": x,
            "close": x,
            "volume": seeded.randint(0, 2**53),
        }
        for i, x in enumerate(low)
    ]
    columns, file = cols.of_rows(rows), tmp_path / f"X-1m{suffix}"
    write_file(columns, file)
    again = read_file(file, GRID).columns
    assert cols.equal(again, columns)
    assert (again.integers, cols.to_rows(again)) == (0b10000, rows)


@every_kind
def test_equal_candles_make_equal_files_under_any_name(suffix: str, path: Path, tmp_path: Path) -> None:
    columns = read(path, TWO)
    for name in ("A-1m", "B-1m"):
        write_file(columns, tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"A-1m{suffix}").read_bytes() == (tmp_path / f"B-1m{suffix}").read_bytes()


def test_numbers_are_read_as_python_reads_them(path: Path) -> None:
    seeded = random.Random(11)
    texts = [repr(seeded.uniform(0, 10.0 ** seeded.randint(-300, 300))) for _ in range(2_000)]
    texts += [
        "1e22",
        "9007199254740993",
        "0.1e-6",
        "+2.5",
        " 3.25 ",
        "4.",
        ".5",
        "1E5",
        "123456789012345678901234567890",
    ]
    lines = "".join(f"{START + i * MINUTE},1,1,1,1,{text}\n" for i, text in enumerate(texts))
    assert read(path, f"{HEADER}\n{lines}").values[4].tolist() == [float(text) for text in texts]


@pytest.mark.parametrize(
    "text",
    [
        "volume,close,low,high,open,timestamp\n7,1.25,0.1,2.5,1.5,60000\n",
        "trades,Timestamp,Open,High,Low,Close,Volume,note\n9,60000,1.5,2.5,0.1,1.25,7,hello\n",
        f"\ufeff{HEADER}\r\n60000,1.5,2.5,0.1,1.25,7\r\n",
        '"timestamp","open","high","low","close","volume"\n"60000","1.5","2.5","0.1","1.25","7"\n',
        f"{HEADER}\n\n  \n60000,1.5,2.5,0.1,1.25,7\n\n",
        f"{HEADER}\n60000.0,1.5,2.5,0.1,1.25,7",
    ],
    ids=["any order", "other columns and case", "byte order mark and CRLF", "quotes", "blank lines", "time as float"],
)
def test_columns_are_found_by_their_names(path: Path, text: str) -> None:
    columns = read(path, text)
    assert cols.to_rows(columns) == [
        {"timestamp": 60_000, "open": 1.5, "high": 2.5, "low": 0.1, "close": 1.25, "volume": 7}
    ]
    assert columns.integers == 0b10000


def test_a_column_with_one_float_or_one_integer_that_is_too_large_is_no_integer_column(path: Path) -> None:
    assert read(path, f"{HEADER}\n0,1,2,1,1,7\n{MINUTE},1,2,1,1,8.0\n").integers == 0b01111
    assert read(path, f"{HEADER}\n0,1,2,1,1,9007199254740994\n").integers == 0b01111


def test_a_file_in_any_order_is_sorted_and_a_candle_that_stands_there_twice_counts_once(path: Path) -> None:
    columns = read(path, f"{HEADER}\n120000,2,2,2,2,2\n60000,1,1,1,1,1\n120000,2,2.0,2,2,2\n0,0,0,0,0,0\n")
    assert columns.timestamp.tolist() == [0, 60_000, 120_000]
    assert columns.values[0].tolist() == [0, 1, 2]


def test_a_file_with_a_header_alone_has_no_candles(path: Path) -> None:
    assert len(read(path, HEADER)) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "begins with empty lines, or is empty"),
        (f"{HEADER}\n".replace(",", ";") + "60000;1,5;1;1;1;1\n", "'1,5' is not a number: write it with a point"),
        ("timestamp,open,high,low,close\n60000,1,1,1,1\n", "no column is named 'volume'"),
        (f"{HEADER},open\n60000,1,1,1,1,1,1\n", "two columns are named 'open'"),
        ("60000,1,1,1,1,1\n", "line 1, column timestamp: 60000 is no time in s, ms, us, ns since 1970"),
        ("1,2,3,4\n", "the first line names no columns, and is not of a known kind"),
        (f"{HEADER}\n60000,1,1,1,1,1\n\n120000,1,1,1,1\n", "line 4: 5 fields, but the first line has 6"),
        (f"{HEADER}\n60000,1,1,1,1,1\n\n120000,1,1,1,abc,1\n", "line 4, column close: 'abc' is not a number"),
        (f"{HEADER}\n60000,1,1,1,1,\n", "line 2, column volume: there is no value"),
        (f"{HEADER}\n60000,1_0,1,1,1,1\n", "line 2, column open: '1_0' is not a number"),
        (f"{HEADER}\n60000,nan,1,1,1,1\n", "line 2, column open: nan is not a finite number"),
        (f"{HEADER}\n60000,1,inf,1,1,1\n", "line 2, column high: inf is not a finite number"),
        (f"{HEADER}\n60000,1,1,2,1,1\n", "line 2, column high: high 1.0 is below low 2.0"),
        (f"{HEADER}\n60000,3,2,1,1,1\n", "line 2, column open: open 3.0 lies outside low 1.0 to high 2.0"),
        (f"{HEADER}\n60000,1,2,1,1,-1\n", "line 2, column volume: volume -1.0 is negative"),
        (f'{HEADER}\n60000,"1,042.5",1,1,1,1\n', "line 2: '1,042.5' is not a number: write it without separators"),
        (f"{HEADER}\n" + "".join(f"{n * 300_000},1,1,1,1,1\n" for n in range(6)), "look like candles of 5m, not of 1m"),
        (f"{HEADER}\n60000,1,1,1,1,1\n60001,1,1,1,1,1\n", "line 3, column timestamp: 60001 is not an open time"),
        (f"{HEADER}\n-60000,1,1,1,1,1\n", "line 2, column timestamp: -60000 is not an open time"),
        (f"{HEADER}\n60000.5,1,1,1,1,1\n", "line 2, column timestamp: 60000.5 is not"),
        (f"{HEADER}\n1707343381,1,1,1,1,1\n", "are these seconds? Then pass 1707343381000"),
        (f"{HEADER}\n1707343380000000,1,1,1,1,1\n", "are these microseconds or nanoseconds?"),
        (f"{HEADER}\n20240101,1,1,1,1,1\n", "20240101 looks like the date 2024-01-01"),
        (f"{HEADER}\n2024-01-01,1,1,1,1,1\n2024-31-31,1,1,1,1,1\n", "line 3, column timestamp: '2024-31-31' is not"),
        ("time,open,high,low,close\n01/02/2024,1,1,1,1\n", "day and month cannot be told apart"),
        (f"{HEADER}\n0,1,1,1,1,1\n60000,1,1,1,1,1\n0,1,2,1,2,1\n", ("line 4, column high: the candle of 0 is another "
            "one than in line 2")),
        (f'{HEADER}\n0,"1,1,1,1,1\n60000,1,1,1,1,1\n', """line 2, column open: '"1' is not a number"""),
        (f'{HEADER},note\n0,1,1,1,1,1,"a\n60000,1,1,1,1,1,b\n', "lines 2 to 3: a quotation mark is not closed"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_reported_with_file_line_and_column(path: Path, text: str, said: str) -> None:
    with pytest.raises(WrongFile) as error:
        read(path, text)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_lines_are_counted_right_behind_the_first_part_of_a_large_file(path: Path) -> None:
    lines = [f"{i * MINUTE},1,1,1,1,1" for i in range(60_000)]
    lines[55_000] = f"{55_000 * MINUTE},1,1,1,x,1"
    with pytest.raises(WrongFile, match="line 55002, column close: 'x'"):
        read(path, "\n".join((HEADER, *lines)))


def test_a_damaged_or_foreign_file_is_a_message(tmp_path: Path) -> None:
    packed = tmp_path / "X-1m.csv.gz"
    packed.write_bytes(gzip.compress(TWO.encode())[:-12])
    binary = tmp_path / "X-1m.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    for file in (packed, binary):
        with pytest.raises(WrongFile, match="cannot be read"):
            read_file(file, GRID)


@needs_pyarrow
def test_a_file_that_only_is_named_parquet_is_a_message(tmp_path: Path) -> None:
    path = tmp_path / "X-1m.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(WrongFile, match="cannot be read"):
        read_file(path, GRID)


def parquet_file(path: Path, **changed: object) -> Path:
    one = {name: [1.0, 1.0] for name in HEADER.split(",")}
    table = import_module("pyarrow").table({**one, "timestamp": [0, MINUTE], **changed})
    import_module("pyarrow.parquet").write_table(table, str(path))
    return path


@needs_pyarrow
def test_dates_in_parquet_become_milliseconds(tmp_path: Path) -> None:
    for unit in ("s", "ms", "us", "ns"):
        moments = np.array([0, 60], "M8[s]").astype(f"M8[{unit}]")
        file = parquet_file(tmp_path / "X-1m.parquet", timestamp=moments)
        assert read_file(file, GRID).columns.timestamp.tolist() == [0, MINUTE]


@needs_pyarrow
def test_what_cannot_be_read_of_parquet_is_reported_with_row_and_column(tmp_path: Path) -> None:
    path = tmp_path / "X-1m.parquet"
    for column, values, said in (
        ("close", [1.0, None], "row 2, column close: there is no value"),
        ("close", ["1", "2"], "column close"),
        ("timestamp", np.array([1, 2], "M8[ns]"), "column timestamp"),
        ("timestamp", [START * 10**6] * 2, "are these microseconds or nanoseconds?"),
        ("low", [1.0, float("nan")], "row 2, column low: nan is not a finite number"),
    ):
        with pytest.raises(WrongFile) as error:
            read_file(parquet_file(path, **{column: values}), GRID)
        assert said in str(error.value)


def test_parquet_without_pyarrow_names_the_extra(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = read(path, TWO)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ParquetMissing, match=r"backtest-kit-mongo\[parquet\]"):
        read_file(path.rename(tmp_path / "X-1m.parquet"), GRID)
    with pytest.raises(ParquetMissing, match="nothing was read or written"):
        write_file(columns, tmp_path / "Y-1m.parquet")
    assert not list(tmp_path.glob("*Y-1m*"))


def test_a_file_appears_only_when_it_is_complete(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = read(path, TWO)

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("backtest_kit_mongo.candles.files.write_csv", full)
    with pytest.raises(OSError, match="no space left"):
        write_file(columns, tmp_path / "Y-1m.csv.gz")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    with pytest.raises(WrongFile, match="the name must end with"):
        write_file(columns, tmp_path / "Y-1m.xls")


def test_a_series_is_read_from_the_name_that_it_was_given() -> None:
    for symbol in ("BTCUSDT", "BTC/USDT", "BTC-PERP", "100%", "ETH USD"):
        for suffix in SUFFIXES:
            name = name_of(symbol, "15m", suffix)
            assert "/" not in name
            assert series_of(Path(name)) == SeriesName(symbol, "15m")
    for other in ("BTCUSDT.csv", "BTCUSDT-1m.md", "-1m.csv", "README.md"):
        assert series_of(Path(other)) is None


def test_a_directory_stands_for_the_files_in_it_that_are_named_after_a_series(tmp_path: Path) -> None:
    for name in ("B-1m.csv", "A-1h.csv.gz", "notes.txt", "total.csv"):
        (tmp_path / name).write_text("")
    (tmp_path / "C-1m.csv").mkdir()
    total = tmp_path / "total.csv"
    for name in ("D-10h.csv", "E-1m-2024-02.CSV", "F-1m.xlsx", "G_1m.csv"):
        (tmp_path / name).write_text("")
    found = find([total, tmp_path, total])
    assert [path.name for path in found.files] == ["total.csv", "A-1h.csv.gz", "B-1m.csv", "E-1m-2024-02.CSV"]
    reasons = {path.name: why for path, why in found.left_out.items()}
    assert list(reasons) == ["D-10h.csv", "F-1m.xlsx", "G_1m.csv"]
    for name, why in (("D-10h.csv", "not '10h'"), ("F-1m.xlsx", "end with .csv"), ("G_1m.csv", "does not say")):
        assert why in reasons[name]
    assert series_of(Path("E-1m-2024-02.CSV")) == series_of(Path("E-1m-2024-02-29.csv.gz")) == SeriesName("E", "1m")
    with pytest.raises(WrongFile, match="no file that is named like"):
        find([tmp_path / "C-1m.csv"])
    with pytest.raises(WrongFile, match="neither a file nor a directory"):
        find([tmp_path / "absent"])
