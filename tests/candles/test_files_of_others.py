"""Files of candles as exchanges and programs write them: recognised by their lines, and what was assumed is said."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import backtest_kit_mongo as bk
from backtest_kit_mongo.candles.columns import to_rows
from backtest_kit_mongo.candles.files import Said, WrongFile, read_file, series_of
from backtest_kit_mongo.candles.intervals import grid_of
from backtest_kit_mongo.errors import CallerError

needs_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="the extra `parquet` is not installed")


class Shape(NamedTuple):
    """A file, and its first candle: open time as ISO, then open, high, low, close, volume."""

    text: str
    at: str
    values: tuple[float, ...]
    interval: str = "1m"
    notes: tuple[str, ...] = ()
    said: Said = Said()


FOREX = (1.10432, 1.1044, 1.1043, 1.10435, 0)
SHAPES = {
    "Binance Vision": Shape(
        "1704067200000,42110.1,42120,42100.5,42115.2,12.5,1704067259999,526000.1,310,6.1,257000.2,0\n",
        "2024-01-01T00:00", (42110.1, 42120, 42100.5, 42115.2, 12.5), notes=("read as Binance Vision",),
    ),
    "Binance Vision of 2025, in microseconds": Shape(
        "1735689600000000,93410,93420,93400,93415,2.5,1735689659999999,233000,110,1.1,102000,0\n",
        "2025-01-01T00:00", (93410, 93420, 93400, 93415, 2.5), notes=("its times are in us",),
    ),
    "Binance futures, with a header": Shape(
        "open_time,open,high,low,close,volume,close_time,quote_volume,count\n"
        "1704067200000,42110.1,42120,42100.5,42115.2,12.5,1704067259999,526000.1,310\n",
        "2024-01-01T00:00", (42110.1, 42120, 42100.5, 42115.2, 12.5),
    ),
    "CryptoDataDownload, newest first, seconds and milliseconds in one": Shape(
        "https://www.CryptoDataDownload.com\nunix,date,symbol,open,high,low,close,Volume BTC,Volume USD\n"
        "1704153600000,2024-01-02,BTC/USD,44100,45800,44050,44900,1230,55\n"
        "1704067200,2024-01-01,BTC/USD,42200,44150,42100,44100,800,34\n",
        "2024-01-01T00:00", (42200, 44150, 42100, 44100, 800), "1d",
        ("read as CryptoDataDownload", "volume is the column 'volume btc'", "its times are in s and ms"),
    ),
    "MetaTrader 4": Shape(
        "2024.01.01,00:00,42110.1,42120,42100.5,42115.2,12\n",
        "2024-01-01T00:00", (42110.1, 42120, 42100.5, 42115.2, 12),
        notes=("read as MetaTrader", "its times have no zone"),
    ),
    "a separator at the end of each line": Shape(
        "timestamp,open,high,low,close,volume,\n1704067200000,1,2,0.5,1.5,3,\n", "2024-01-01T00:00", (1, 2, 0.5, 1.5, 3)
    ),
    "date and time in columns that the user names": Shape(
        "x;2024-01-01;00:00:00;1;2;0.5;1.5\n", "2024-01-01T00:00", (1, 2, 0.5, 1.5, 0),
        said=Said(columns="symbol,date,time,open,high,low,close"),
    ),
    "Kraken": Shape(
        "1704067200,42110,42120,42100,42115,12.5,33\n1704067320,42115,42116,42110,42112,0.5,3\n",
        "2024-01-01T00:00", (42110, 42120, 42100, 42115, 12.5), notes=("read as Kraken OHLCVT", "its times are in s"),
    ),
    "Yahoo, the days of an exchange": Shape(
        "Date,Open,High,Low,Close,Adj Close,Volume\n2024-01-02 00:00:00-05:00,187,188,183,185,184.9,82488700\n",
        "2024-01-02T00:00", (187, 188, 183, 185, 82488700), "1d", ("read as Yahoo Finance",),
    ),
    "yfinance with three lines of a header": Shape(
        "Price,Close,High,Low,Open,Volume\nTicker,AAPL,AAPL,AAPL,AAPL,AAPL\nDate,,,,,\n2024-01-02,185,188,183,187,5\n",
        "2024-01-02T00:00", (187, 188, 183, 185, 5), "1d", ("read as Yahoo Finance", "its times have no zone"),
    ),
    "HistData, New York without summer time": Shape(
        "20240702 170000;1.10432;1.10440;1.10430;1.10435;0\n", "2024-07-02T22:00", FOREX, notes=("read as HistData",)
    ),
    "Dukascopy": Shape(
        "Gmt time,Open,High,Low,Close,Volume\n02.01.2024 00:01:00.000,1.1,1.2,1.0,1.15,5\n",
        "2024-01-02T00:01", (1.1, 1.2, 1.0, 1.15, 5),
    ),
    "Dukascopy in local time": Shape(
        "Local time,Open,High,Low,Close,Volume\n02.01.2024 02:01:00.000 GMT+0200,1.1,1.2,1.0,1.15,5\n",
        "2024-01-02T00:01", (1.1, 1.2, 1.0, 1.15, 5),
    ),
    "TradingView": Shape(
        "time,open,high,low,close,Volume\n1704067200,42110,42120,42100,42115,12\n",
        "2024-01-01T00:00", (42110, 42120, 42100, 42115, 12), notes=("its times are in s",),
    ),
    "TradingView with dates and without volume": Shape(
        "time,open,high,low,close\n2024-01-01T00:00:00Z,42110,42120,42100,42115\n",
        "2024-01-01T00:00", (42110, 42120, 42100, 42115, 0), notes=("it has no volume: 0 is stored",),
    ),
    "MetaTrader": Shape(
        "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n"
        "2024.01.02\t00:01:00\t1.1\t1.2\t1.0\t1.15\t12\t0\t5\n",
        "2024-01-01T22:01", (1.1, 1.2, 1.0, 1.15, 12), notes=("read as MetaTrader", "volume is TICKVOL"),
        said=Said(zone="Europe/Helsinki"),
    ),
    "months first, and quoted": Shape(
        'Date,Open,High,Low,Close,Volume\n"01/13/2024","1","2","0.5","1.5","10"\n01/02/2024,1,2,0.5,1.5,10\n',
        "2024-01-02T00:00", (1, 2, 0.5, 1.5, 10), "1d", ("columns by their names", "its times have no zone"),
    ),
    "days of an exchange that open at 16:00": Shape(
        "timestamp,open,high,low,close,volume\n1704038400000,1,2,0.5,1.5,10\n1704124800000,1,2,0.5,1.5,10\n",
        "2023-12-31T16:00", (1, 2, 0.5, 1.5, 10), "1d", ("stored as candles of 1d+16h",),
    ),
    "hours of a stock market": Shape(
        "time,open,high,low,close,Volume\n2024-01-02T09:30:00-05:00,1,2,0.5,1.5,10\n",
        "2024-01-02T14:30", (1, 2, 0.5, 1.5, 10), "1h", ("stored as candles of 1h+30m",),
    ),
    "weeks and months": Shape(
        "Date,Open,High,Low,Close,Volume\n2024-01-01,1,2,0.5,1.5,10\n2024-02-01,1,2,0.5,1.5,10\n",
        "2024-01-01T00:00", (1, 2, 0.5, 1.5, 10), "1M",
    ),
    "columns that the user names": Shape(
        "#1|9|5|20240102 120100|7|6\n".replace("#", "1"), "2024-01-02T12:01", (6, 9, 5, 7, 0),
        said=Said(columns="no,high,low,time,close,open"), notes=("it names no columns",),
    ),
    "columns that the user gives other names": Shape(
        "When,First,Top,Bottom,Last,Sold\n1704067200,1,2,0.5,1.5,10\n", "2024-01-01T00:00", (1, 2, 0.5, 1.5, 10),
        said=Said(columns="time=When,open=First,high=Top,low=Bottom,close=Last,volume=Sold", unit="s"),
    ),
}  # fmt: skip


def read(path: Path, interval: str, said: Said = Said()) -> tuple[dict[str, Any], list[str]]:  # noqa: B008 - frozen
    notes: list[str] = []
    columns, _ = read_file(path, grid_of(interval), said=said, on_note=notes.append)
    return to_rows(columns)[0], notes


def moment(at: str) -> int:
    return int(datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_a_file_is_recognised_and_what_was_assumed_is_said(shape: Shape, tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_text(shape.text)
    row, notes = read(path, shape.interval, shape.said)
    assert row["timestamp"] == moment(shape.at)
    assert tuple(row.values())[1:] == shape.values
    assert all(any(part in note for note in notes) for part in shape.notes), notes


def test_packed_files_and_standard_input_are_read_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = SHAPES["Binance Vision"]
    packed = tmp_path / "BTCUSDT-1m-2024-01.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("BTCUSDT-1m-2024-01.csv", shape.text)
    (tmp_path / "x.txt.gz").write_bytes(gzip.compress(shape.text.encode()))
    (tmp_path / "wide.csv").write_text(shape.text, "utf-16")
    rows = [read(path, "1m")[0] for path in (packed, tmp_path / "x.txt.gz", tmp_path / "wide.csv")]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(shape.text.encode())))
    assert rows == [read(Path("-"), "1m")[0]] * 3
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("another.csv", "")
    with pytest.raises(WrongFile, match=r"holds 2 files \(BTCUSDT-1m-2024-01.csv, another.csv\): unpack it"):
        read(packed, "1m")


def test_json_of_exchanges_and_programs(tmp_path: Path) -> None:
    path = tmp_path / "BTC_USDT-1m.json"
    named = {"date": "2024-01-01 00:00:00+00:00", "open": 1, "high": 2, "low": 0.5, "close": 1.5, "volume": 10}
    for rows in ([[1704067200000, 1, 2, 0.5, 1.5, 10]], [[1704067200, "1", "2", "0.5", "1.5", "10", "more"]], [named]):
        path.write_text(json.dumps(rows))
        row, _ = read(path, "1m")
        assert list(row.values()) == [1704067200000, 1, 2, 0.5, 1.5, 10]
    for text, said in (
        ("{", "is no JSON"),
        ('{"a": 1}', "expected a list of candles"),
        ("[[1704067200000, 1, 2]]", "candle 1, column 3: there is no value"),
        ('[[1704067200000, 1, "x", 0, 1, 1]]', "candle 1, column high: 'x' is not a number"),
        ("[[1, 1, 1, 1, 1, 1]]", "candle 1, column timestamp: 1 is no time"),
    ):
        path.write_text(text)
        with pytest.raises(WrongFile, match=said):
            read(path, "1m")


@needs_pyarrow
def test_parquet_and_feather_of_programs(tmp_path: Path) -> None:
    arrow = import_module("pyarrow")
    values = {name: [1.0] for name in ("Open", "High", "Low", "Close", "Volume")}
    local = arrow.array([datetime(2024, 1, 1, 1)], arrow.timestamp("ns"))
    for times, said, at in (
        (arrow.array([datetime(2024, 1, 1, tzinfo=UTC)], arrow.timestamp("us", "UTC")), Said(), "2024-01-01T00:00"),
        (local, Said(), "2024-01-01T01:00"),
        (local, Said(zone="Europe/Berlin"), "2024-01-01T00:00"),
        (arrow.array([1704067200]), Said(), "2024-01-01T00:00"),
    ):
        table = arrow.table({"date": times, **values})
        import_module("pyarrow.parquet").write_table(table, str(tmp_path / "x.parquet"))
        import_module("pyarrow.feather").write_feather(table, str(tmp_path / "x.feather"))
        for path in (tmp_path / "x.parquet", tmp_path / "x.feather"):
            row, notes = read(path, "1m", said)
            assert row["timestamp"] == moment(at)
            assert any("no zone" in note for note in notes) == (times is local and said.zone is None)


def test_bars_that_open_an_hour_later_in_winter_have_no_interval(tmp_path: Path) -> None:
    path, line = tmp_path / "x.csv", ",1,2,0.5,1.5,10\n"
    for texts, said in (
        (("2024-03-07T22:00Z", "2024-03-08T22:00Z", "2024-03-11T21:00Z"), "two times an hour apart, as in a zone with"),
        (("2024-03-07T23:59:59Z", "2024-03-08T23:59:59Z"), "not at a multiple of"),
        (("2024-03-07T22:00Z", "2024-03-08T03:00Z"), "not at a multiple of"),
    ):
        path.write_text("time,open,high,low,close,volume\n" + "".join(text + line for text in texts))
        with pytest.raises(WrongFile, match=said):
            read(path, "1d")


def test_what_a_user_says_wrong_is_refused_at_once() -> None:
    for wrong, said in (
        ({"kind": "bloomberg"}, "--format must be one of own, binance"),
        ({"unit": "minutes"}, "--unit must be one of s, ms"),
        ({"zone": "Europe/Nowhere"}, "no time zone 'Europe/Nowhere'"),
        ({"separator": ";;"}, "--separator must be one character"),
    ):
        with pytest.raises(CallerError, match=said):
            Said(**wrong)


def test_names_of_files_say_the_series() -> None:
    for name, series in {
        "BTCUSDT-1m-2024-02.zip": ("BTCUSDT", "1m"),
        "BTCUSDT-1mo-2024-02.zip": ("BTCUSDT", "1M"),
        "BTC%2FUSDT-1d+16h.csv.gz": ("BTC/USDT", "1d+16h"),
        "EURUSD_W1.csv": ("EURUSD", "1w"),
        "XBTUSD_10080.csv": ("XBTUSD", "1w"),
        "BTC_USDT-5m.feather": ("BTC/USDT", "5m"),
        "ETH_USDT_USDT-1h-futures.feather": ("ETH/USDT", "1h"),
        "DAT_ASCII_EURUSD_M1_2023.csv": ("EURUSD", "1m"),
        "Binance_BTCUSDT_2023_minute.csv": ("BTCUSDT", "1m"),
        "Bitstamp_BTCUSD_d.csv": ("BTCUSD", "1d"),
        "EURUSD_M5_202401020000_202401312355.csv": ("EURUSD", "5m"),
        "EURUSD_Candlestick_1_Hour_BID_01.01.2024-31.01.2024.csv": ("EURUSD", "1h"),
        "BINANCE_BTCUSDT, 240.csv": ("BTCUSDT", "4h"),
        "XBTUSD_1440.csv": ("XBTUSD", "1d"),
    }.items():
        assert series_of(Path(name)) == series, name


def test_a_series_in_several_files_of_a_directory_is_one(tmp_path: Path) -> None:
    (tmp_path / "BTCUSDT-1m-2024-01.csv").write_text("1704067200000,1,2,0.5,1.5,10\n1704067260000,1,2,0.5,1.5,10\n")
    (tmp_path / "BTCUSDT-1m-2024-02.csv").write_text("1704067260000,1,2,0.5,1.5,10\n1704067320000,1,2,0.5,1.5,11\n")
    notes: list[str] = []
    candles = bk.read_candle_files(tmp_path, "BTC/USDT", "1m", "binance", on_note=notes.append)
    assert candles.volume.tolist() == [10, 10, 11]
    assert "BTCUSDT-1m-2024-02.csv: read as rows of ccxt or freqtrade" in notes
    (tmp_path / "BTCUSDT-1m-2024-02.csv").write_text("1704067260000,1,2,0.5,1.5,99\n")
    with pytest.raises(WrongFile, match="have different candles of the same times"):
        bk.read_candle_files(tmp_path, "BTC/USDT", "1m", "binance")
    with pytest.raises(bk.NotFound, match="no file of ETHUSDT 1m"):
        bk.read_candle_files(tmp_path, "ETHUSDT", "1m", "binance")
