"""`bk.as_of(moment)`: the adapters of a block read what was there at a moment, out of the audit log; nothing writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from contextvars import Token
from datetime import datetime
from types import TracebackType
from typing import Any

from backtest_kit_mongo.audit.log import AuditLog, open_log
from backtest_kit_mongo.audit.past import Past, PastDocument
from backtest_kit_mongo.coherence.inventory import Selection
from backtest_kit_mongo.coherence.lists import ALL, Only
from backtest_kit_mongo.coherence.moments import iso, millis, moment_ms
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.drivers.scopes import ReadOnly, Scope, current
from backtest_kit_mongo.errors import CallerError
from backtest_kit_mongo.look_ahead import simulation_time

__all__ = ["AsOf", "as_of"]


class AsOf(ReadOnly):
    """The block. Candles are cut at the moment as in `simulation_time`.

    Attributes:
        moment: epoch milliseconds.
        missing: sentences: what the log no longer has of what was read, or never had.
    """

    def __init__(self, moment: int, log: Callable[[], AbstractContextManager[AuditLog]]) -> None:
        self.moment = moment
        self.missing: list[str] = []
        self._open = log
        self._past: Past | None = None
        self._stack = ExitStack()
        self._token: Token[Scope | None] | None = None

    def __enter__(self) -> AsOf:
        if self._token is not None:
            raise CallerError("this block is open already; make another one with bk.as_of(..)")
        with ExitStack() as stack:
            self._past = Past(stack.enter_context(self._open()), self.moment, self._tell)
            stack.enter_context(simulation_time(self.moment, guards_threads=False))
            self._stack = stack.pop_all()
        self._token = self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._token is not None
        current.reset(self._token)
        self._token = None
        self._stack.close()

    def documents(
        self, *, strategy: str | None = None, symbol: str | None = None, exchange: str | None = None
    ) -> Iterator[PastDocument]:
        """All documents that belonged to these names, with what hung on their signals.

        Raises:
            CallerError: nothing was named.
        """
        named = {"symbol": symbol, "strategyName": strategy, "exchangeName": exchange}
        chosen = Selection(tuple((name, value) for name, value in named.items() if value is not None))
        if not chosen.names:
            raise CallerError("name a strategy, a symbol or an exchange")
        return self._of_then.chosen(chosen)

    @property
    def _of_then(self) -> Past:
        if self._past is None or self._token is None:
            raise CallerError("bk.as_of(..) is read inside its `with` block")
        return self._past

    def _tell(self, sentence: str) -> None:
        if sentence not in self.missing:
            self.missing.append(sentence)

    # -- what adapters ask

    def read(self, store: Any, key: Key) -> Record:
        return self._of_then.read(key)

    def scan(self, store: Any, scope: Key, **how: Any) -> Iterator[Record]:
        only: Only = how.get("only", ALL)
        limit = how.get("limit")
        found = self._of_then.scan(scope)
        if only != ALL or limit is not None:
            found.sort(key=_changed, reverse=True)
        fitting = (one.record for one in found if only.fits(one.record, _changed(one)))
        return iter([record for record in fitting if record.visible(how.get("when"))][:limit])

    def refusal(self, key: Key) -> CallerError:
        return CallerError(
            f"{key}: inside bk.as_of({self.moment}) the past is read ({iso(self.moment)}), and nothing can be written. "
            "Nothing was."
        )


def _changed(one: PastDocument) -> int:
    written = one.change.written_at
    return 0 if written is None else millis(written)


def as_of(moment: int | datetime) -> AsOf:
    """A read-only block in which adapters read what they would have read at a moment.

        with bk.as_of(1_764_424_980_000) as then:
            bk.PersistSignalAdapter.read_signal_data("BTC/USDT", "trend", "binance")
        then.missing  # what the audit log could not tell

    It needs the audit log, so MongoDB and a worker. A revision counts if the minute of the step that wrote it, else its
    simulation time, else its writer's clock is not later. Adapters over classes of your own, `BaseCRUD` and
    `get_mongo()` know nothing of it.

    Raises:
        InvalidKey: no moment.
        CallerError: by a write in the block.
    """
    return AsOf(moment_ms(moment, "as_of"), open_log)
