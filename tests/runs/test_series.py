"""Candles once per host: files named by what they hold, that any process may make, lose or find."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import backtest_kit_mongo as bk
from backtest_kit.bars import Series
from backtest_kit.errors import DeclarationError
from backtest_kit.runs.series import SeriesFiles, fingerprint
from backtest_kit_mongo.candles.codec import BLOCK_ROWS
from backtest_kit_mongo.stored import CANDLE_BLOCKS
from tests.candles.mongo_support import Bed, bed, rows, store
from tests.integration.support import store_for

__all__ = ["bed", "store"]


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
    with pytest.raises(DeclarationError, match=r"cannot be kept in .*CC_CANDLE_CACHE_DIR"):
        SeriesFiles(file / "below").put(series)


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


@pytest.mark.live
def test_mongodb_is_read_once_per_block_and_host(bed: Bed, tmp_path: Path) -> None:
    given = [*rows(3), *rows(3, first=BLOCK_ROWS)]
    bed.instance.write_candles_data(given)
    bed.compact(0)
    bed.compact(1)
    bed.database.command("profile", 2)

    def read(_: object = None) -> list[dict[str, float]]:
        """As a process that has just begun."""
        with bk.keeping_blocks(tmp_path), store_for(bed.servers, bed.database.name) as another:
            return bed.beside(another).read(BLOCK_ROWS + 9).to_dicts()

    def returned() -> int:
        query = {"ns": f"{bed.database.name}.{CANDLE_BLOCKS}", "command.projection": {"$exists": False}}
        return sum(one.get("nreturned", 0) for one in bed.database["system.profile"].find(query))

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(read, range(3))) == [given] * 3
    assert returned() == 2
    for file in tmp_path.glob("*.block"):
        file.write_bytes(file.read_bytes()[:-8] + bytes(8))
    bed.instance.write_candles_data(more := rows(1, first=BLOCK_ROWS + 3))
    bed.compact(1)
    assert read() == read() == given + more
    assert returned() == 4  # The block of which the file was damaged, and the new one.
    bed.database.command("profile", 0)
