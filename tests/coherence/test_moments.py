"""Moments that enter: what they become, and what is refused with the milliseconds that were meant."""

from __future__ import annotations

import math
import time
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest_kit.errors import DeclarationError
from backtest_kit.moments import to_ms
from backtest_kit_mongo.causing import caused_by
from backtest_kit_mongo.coherence.causes import Cause
from backtest_kit_mongo.coherence.codec import pack, unpack
from backtest_kit_mongo.coherence.moments import COUNTERS_END, FROM_MS, UNTIL_MS, moment_ms, written_ms
from backtest_kit_mongo.errors import InvalidKey
from backtest_kit_mongo.limits import write_until

MS = 1_704_067_200_000
"""2024-01-01T00:00Z."""
WHEN = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "given",
    [
        MS, np.int64(MS), np.uint64(MS), WHEN, WHEN.astimezone(timezone(timedelta(hours=9))),
        WHEN.replace(microsecond=999),
        pd.Timestamp("2024-01-01T01:00", tz="Europe/Berlin"), pd.Timestamp(MS * 10**6 + 1, unit="ns", tz="UTC"),
        *(np.datetime64("2024-01-01", unit) for unit in ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns")),
    ],
    ids=repr,
)  # fmt: skip
def test_every_exact_way_to_say_a_moment_gives_its_milliseconds(given: Any) -> None:
    expected = (
        moment_ms(np.datetime64("2023-12-28"), "") if getattr(given, "dtype", None) == "M8[W]" else MS
    )  # Weeks begin on Thursdays.
    assert (moment_ms(given, "when"), type(moment_ms(given, "when"))) == (expected, int)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (MS // 1_000, f"are these seconds. Then pass {MS}"),
        (MS / 1_000, f"must be epoch milliseconds.*seconds. Then pass {MS}"),
        (MS * 1_000, f"nanoseconds. Then pass {MS}"),
        (np.int64(MS) * 10**6, f"nanoseconds. Then pass {MS}"),
        (float(MS), f"; pass {MS}"),
        (20240101, f"looks like the date 2024-01-01, which is {MS}"),
        ("2024-01-01", f"not '2024-01-01'; as a moment in UTC that is {MS}"),
        (date(2024, 1, 1), f"a day has no zone.*{MS}"),
        (WHEN.replace(tzinfo=None), "has no zone"),
        (pd.Timestamp("2024-01-01"), "has no zone"),
        (pd.NaT, "NaT is no moment"),
        (np.datetime64("NaT", "ns"), "NaT is no moment"),
        (np.datetime64(MS, "D"), "calendar|moments lie between|ms is"),
        (datetime(1970, 1, 20, tzinfo=UTC), "moments lie between"),
        *((wrong, "must be epoch milliseconds") for wrong in (True, np.True_, None, math.nan, Decimal(MS), b"1", [MS])),
        *((wrong, "moments lie between") for wrong in (-1, COUNTERS_END, FROM_MS - 1, UNTIL_MS, 2**63, 10**30)),
    ],
    ids=repr,
)
def test_what_is_no_moment_is_refused_with_what_was_probably_meant(given: Any, says: str) -> None:
    with pytest.raises(InvalidKey, match=f"when.*({says})"):
        moment_ms(given, "when")


def test_a_simulation_may_count_from_zero_where_it_says_so() -> None:
    assert [moment_ms(step, "when") for step in (0, 1, COUNTERS_END - 1)] == [0, 1, COUNTERS_END - 1]
    with pytest.raises(InvalidKey, match="1970-01-01"):
        moment_ms(0, "--since", is_counter_too=False)


@pytest.mark.parametrize(
    "text",
    [str(MS), " 20240101", "2024-01-01", "2024-01-01T03:00+03:00", "20240101T000000Z", "2024-01-01 00:00"],
)
def test_people_write_milliseconds_or_dates_of_utc(text: str) -> None:
    assert written_ms(text, "--since") == MS


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (str(MS // 1_000), f"seconds. Then pass {MS}"),
        ("1704067200.5", f"whole milliseconds.*are these seconds. Then pass {MS + 500}"),
        ("20241301", "moments lie between"),
        *(
            (wrong, "not a moment")
            for wrong in ("yesterday", "", "01/02/2024", "1e400", "nan", "٢٠٢٤٠١٠١", "9" * 5_000)
        ),
        ("9999-01-01", "moments lie between"),
    ],
    ids=lambda text: text[:20],
)
def test_what_people_write_wrongly_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidKey, match=f"--since.*{says}"):
        written_ms(text, "--since")


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda: write_until(time.time() + 3), "monotonic clock"),
        (lambda: write_until(math.nan), "monotonic clock"),
        (lambda: write_until(WHEN), "monotonic clock"),  # type: ignore[arg-type]
        (lambda: caused_by(Cause("s", "open", at=MS // 1000)), "seconds"),
        (lambda: caused_by(Cause("s", "open", at=WHEN.replace(tzinfo=None))), "no zone"),  # type: ignore[arg-type]
        (lambda: caused_by(Cause("\ud800", "open")), "Unicode"),
        (lambda: caused_by(Cause(5, "open")), "a text"),  # type: ignore[arg-type]
        (lambda: caused_by({"signal": "s"}), "bk.Cause"),  # type: ignore[arg-type]
    ],
)
def test_a_block_is_not_entered_with_what_its_writes_could_not_keep(use: Any, says: str) -> None:
    with pytest.raises(InvalidKey, match=says), use():
        pytest.fail("it was entered")


def test_a_frame_of_a_backtest_is_between_moments() -> None:
    for said in (MS, str(MS), "20240101", "2024-01-01", WHEN, WHEN.date(), np.datetime64("2024-01-01")):
        assert to_ms(said) == MS  # type: ignore[arg-type]
    for said, why in ((MS // 1000, "seconds"), ("1704067200", "seconds"), (WHEN.replace(tzinfo=None), "no zone")):
        with pytest.raises(DeclarationError, match=f"{why}.*Nothing was run"):
            to_ms(said)


@pytest.mark.parametrize("unit", ["D", "s", "ms", "us", "ns"])
def test_a_datetime64_in_a_payload_is_stored_as_the_date_that_it_is(unit: Any) -> None:
    assert unpack(pack({"t": np.datetime64("2024-01-01", unit)})) == {"t": WHEN}


@pytest.mark.parametrize(
    "value",
    [
        pd.NaT,
        np.datetime64("NaT"),
        np.timedelta64(5, "m"),
        np.array(np.timedelta64(5, "ns")),
        np.longdouble(1.5),
        1j,
        np.zeros(1, "i4,f4")[0],
    ],
    ids=repr,
)
def test_what_would_change_its_meaning_in_a_payload_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"cannot be stored|no moment"):
        pack({"t": value})
