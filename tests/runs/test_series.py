"""Candles once per host: files named by what they hold, that any process may make, lose or find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backtest_kit.bars import Series
from backtest_kit.errors import DeclarationError
from backtest_kit.runs.series import SeriesFiles, fingerprint


def made(count: int, price: float = 1.0) -> Series:
    column = np.full(count, price)
    return Series(0, 60_000, np.arange(count, dtype=np.int64) * 60_000, column, column, column, column, column)


def unread() -> Series:
    raise AssertionError("it is there already")


def counting(series: Series) -> tuple[list[int], Callable[[], Series]]:
    calls: list[int] = []

    def read() -> Series:
        calls.append(1)
        return series

    return calls, read


def test_what_one_process_has_kept_another_maps_and_damage_is_made_good(tmp_path: Path) -> None:
    series = made(500)
    name = SeriesFiles(tmp_path).put(series)
    mapped = SeriesFiles(tmp_path).get(name, 60_000, unread)
    assert fingerprint(mapped) == name
    assert not mapped.close.flags.owndata
    file = next(tmp_path.glob("*.candles"))
    file.write_bytes(file.read_bytes()[:-8] + bytes(8))
    assert fingerprint(SeriesFiles(tmp_path).get(name, 60_000, lambda: series)) == name
    with pytest.raises(DeclarationError, match="not those that the study was planned with"):
        SeriesFiles(tmp_path).get("0" * 32, 60_000, lambda: series)


def test_what_is_made_of_candles_is_made_once_per_host_and_sweep(tmp_path: Path) -> None:
    calls, read = counting(made(500, 2.0))
    first = SeriesFiles(tmp_path).noted("sweep", "15m", read)
    again = SeriesFiles(tmp_path).noted("sweep", "15m", unread)
    assert fingerprint(first) == fingerprint(again)
    SeriesFiles(tmp_path).noted("another sweep", "15m", read)
    for file in tmp_path.glob("*.candles"):
        file.unlink()
    SeriesFiles(tmp_path).noted("sweep", "15m", read)
    assert len(calls) == 3
    assert len(SeriesFiles(tmp_path).noted("sweep", "1m", lambda: made(0))) == 0


def test_the_directory_is_bounded_and_what_goes_stays_mapped(tmp_path: Path) -> None:
    files = SeriesFiles(tmp_path, bound_mb=1)
    names = [files.put(made(15_000, price)) for price in (1.0, 2.0, 3.0)]
    assert [path.stem for path in tmp_path.glob("*.candles")] == [names[-1]]
    assert files.get(names[0], 60_000, unread).close[-1] == 1.0
