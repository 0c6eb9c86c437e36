"""Connections of one process to one PostgreSQL: few, each for one statement at a time, none that is known to be dead.

A statement is a transaction of its own. It is never sent twice: whether the first one was carried out is not known when
a connection breaks under it, and another process may have written since. A server that was restarted while nobody asked
is noticed before anything is sent, so that costs nobody an error.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, Final

from backtest_kit_mongo import locks
from backtest_kit_mongo.connect import postgres_at
from backtest_kit_mongo.errors import (
    BacktestKitError,
    ReadFailed,
    ServerUnreachable,
    UnsafeServer,
    WriteOutcomeUnknown,
    WriteRefused,
)

logger = locks.logger(__name__)

NO_TABLE: Final = "42P01"
_UNKNOWN: Final = ("08", "57P", "40003")
"""States of an error after which a statement may have been carried out: the connection, or the server, ended."""
_PREPARE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') "
    "IN ('off', 'local', 'remote_write')"
)
"""What was acknowledged is on disk, here and on standbys that the server waits for."""
_LOOK: Final = (
    "SELECT current_setting('server_encoding'), current_setting('fsync'), current_setting('full_page_writes')"
)


class NoTable(ReadFailed):
    """The table that was named does not exist. Nothing was read or written."""


class PostgresLink:
    """Thread-safe; of one process, a forked child makes its own.

    Args:
        uri: a connection string; secret.
        timeout_ms: bound on connecting, on waiting for a free connection and on a statement.
        connections_max: how many are open at most.
    """

    def __init__(self, uri: str, timeout_ms: int, connections_max: int) -> None:
        self._uri, self._timeout_ms, self._max = uri, timeout_ms, connections_max
        # Both are the interpreter's own and need no lock, so a signal handler may come in between.
        self._permits: SimpleQueue[None] = SimpleQueue()
        self._idle: deque[Any] = deque()
        self._is_known = False
        self._process = os.getpid()
        for _ in range(connections_max):
            self._permits.put(None)

    def read(self, statement: Any, *values: object) -> list[tuple[Any, ...]]:
        """
        Raises:
            NoTable, ServerUnreachable, ReadFailed.
        """
        with self._connection() as connection:
            try:
                return list(connection.execute(statement, values).fetchall())
            except Exception as cause:
                raise _read_error(cause) from cause

    def write(self, statement: Any, *values: object) -> int:
        """How many rows it was that the statement changed. They are durable.

        Raises:
            NoTable, ServerUnreachable, WriteRefused: nothing was written.
            WriteOutcomeUnknown.
        """
        with self._connection() as connection:
            try:
                return int(connection.execute(statement, values).rowcount)
            except Exception as cause:
                raise _write_error(cause) from cause

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        try:
            self._permits.get(timeout=self._timeout_ms / 1000)
        except Empty:
            raise ServerUnreachable(
                f"PostgreSQL: all {self._max} connections of this process are busy. Nothing was read or written; "
                "CC_POSTGRES_CONNECTIONS_MAX allows more."
            ) from None
        connection = None
        try:
            connection = self._living() or self._connected()
            yield connection
        except NoTable:
            self._idle.append(connection)
            raise
        except BaseException:
            if connection is not None:
                connection.close()  # Whatever it is in the middle of.
            raise
        else:
            self._idle.append(connection)
        finally:
            self._permits.put(None)

    def _living(self) -> Any:
        """The connection that was used last, unless the server has closed it: then there is something to read."""
        while self._idle:
            connection = self._idle.pop()
            poll = select.poll()
            poll.register(connection.fileno(), select.POLLIN)
            if not poll.poll(0):
                return connection
            connection.close()
        return None

    def _connected(self) -> Any:
        connection = postgres_at(self._uri, "backtest-kit-mongo", self._timeout_ms)
        try:
            connection.execute(_PREPARE)
            if not self._is_known:
                self._know(*connection.execute(_LOOK).fetchone())
        except BacktestKitError:
            connection.close()
            raise
        except Exception as cause:
            connection.close()
            raise ServerUnreachable(f"PostgreSQL: {said(cause)}. Nothing was read or written.") from cause
        return connection

    def _know(self, encoding: str, fsync: str, pages: str) -> None:
        if encoding != "UTF8":
            raise UnsafeServer(
                f"PostgreSQL: the database's encoding is {encoding:.20}, which cannot hold every id. Nothing was "
                "written. Create one with ENCODING 'UTF8'."
            )
        if "off" in (fsync, pages):
            logger.warning(
                "PostgreSQL runs with fsync or full_page_writes off: a power failure may lose or tear values"
            )
        self._is_known = True

    def close(self) -> None:
        """Those that nobody uses; in a forked child nothing, they are the parent's."""
        while self._idle and os.getpid() == self._process:
            self._idle.pop().close()


def said(cause: BaseException) -> str:
    """What the server or the library says, in one line, without the values of the statement."""
    text = getattr(getattr(cause, "diag", None), "message_primary", None) or str(cause) or type(cause).__name__
    return "".join(char if char.isprintable() else " " for char in text)[:300]


def _state(cause: BaseException) -> str:
    return getattr(cause, "sqlstate", None) or ""


def _is_broken(cause: BaseException) -> bool:
    return not _state(cause) or _state(cause).startswith(_UNKNOWN)


def _read_error(cause: Exception) -> Exception:
    if _state(cause) == NO_TABLE:
        return NoTable("PostgreSQL: there is no such table")
    kind = ServerUnreachable if _is_broken(cause) else ReadFailed
    return kind(f"PostgreSQL: {said(cause)}. Nothing was read.")


def _write_error(cause: Exception) -> Exception:
    if _state(cause) == NO_TABLE:
        return NoTable("PostgreSQL: there is no such table")
    if _is_broken(cause):
        return WriteOutcomeUnknown(
            f"PostgreSQL: {said(cause)}. Whether it was written is unknown: read it, or write it again."
        )
    return WriteRefused(f"PostgreSQL refused it, nothing was written: {said(cause)}")
