"""Runs in the background, under the names that the original gives them:
`Backtest` and `Live`, each with `run/background/stop/list/get_status`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import backtest_kit_mongo as bk
from backtest_kit import running
from backtest_kit.errors import DeclarationError
from backtest_kit.moments import minute_text
from backtest_kit.results import Result

__all__ = ["BackgroundRun", "Backtest", "Live"]

Status: TypeAlias = Literal["waiting", "running", "done", "failed", "stopped"]


class Stopped(Exception):
    """Ends a replay from within; never leaves this module."""


@dataclass(slots=True, eq=False)
class BackgroundRun:
    """A run in a thread of its own. Backtests of a process run one after the other; of live runs it has one.

    Attributes:
        status: waiting, running, done, failed or stopped.
        at: the simulated minute that it has reached, epoch ms; 0 before the first.
        result: when done.
        error: why it failed.
    """

    symbol: str
    strategy: str | None
    exchange: str | None
    frame: Any
    mode: Literal["backtest", "live"] = "backtest"
    status: Status = "waiting"
    at: int = 0
    result: Result | None = None
    error: BaseException | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def stop(self) -> None:
        """End it soon. A backtest has no result then; a live run takes no new positions and ends when none is held."""
        self._stop.set()

    def wait(self, timeout_s: float | None = None) -> Result:
        """Its result, when it is done.

        Raises:
            TimeoutError: it takes longer.
            DeclarationError: it was stopped.
            Exception: that which it failed with.
        """
        assert self._thread is not None
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"the run is {self.status} at {minute_text(self.at)}")
        if self.error is not None:
            raise self.error
        if self.result is None:
            raise DeclarationError("the run was stopped before it had a result")
        return self.result

    def _moved(self, now_ms: int) -> None:
        self.status, self.at = "running", now_ms
        if self._stop.is_set():
            raise Stopped

    def _backtest(self) -> Result:
        return running.backtest(
            self.symbol, strategy=self.strategy, exchange=self.exchange, frame=self.frame, progress=self._moved
        )

    def _live(self) -> Result:
        self.status = "running"
        job = running.choose(self.symbol, "live", strategy=self.strategy, exchange=self.exchange)
        return running.run_job(job, stop=self._stop)

    def _run(self, reported: Callable[[BackgroundRun], object] | None) -> None:
        try:
            if self._stop.is_set():
                raise Stopped
            self.result = self._backtest() if self.mode == "backtest" else self._live()
            self.status = "done"
        except Stopped:
            self.status = "stopped"
        except Exception as error:
            self.error, self.status = error, "failed"
        if reported is not None:
            reported(self)


class Runs:
    """All runs of a mode that were started here."""

    def __init__(self, mode: Literal["backtest", "live"]) -> None:
        self._mode: Literal["backtest", "live"] = mode
        self._runs: list[BackgroundRun] = []

    def run(
        self, symbol: str, *, strategy: str | None = None, exchange: str | None = None, frame: Any = None
    ) -> Result:
        """Run and wait for the end: `bt.backtest`, or `bt.live`, which has no frame."""
        chosen: dict[str, Any] = {"strategy": strategy, "exchange": exchange, "frame": frame}
        return (running.backtest if self._mode == "backtest" else running.live)(symbol, **chosen)

    def background(
        self,
        symbol: str,
        *,
        strategy: str | None = None,
        exchange: str | None = None,
        frame: Any = None,
        on_end: Callable[[BackgroundRun], object] | None = None,
    ) -> BackgroundRun:
        """Run in a thread; `on_end` is called when it has ended, whichever way.

        Raises:
            DeclarationError: from within a strategy, whose own run it would wait for; or a live run is under way.
        """
        if _is_simulated():
            raise DeclarationError(
                "a run in the background waits for the one before it: from within a strategy it would wait for itself. "
                "Use bt.backtest(.., frame=(from, ctx.now))."
            )
        if self._mode == "live":
            self._require_free(frame)
        one = BackgroundRun(symbol, strategy, exchange, frame, self._mode)
        one._thread = threading.Thread(target=one._run, args=(on_end,), name=f"{self._mode}-{symbol}", daemon=True)
        self._runs.append(one)
        one._thread.start()
        return one

    def list(self) -> Sequence[BackgroundRun]:
        """Those that were started in the background, oldest first."""
        return tuple(self._runs)

    def stop(self, symbol: str, strategy: str | None = None) -> int:
        """Stop those of a symbol, or of a symbol and strategy; answers how many were asked to."""
        found = [one for one in self._found(symbol, strategy) if one.status in ("waiting", "running")]
        for one in found:
            one.stop()
        return len(found)

    def get_status(self, symbol: str, strategy: str | None = None) -> Status:
        """Of the newest.

        Raises:
            DeclarationError: none was started.
        """
        found = self._found(symbol, strategy)
        if not found:
            raise DeclarationError(f"no {self._mode} run of {symbol!r} was started in the background")
        return found[-1].status

    def _require_free(self, frame: Any) -> None:
        if frame is not None:
            raise DeclarationError("live runs from now on; a frame is a backtest's. Nothing was run.")
        busy = next((one for one in self._runs if one.status in ("waiting", "running")), None)
        if busy is not None:
            raise DeclarationError(
                f"this process runs {busy.symbol} live, and one is what it may: start another process. Nothing was run."
            )

    def _found(self, symbol: str, strategy: str | None) -> Sequence[BackgroundRun]:
        return [one for one in self._runs if one.symbol == symbol and strategy in (None, one.strategy)]


def _is_simulated() -> bool:
    """Whether this thread works for a strategy."""
    try:
        return bk.simulation_now("a run in the background") is not None
    except bk.LookAhead:
        return False  # Another thread does.


Backtest: Final = Runs("backtest")
Live: Final = Runs("live")
