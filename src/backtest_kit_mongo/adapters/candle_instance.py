"""The candles of one series: windows of rows as in the original's contract, and columns.

NumPy is imported by those who use candles, not by `import backtest_kit_mongo`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel

from backtest_kit_mongo import locks
from backtest_kit_mongo.adapters.bound import Bound, checked_limit
from backtest_kit_mongo.adapters.contracts import CandleReport, CandleTable, Payload, Row, When
from backtest_kit_mongo.adapters.list_rows import several
from backtest_kit_mongo.candles.intervals import grid_of
from backtest_kit_mongo.coherence.codec import dump, plain_scalar
from backtest_kit_mongo.coherence.moments import FROM_MS, UNTIL_MS, moment_ms
from backtest_kit_mongo.coherence.series import Appended
from backtest_kit_mongo.domains import table
from backtest_kit_mongo.domains.checks import check
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import InvalidKey, InvalidPayload, ServerUnreachable, WriteOutcomeUnknown, WriteRefused
from backtest_kit_mongo.look_ahead import refuse, simulation_now

if TYPE_CHECKING:
    from backtest_kit_mongo.candles.columns import Columns, Mask
    from backtest_kit_mongo.candles.frame import Candles
    from backtest_kit_mongo.candles.offering import Offer

logger = locks.logger(__name__)

END_OF_TIME: Final = 2**53
CHUNK_ROWS: Final = 10_000
"""Candles of one insert and one change event."""


class CandleInstance(Bound):
    """Closed candles; the first write of a candle wins."""

    _domain = table.CANDLE

    def __init__(
        self,
        store: Store,
        symbol: str,
        interval: str,
        exchange_name: str,
        *,
        clock_ms: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(store, exchange_name, symbol, interval)
        self._names = (symbol, interval, exchange_name)
        self._grid = grid_of(interval)
        self._clock_ms = clock_ms or store.now_ms

    def read_candles_data(self, limit: int, since_timestamp: int, until_timestamp: int) -> list[Row] | None:
        """`limit` candles from `since_timestamp` (ms) on, ascending;

        None if any is missing. `until_timestamp` is implied by `limit`.
        """
        count = checked_limit(limit) or 0
        since = self._aligned(self._moment("since_timestamp", since_timestamp))
        end, now = self._grid.shift(since, count), simulation_now(self._context)
        if now is not None and end > now:
            raise refuse(self._context, f"asked for a window that ends at {end}", now)
        rows = self._store.window(self._context, since, end) if count else []
        if len(rows) > count:  # Foreign documents may lie between two open times.
            rows = [row for row in rows if not self._grid.rest(row["timestamp"])]
        if len(rows) != count:
            return None
        moment = since
        for row in rows:
            if row["timestamp"] != moment:
                return None
            moment = self._grid.after(moment)
        return rows

    def read_candles(self, since: When, until: When, when: When | None = None) -> Candles:
        """Candles that open at `since` or later and before `until`, column by column; `.gaps` says what is missing.

        Args:
            since, until: epoch milliseconds or datetimes with a zone; they need not be open times. From 0
                to 2**53 is all there is.
            when: simulation time: candles that close later than this are not seen. Default: the one in force.

        Raises:
            InvalidKey: a moment is not one (see `moment_ms`), or `until` lies before `since`.
            LookAhead: `when`, or without it `until`, lies after the simulation time in force.
            ServerUnreachable, ReadFailed: nothing was read.
        """
        first = self._moment("since", since)
        end = END_OF_TIME if until == END_OF_TIME else self._moment("until", until)
        if end < first:
            raise InvalidKey(f"{self._context}: until ({end}) lies before since ({first})")
        seen_at = self._seen_at(end, when)
        if seen_at is not None:
            end = max(first, min(end, self._grid.floor(seen_at)))
        return self.between(first, end)

    def between(self, first: int, end: int) -> Candles:
        """`read_candles` of a range (ms) that is known to be meant, for example because it was read from the store."""
        from backtest_kit_mongo.candles.columns import empty
        from backtest_kit_mongo.candles.frame import Candles

        columns = self._store.columns(self._context, self._grid, first, end) if first < end else empty()
        return Candles(*self._names, first, end, self._grid, columns)

    def _seen_at(self, end: int, when: When | None) -> int | None:
        """The simulation time of a read: the caller's, else the one in force.

        Raises:
            LookAhead: it asks for what opens after the one in force.
        """
        moment = None if when is None else self._moment("when", when)
        now = simulation_now(self._context)
        if now is None:
            return moment
        if moment is not None and moment > now:
            raise refuse(self._context, f"read with when={moment}", now)
        if moment is None and end > now:
            raise refuse(self._context, f"asked for candles that open before {end}", now)
        return now if moment is None else moment

    def write_candles_data(self, candles: Sequence[Payload]) -> CandleReport:
        """Store closed candles; a candle that is stored already is kept, one that is not closed yet is refused and
        reported.

        Raises:
            InvalidPayload: a candle has a missing, non-finite or contradictory column or a misaligned time, or they are
                evidently of a coarser interval; the message names it. No candle was written.
        """
        rows = list(several(self._context, candles))  # An iterator could be read only once.
        return self._write_offer(self._plain_offer(rows)) if rows else CandleReport(0, 0)

    def write_candles(self, candles: CandleTable, *, sparse: bool = False) -> CandleReport:
        """`write_candles_data` of a table: `Candles`, a frame of pandas or polars, an Arrow table, a mapping of arrays
        (`timestamp` in epoch milliseconds, `open`, `high`, `low`, `close`, `volume`), rows as ccxt gives them, or
        dicts; in any order of time.

        Args:
            sparse: they are of this interval although the distances between them are those of a coarser one.

        Raises:
            InvalidPayload: a column or a candle is wrong, or they are evidently of a coarser interval; the message
                names it. No candle was written.
            WriteOutcomeUnknown: the message says up to which candle they are stored for sure; writing them again is
                safe.
        """
        from backtest_kit_mongo.candles.offering import of_table

        return self._write_offer(of_table(self._context, candles, self._grid), sparse=sparse)

    def checked(self, candles: CandleTable, *, sparse: bool = False) -> Columns:
        """What `write_candles` would store in an empty series, ascending: closed candles, the first of each open time.

        Raises:
            InvalidPayload: as `write_candles`.
        """
        from backtest_kit_mongo.candles.columns import empty
        from backtest_kit_mongo.candles.offering import of_table, rounds

        offer = self._plausible(of_table(self._context, candles, self._grid), sparse=sparse)
        return next(rounds(offer.take(self._are_closed(offer))), empty())

    def _plain_offer(self, candles: Sequence[Payload]) -> Offer:
        from backtest_kit_mongo.candles.offering import find_fault, of_rows

        # One at a time costs ten times as much, and finds out which candle has something else than numbers.
        plain: Any = candles if _are_plain(candles) else [self._row(index, one) for index, one in enumerate(candles)]
        try:
            offer = of_rows(plain)
        except OverflowError as cause:
            raise InvalidPayload(f"{self._context}: {cause}. No candle was written.") from cause
        if (fault := find_fault(offer, self._grid)) is not None:
            raise InvalidPayload(f"{self._context}: {fault}. No candle was written.")
        return offer

    def _row(self, index: int, candle: Payload) -> Row:
        data: Any = dump(candle) if isinstance(candle, BaseModel) else candle
        try:
            row = {name: plain_scalar(data[name]) for name in _COLUMNS}
        except (KeyError, TypeError) as cause:
            moment = data.get("timestamp") if isinstance(data, dict) else None
            named = f"candle {index}" if moment is None else f"candle {index} at {moment!r:.40}"
            fault = f"has no column {cause}" if isinstance(cause, KeyError) else f"is no mapping, but {candle!r:.40}"
            raise InvalidPayload(f"{self._context}: {named} {fault}. No candle was written.") from cause
        for name, value in row.items():
            if name != "timestamp" and not isinstance(
                value, (int, float, str)
            ):  # Of texts the check says what is wrong.
                raise InvalidPayload(
                    f"{self._context}: candle {index} at {row['timestamp']!r:.40}: {name} is a "
                    f"{type(value).__name__}, which cannot be stored; "
                    "float() makes a number of it. No candle was written."
                )
        try:
            check(self._context, row)
        except InvalidPayload as cause:
            raise InvalidPayload(
                f"candle {index} at {row['timestamp']!r:.40}: {cause} No candle was written."
            ) from cause
        return row

    def _write_offer(self, offer: Offer, *, sparse: bool = False) -> CandleReport:
        from backtest_kit_mongo.candles.offering import rounds

        is_closed = self._are_closed(self._plausible(offer, sparse=sparse))
        unclosed = tuple(offer.timestamp[~is_closed].tolist())
        if unclosed:
            logger.warning(
                "%s: %d candle(s) not closed yet were not stored, first at %d",
                self._context,
                len(unclosed),
                unclosed[0],
            )
        new = count = 0
        conflicts: set[int] = set()
        for number, columns in enumerate(rounds(offer.take(is_closed))):
            count += len(columns) if number == 0 else 0
            for appended in self._append(columns, is_first=number == 0):
                new += len(appended.new)
                conflicts.update(conflict.timestamp for conflict in appended.conflicts)
        if conflicts:
            logger.warning(
                "%s: %d candle(s) are stored with other values and were kept as they are, first at %d",
                self._context,
                len(conflicts),
                min(conflicts),
            )
        return CandleReport(new, count - new, unclosed, tuple(sorted(conflicts)))

    def _plausible(self, offer: Offer, *, sparse: bool) -> Offer:
        from backtest_kit_mongo.candles.plausible import other_interval

        if not sparse and (said := other_interval(offer.timestamp, self._grid)) is not None:
            raise InvalidPayload(
                f"{self._context}: {said}. No candle was written. If this market rarely trades: write_candles(..., "
                "sparse=True)"
            )
        return offer

    def _are_closed(self, offer: Offer) -> Mask:
        """First write wins: a bar stored before its end would be frozen with a price that never was its close."""
        closed: Mask = self._grid.after(offer.timestamp) <= self._clock_ms()
        return closed

    def _append(self, columns: Columns, *, is_first: bool) -> list[Appended]:
        from backtest_kit_mongo.candles.columns import take

        appended: list[Appended] = []
        for start in range(0, len(columns), CHUNK_ROWS):
            try:
                chunk = take(columns, slice(start, start + CHUNK_ROWS))
                appended.append(self._store.append(self._context, chunk, self._grid))
            except (ServerUnreachable, WriteRefused, WriteOutcomeUnknown) as cause:
                if start == 0 and is_first:
                    raise
                stored = f"all before {columns.timestamp[start]}" if is_first else "all"
                raise WriteOutcomeUnknown(
                    f"{self._context}: of the candles {stored} are stored; write them again: {cause}"
                ) from cause
        return appended

    def _aligned(self, moment: int) -> int:
        if type(moment) is not int or self._grid.rest(moment):
            raise InvalidKey(
                f"{self._context}: {moment!r} is not a candle's open time: it must be epoch milliseconds (int), "
                f"{self._grid.said}"
            )
        return moment

    def _moment(self, name: str, moment: When) -> int:
        if type(moment) is int and FROM_MS <= moment < UNTIL_MS:
            return moment  # Nearly always: what a message would call it costs more than the check.
        return moment_ms(moment, f"{self._context}: {name}")


_COLUMNS: Final = ("timestamp", *table.CANDLE.fields)
_NUMBERS: Final = ({int}, {float}, {int, float})


def _are_plain(candles: Sequence[Payload]) -> bool:
    """Whether all are dicts of ordinary numbers, as nearly always."""
    if set(map(type, candles)) != {dict}:
        return False
    try:
        columns = [{type(candle[name]) for candle in candles} for name in _COLUMNS]  # type: ignore[index]
    except KeyError:
        return False
    return columns[0] == {int} and all(kinds in _NUMBERS for kinds in columns)
