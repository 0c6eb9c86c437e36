"""What outlives a bot: the clock, the candles and the broker's book. One SQLite file, so a kill tears nothing."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from backtest_kit.identity import MINUTE_MS
from backtest_kit.orders.broker import BrokerOrder, BrokerPosition, OrderState
from backtest_kit.replay import Columns

_TABLES = """
create table if not exists clock (only_row integer primary key check (only_row = 1), now_ms integer not null);
create table if not exists orders (id text primary key, side text, quantity real, price real);
create table if not exists sent (id text, pid integer);
create table if not exists waited (pid integer);
create table if not exists asked (minute integer, pid integer);
create table if not exists ending (minutes integer not null);
"""


class Desk:
    """Clock and broker. A connection of each process's own: make it there."""

    def __init__(self, path: Path, start_ms: int) -> None:
        self._book = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        self._book.execute(
            "pragma synchronous = off"
        )  # A killed process loses nothing by that, a killed machine would.
        self._book.executescript(_TABLES)
        self._book.execute("insert or ignore into clock values (1, ?)", (start_ms,))
        self.pid = 0

    # -- clock

    def now_ms(self) -> int:
        (now,) = self._book.execute("select now_ms from clock").fetchone()
        return int(now)

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Time passes only while a bot waits for it."""
        self._book.execute("insert into waited values (?)", (self.pid,))
        self._book.execute("update clock set now_ms = now_ms + ?", (max(1, round(seconds * 1000)),))

    def end_in(self, minutes: int, start_ms: int) -> int:
        """Processes that begin from now on stop so many minutes after the present one. Minutes from the start on."""
        found = (self.now_ms() - start_ms) // MINUTE_MS + minutes
        self._book.execute("insert into ending values (?)", (found,))
        return int(found)

    def ending(self) -> int | None:
        """How many minutes are lived at most, if that was said."""
        (found,) = self._book.execute("select min(minutes) from ending").fetchone()
        return None if found is None else int(found)

    # -- broker

    def submit(self, order: BrokerOrder) -> OrderState:
        self._book.execute("insert into sent values (?, ?)", (order.client_order_id, self.pid))
        values = (order.client_order_id, order.side, order.quantity, order.price)
        self._book.execute("insert into orders values (?, ?, ?, ?)", values)
        return OrderState(order.client_order_id, "done", order.quantity, order.price)

    def find(self, client_order_id: str, symbol: str) -> OrderState | None:
        row = self._book.execute("select quantity, price from orders where id = ?", (client_order_id,)).fetchone()
        return None if row is None else OrderState(client_order_id, "done", *row)

    def cancel(self, client_order_id: str, symbol: str) -> OrderState:
        return OrderState(client_order_id, "cancelled", 0.0)

    def positions(self, symbol: str) -> Sequence[BrokerPosition]:
        return ()

    # -- what the verdict looks at

    def note_asked(self, minute_ms: int) -> None:
        self._book.execute("insert into asked values (?, ?)", (minute_ms, self.pid))

    def waited_by(self, pid: int) -> int:
        """For how many minutes a process has waited."""
        (found,) = self._book.execute("select count(*) from waited where pid = ?", (pid,)).fetchone()
        return int(found)

    def close(self) -> None:
        self._book.close()

    def asked(self) -> set[int]:
        """Minutes (ms) in which the strategy was asked."""
        return {int(row[0]) for row in self._book.execute("select minute from asked")}

    def sent_twice(self) -> list[str]:
        return [row[0] for row in self._book.execute("select id from sent group by id having count(*) > 1")]

    def asked_twice(self) -> list[int]:
        return [row[0] for row in self._book.execute("select minute from asked group by minute having count(*) > 1")]

    def count(self, table: str) -> int:
        (found,) = self._book.execute(f"select count(*) from {table}").fetchone()  # noqa: S608 - names of this file
        return int(found)


class CandlesAtDesk:
    """A `get_candles` that gives what has closed by the desk's clock."""

    def __init__(self, desk: Desk, candles: Columns) -> None:
        self._desk, self._candles = desk, candles

    def __call__(self, symbol: str, interval: str, since: int, limit: int) -> list[list[float]]:
        all_of, first = self._candles, int(self._candles.timestamp[0])
        begin = max(0, -(-(since - first) // MINUTE_MS))
        end = min(begin + limit, max(begin, (self._desk.now_ms() - first) // MINUTE_MS))
        cut = slice(begin, end)
        columns = (all_of.timestamp, all_of.open, all_of.high, all_of.low, all_of.close, all_of.volume)
        return [list(row) for row in zip(*(column[cut].tolist() for column in columns), strict=True)]
