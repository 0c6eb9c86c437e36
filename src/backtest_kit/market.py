"""Candles for a run: from the store first, what is missing there from the exchange, checked, stored, read again."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

import backtest_kit_mongo as bk
from backtest_kit.bars import Bars, Series, resample, tail_without_gap
from backtest_kit.declare import Exchange
from backtest_kit.errors import ENDS, CandlesMissing, DeclarationError, WrongCandles
from backtest_kit.identity import MINUTE_MS
from backtest_kit.moments import CANDLE_MS, minute_text

__all__ = ["History", "Market"]

PAGE: Final = 1000
"""Candles of one request to `get_candles`."""
COLUMNS: Final = ("timestamp", "open", "high", "low", "close", "volume")


class Market:
    """Candles of one symbol at one exchange.

    Attributes:
        notes: what was left out, filled or converted, once each.
    """

    def __init__(self, exchange: Exchange, symbol: str, *, fill_gaps: bool = False) -> None:
        self.exchange, self.symbol, self.fill_gaps = exchange, symbol, fill_gaps
        self.notes: dict[str, None] = {}
        self._files: dict[str, bk.Candles] = {}

    def span(self) -> tuple[int, int] | None:
        """First and last open time of the one-minute candles at hand without asking the exchange; None: none are."""
        candles = self._of_file("1m") if self.exchange.files is not None else self._stored("1m", 0, 2**53)
        return (int(candles.timestamp[0]), int(candles.timestamp[-1])) if len(candles) else None

    def read(self, interval: str, since: int, until: int) -> bk.Candles:
        """Candles that open in [since, until), as many as there are anywhere.

        Raises:
            WrongCandles: the exchange answered nonsense.
            CandlesMissing: it could not be asked.
        """
        if self.exchange.files is not None:
            return replace(self._of_file(interval).between(since, until), since=since, until=until)
        candles = self._stored(interval, since, until)
        if not candles.is_complete and (self.exchange.get_candles or self.exchange.ccxt):
            for gap in candles.gaps:
                self._fetch(interval, gap.first, gap.last + CANDLE_MS[interval])
            candles = self._stored(interval, since, until)
        return candles

    def minutes(self, start: int, end: int, before: int) -> Series:
        """One-minute candles for a replay of [start, end], from `before` minutes earlier on, without a gap.

        Raises:
            CandlesMissing: some are missing; the message says which and what to do.
        """
        since = start - before * MINUTE_MS
        candles = self.read("1m", since, end)
        if not len(candles):
            raise CandlesMissing(self._nothing(since, end))
        if not candles.is_complete:
            return self._filled(candles)
        return Series.of(candles, MINUTE_MS, since)

    def _stored(self, interval: str, since: int, until: int) -> bk.Candles:
        with bk.simulation_time(None):
            return bk.read_candles(self.symbol, interval, self.exchange.name, since, until)

    def _nothing(self, since: int, until: int) -> str:
        source = self.exchange.files or "the store"
        span = self.span()
        held = (
            f"there are candles from {minute_text(span[0])} to {minute_text(span[1])}"
            if span
            else "there are none at all"
        )
        way = (
            "Check the symbol's name and the frame, or bring candles in: `bkm candles import FILE --exchange "
            f"{self.exchange.name}`, `bkm candles fetch`, or an exchange with get_candles, ccxt or files."
        )
        return (
            f"No 1m candles of {self.symbol} at exchange {self.exchange.name!r} from {minute_text(since)} to "
            f"{minute_text(until)} in {source}; {held}. {way} Nothing was run."
        )

    def _filled(self, candles: bk.Candles) -> Series:
        gaps = candles.gaps
        count = sum(gap.count for gap in gaps)
        first = f"the first from {minute_text(gaps[0].first)} to {minute_text(gaps[0].last)}"
        if not self.fill_gaps or gaps[0].first == candles.since:
            raise CandlesMissing(
                f"{count} of {count + len(candles)} 1m candles of {self.symbol} at {self.exchange.name!r} are missing "
                f"in {len(gaps)} gap(s), {first}. Fetch them, choose another frame, or let gaps count as minutes "
                "without trade: --fill-gaps. Nothing was run."
            )
        self.notes[f"{count} missing minutes in {len(gaps)} gap(s) count as minutes without trade, {first}"] = None
        times = np.arange(candles.since, candles.until, MINUTE_MS, dtype=np.int64)
        last = np.searchsorted(candles.timestamp, times, side="right") - 1
        is_there = candles.timestamp[last] == times
        close = candles.close[last]
        open_, high, low = (np.where(is_there, one[last], close) for one in (candles.open, candles.high, candles.low))
        volume = np.where(is_there, candles.volume[last], 0.0)
        return Series(candles.since, MINUTE_MS, times, open_, high, low, close, volume)

    # -- files

    def _of_file(self, interval: str) -> bk.Candles:
        if interval not in self._files:
            assert self.exchange.files is not None
            try:
                with bk.simulation_time(None):
                    found = bk.read_candle_files(
                        self.exchange.files, self.symbol, interval, self.exchange.name, on_note=self._note
                    )
            except bk.NotFound as error:
                root = Path(self.exchange.files).resolve()
                why = "" if root.exists() else f". {root} does not exist: files= begins at the working directory"
                raise CandlesMissing(f"{error}{why}. Nothing was run.") from error
            self._files[interval] = found
        return self._files[interval]

    def _note(self, text: str) -> None:
        self.notes[text] = None

    # -- the exchange

    def _fetch(self, interval: str, since: int, until: int) -> None:
        if self.exchange.ccxt is not None:
            bk.fetch_candles(self.exchange.ccxt, self.symbol, interval, self.exchange.name, since, until)
            return
        step = CANDLE_MS[interval]
        while since < until:
            count = min(PAGE, (until - since) // step)
            rows = list(self._asked(interval, since, count))
            if not rows:
                return  # What an exchange does not have stays a gap.
            try:
                with bk.simulation_time(None):
                    bk.PersistCandleAdapter.write_candles_data(rows, self.symbol, interval, self.exchange.name)
            except bk.InvalidPayload as cause:
                raise WrongCandles(f"get_candles of exchange {self.exchange.name!r}: {cause}") from cause
            since = max(since + step, rows[-1]["timestamp"] + step)

    def _asked(self, interval: str, since: int, count: int) -> Iterator[dict[str, Any]]:
        """A page of checked rows, ascending."""
        assert self.exchange.get_candles is not None
        what = f"get_candles of exchange {self.exchange.name!r} ({self.symbol}, {interval}, {since}, {count})"
        try:
            answer = self.exchange.get_candles(self.symbol, interval, since, count)
            answer = asyncio.run(_awaited(answer)) if inspect.isawaitable(answer) else answer
        except ENDS as cause:
            raise CandlesMissing(f"{what} raised {type(cause).__name__}: {cause}. Nothing was run.") from cause
        until = since + count * CANDLE_MS[interval]
        found = sorted((_row(what, row) for row in _rows(what, answer)), key=lambda row: row["timestamp"])
        last = None
        for row in found:
            if not row["low"] > 0:  # The rest of what makes a candle is judged by who stores it.
                raise WrongCandles(f"{what}: a price is not positive: {row}. Nothing was stored.")
            if row == last:
                self.notes[f"{self.exchange.name} gave candles of {self.symbol} {interval} twice; they count once"] = (
                    None
                )
            elif since <= row["timestamp"] < until:
                yield row
            last = row


async def _awaited(answer: Any) -> Any:
    return await answer


def _rows(what: str, answer: Any) -> Iterable[Any]:
    if hasattr(answer, "columns") and hasattr(answer, "to_dict"):  # A pandas DataFrame.
        answer = answer.to_dict("records")
    if answer is None or isinstance(answer, (str, bytes, Mapping)) or not isinstance(answer, Iterable):
        raise WrongCandles(f"{what} answered {answer!r:.80}, not rows. Nothing was stored.")
    return answer


def _row(what: str, row: Any) -> dict[str, Any]:
    try:
        named = row if isinstance(row, Mapping) else dict(zip(COLUMNS, row, strict=True))
        moment = int(named["timestamp"])
        if isinstance(named["timestamp"], float) and moment != named["timestamp"]:
            raise ValueError("a part of a millisecond")
        return {"timestamp": moment, **{name: float(named[name]) for name in COLUMNS[1:]}}
    except (TypeError, ValueError, KeyError, OverflowError) as cause:
        raise WrongCandles(
            f"{what} answered a row that is no candle: {row!r:.120}; wanted {', '.join(COLUMNS)}. Nothing was stored."
        ) from cause


class History:
    """What `ctx.candles` reads in a backtest: whole series, cut at the moment of each call by position.

    A longer interval is read from the store where it is complete there, otherwise made of closed minutes.

    Args:
        keep: given what a series is and a function that reads or makes it, gives the series.
    """

    def __init__(
        self,
        market: Market,
        start: int,
        end: int,
        minutes: Series,
        keep: Callable[[str, Callable[[], Series]], Series] = lambda _, make: make(),
    ) -> None:
        self.market, self.start, self.end, self.minutes, self._keep = market, start, end, minutes, keep
        self._series: dict[str, Series] = {"1m": minutes}
        self._oldest: set[str] = set()

    def bars(self, interval: str, now_ms: int, count: int) -> Bars:
        """The last `count` candles that are closed at `now_ms`."""
        series = self._series.get(interval)
        if series is None:
            series = self._load(interval, now_ms, count)
        end = (now_ms - series.first) // series.step_ms
        start = end - count
        if start < 0:
            return self._older(interval, now_ms, count)
        return Bars(series, start, end)

    def spans(self, now_ms: int) -> dict[str, tuple[int, int]]:
        """By interval, open times of the first and last candle at hand that are closed at `now_ms`."""
        return {
            interval: (series.first, (now_ms // series.step_ms - 1) * series.step_ms)
            for interval, series in self._series.items()
        }

    def _older(self, interval: str, now_ms: int, count: int) -> Bars:
        """History has to reach further back, as far as it does."""
        series = self._series[interval]
        if interval not in self._oldest:
            series = self._load(interval, now_ms, count)
        end = max(0, min((now_ms - series.first) // series.step_ms, len(series)))
        if end < count:
            self._oldest.add(interval)
            note = (
                f"ctx.candles({interval!r}, ..) gave fewer than asked for at first: history begins at "
                f"{minute_text(series.first)}"
            )
            self.market.notes[note] = None
        return Bars(series, max(0, end - count), end)

    def _load(self, interval: str, now_ms: int, count: int) -> Series:
        step = _step(interval)
        since = max(0, (min(self.start, now_ms) - (count + 1) * step) // step * step)
        until = self.end // step * step
        if step == MINUTE_MS:
            return self._minutes_from(since)
        series = self._keep(
            f"{interval} {since} {until}",
            lambda: self._stored(interval, step, since, until) or resample(self._minutes_from(since), step),
        )
        self._series[interval] = series
        return series

    def _stored(self, interval: str, step: int, since: int, until: int) -> Series | None:
        if self.market.exchange.files is not None or since >= until:
            return None
        candles = self.market._stored(interval, since, until)
        return Series.of(candles, step, since) if len(candles) and candles.is_complete else None

    def _minutes_from(self, since: int) -> Series:
        minutes = self._series["1m"]
        if minutes.first > since and "1m" not in self._oldest:
            found = self._keep(f"1m {since}", lambda: self._with_earlier(since, minutes))
            if found.first == minutes.first:
                self._oldest.add("1m")
            else:
                self._series["1m"] = minutes = found
        return minutes

    def _with_earlier(self, since: int, minutes: Series) -> Series:
        """With those before that follow each other up to the first."""
        earlier = self.market.read("1m", since, minutes.first)
        tail = tail_without_gap(np.append(earlier.timestamp, minutes.first), MINUTE_MS)
        if tail == len(earlier):
            return minutes
        return _joined(Series.of(earlier, MINUTE_MS, since).part(tail, len(earlier)), minutes)


def _joined(earlier: Series, later: Series) -> Series:
    names = ("timestamp", "open", "high", "low", "close", "volume")
    columns = [np.concatenate((getattr(earlier, name), getattr(later, name))) for name in names]
    for column in columns:
        column.flags.writeable = False
    return Series(int(earlier.timestamp[0]), later.step_ms, *columns)


def _step(interval: str) -> int:
    try:
        return CANDLE_MS[interval]
    except KeyError:
        raise DeclarationError(
            f"ctx.candles: interval must be one of {', '.join(CANDLE_MS)}, not {interval!r}"
        ) from None
