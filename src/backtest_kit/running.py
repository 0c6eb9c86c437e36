"""From names to a run: what is declared, what is chosen, one replay."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

import backtest_kit_mongo as bk
from backtest_kit import declare
from backtest_kit.calling import CallingStrategy, Progress, ProgressStrategy
from backtest_kit.context import Context
from backtest_kit.coroutines import Coroutines
from backtest_kit.declare import Declared, Exchange, Frame, Risk, Strategy
from backtest_kit.errors import CandlesMissing, DeclarationError
from backtest_kit.events import Event
from backtest_kit.identity import MINUTE_MS, ContextId, Mode
from backtest_kit.market import History, Market
from backtest_kit.moments import minute_text
from backtest_kit.replay import replay
from backtest_kit.results import Prices, Result
from backtest_kit.risk import RiskBook
from backtest_kit.rules import DEFAULT, Rules

__all__ = ["Job", "backtest", "choose"]

logger = logging.getLogger(__name__)

D = TypeVar("D", bound=declare.Named)

RUNS_DIRECTORY: Final = Path("dump") / "runs"
"""What runs keep in files, below the working directory."""

_one_at_a_time = threading.RLock()
"""Adapters belong to the process, and so does the mode that they are in."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run with everything chosen.

    Attributes:
        frame: of a backtest; None in paper and live.
        rules: of the lifecycle.
        fill_gaps: missing minutes count as minutes without trade.
    """

    strategy: Strategy
    exchange: Exchange
    risks: tuple[Risk, ...]
    symbol: str
    mode: Mode
    frame: Frame | None = None
    rules: Rules = DEFAULT
    fill_gaps: bool = False

    @property
    def identity(self) -> ContextId:
        return ContextId(
            self.symbol, self.strategy.name, self.exchange.name, self.frame.name if self.frame else "", self.mode
        )

    def books(self) -> list[RiskBook]:
        """New books of positions for its risks."""
        return [RiskBook(risk.name, risk.validations) for risk in self.risks]


def choose(
    symbol: str,
    mode: Mode,
    *,
    strategy: str | Strategy | None = None,
    exchange: str | Exchange | None = None,
    frame: str | Frame | tuple[object, object] | None = None,
    rules: Rules = DEFAULT,
    fill_gaps: bool = False,
) -> Job:
    """What a run works with. What is not named is the only one declared; a missing exchange is the store alone, under
    the name `store`; a missing frame is all that there are candles for.

    Raises:
        DeclarationError: something is not declared, or there are several and none is named.
        CandlesMissing: there are no candles to make a frame of.
    """
    if not isinstance(symbol, str) or not symbol.strip():  # type: ignore[redundant-expr] # not everybody checks types
        raise DeclarationError(f"a symbol is a text as BTC/USDT, not {symbol!r:.80}")
    chosen = _one(declare.strategies, strategy, "--strategy")
    if chosen is None:
        raise DeclarationError(
            "no strategy is declared; write one: @bt.strategy(interval='15m') over a function of ctx"
        )
    market = _one(declare.exchanges, exchange, "--exchange")
    market = Exchange("store") if market is None else market
    risks = tuple(declare.risks.get(name) for name in chosen.risks)
    if mode != "backtest":
        _require_present(mode, market, frame, fill_gaps=fill_gaps)
    framed = _frame(frame, market, symbol, rules) if mode == "backtest" else None
    job = Job(chosen, market, risks, symbol, mode, framed, rules, fill_gaps)
    if mode != "backtest":
        from backtest_kit import bot

        bot.require_orders(job)
    return job


def _require_present(mode: Mode, market: Exchange, frame: object, *, fill_gaps: bool) -> None:
    if frame or fill_gaps:
        raise DeclarationError(f"{mode} runs from now on; a frame and fill_gaps are a backtest's. Nothing was run.")
    if market.files is not None:
        raise DeclarationError(
            f"exchange {market.name!r} reads files, and {mode} needs candles as they close: get_candles=, ccxt=, or "
            "the store alone. Nothing was run."
        )


def _one(kind: Declared[D], wanted: str | D | None, option: str) -> D | None:
    if isinstance(wanted, str):
        return kind.get(wanted)
    if wanted is not None:
        return wanted
    found = kind.list()
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise DeclarationError(f"several of kind {kind.kind} are declared ({names}); choose one with {option}")
    return next(iter(found), None)


def _frame(wanted: object, exchange: Exchange, symbol: str, rules: Rules) -> Frame:
    if isinstance(wanted, Frame):
        return wanted
    if isinstance(wanted, str) and ".." not in wanted:
        return declare.frames.get(wanted)
    if wanted is not None:
        pair = wanted.split("..", 1) if isinstance(wanted, str) else wanted
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise DeclarationError(f"a frame is a name, 'FROM..TO' or a pair of moments, not {wanted!r:.80}")
        start, end = pair
        if "" in (start, end):
            raise DeclarationError(
                f"--frame {wanted!r} lacks a moment: write both, as 2024-02-08..2024-02-09. Without --frame a backtest "
                "takes all candles that there are."
            )
        return declare.make_frame(f"{start}..{end}", start, end)
    if (frame := _one(declare.frames, None, "--frame")) is not None:
        return frame
    span = Market(exchange, symbol).span()
    if span is None:
        raise CandlesMissing(
            f"there are no 1m candles of {symbol} at exchange {exchange.name!r}, and no frame is given. Bring some in "
            "(bkm candles import), or give an exchange that has them and --frame FROM..TO. Nothing was run."
        )
    start_ms, end_ms = span[0] + rules.vwap_candles * MINUTE_MS, span[1] + MINUTE_MS
    return Frame(f"{minute_text(start_ms)}..{minute_text(end_ms)}".replace(" ", "T"), start_ms, max(start_ms, end_ms))


def backtest(
    symbol: str,
    *,
    strategy: str | Strategy | None = None,
    exchange: str | Exchange | None = None,
    frame: str | Frame | tuple[object, object] | None = None,
    rules: Rules = DEFAULT,
    fill_gaps: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Replay a declared strategy. One at a time in a process; for many runs start many processes.

    Args:
        strategy, exchange: names; may be left out where one is declared.
        frame: a declared one's name, "FROM..TO", or a pair of moments; default: all candles that there are.

    Raises:
        DeclarationError, CandlesMissing, WrongCandles: the run did not start.
        StrategyFailed, LookAhead: the strategy ended it.
    """
    job = choose(
        symbol, "backtest", strategy=strategy, exchange=exchange, frame=frame, rules=rules, fill_gaps=fill_gaps
    )
    return run_backtest(job, progress)


def run_backtest(job: Job, progress: Progress | None = None) -> Result:
    """Replay a job."""
    run_id = f"{time.strftime('%y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
    return replay_job(job, run_id, RUNS_DIRECTORY / run_id, _history, progress)


def _history(job: Job) -> History:
    assert job.frame is not None
    market = Market(job.exchange, job.symbol, fill_gaps=job.fill_gaps)
    minutes = market.minutes(job.frame.start, job.frame.end, job.rules.vwap_candles)
    return History(market, job.frame.start, job.frame.end, minutes)


def replay_job(
    job: Job, run_id: str, directory: Path, read: Callable[[Job], History], progress: Progress | None = None
) -> Result:
    """Replay a job under a given id.

    Args:
        directory: for what it keeps in files.
        read: its candles; called in the mode of a backtest.
    """
    frame = job.frame
    assert frame is not None
    with _one_at_a_time:
        _require_past(frame)
        with bk.in_mode("backtest", directory), bk.simulation_time(None):
            history = read(job)
            minutes = history.minutes
            ctx = Context(job.identity, history, run_id)
            events: list[Event] = []
            since_s = time.perf_counter()
            with Coroutines() as coroutines, bk.simulation_time(frame.start) as block:
                kind = CallingStrategy if progress is None else partial(ProgressStrategy, progress)
                port = kind(job.strategy, ctx, block, coroutines, events.append)
                driver = replay(
                    job.identity, minutes, port, job.rules, start_ms=frame.start, end_ms=frame.end, risks=job.books()
                )
            elapsed_s = time.perf_counter() - since_s
        prices = Prices(minutes.timestamp, minutes.close)
        notes = tuple(history.market.notes)
        return Result(job.identity, frame.start, frame.end, events, driver.asked, elapsed_s, notes, run_id, prices)


def _require_past(frame: Frame) -> None:
    """A strategy may replay what is behind it, to choose parameters; its own future would show in the trades."""
    now = bk.simulation_now(f"frame {frame.name}")
    if now is not None and frame.end > now:
        raise bk.LookAhead(
            f"frame {frame.name} ends at {minute_text(frame.end)}, but the simulation time is {minute_text(now)}. "
            "Name one that ends by then: frame=(from, ctx.now). Nothing was run."
        )


def paper(symbol: str, **chosen: object) -> Result:
    """Trade on paper from now on: real candles, no orders. Ends with Ctrl-C. Parameters as `backtest`, without a
    frame.
    """
    return run_job(choose(symbol, "paper", **chosen))  # type: ignore[arg-type]


def live(symbol: str, **chosen: object) -> Result:
    """Trade from now on, with orders. Ends with Ctrl-C; what is open is taken up by the next start."""
    return run_job(choose(symbol, "live", **chosen))  # type: ignore[arg-type]


def run_job(job: Job, on_line: Callable[[str], None] | None = None, stop: threading.Event | None = None) -> Result:
    """Paper or live, until it is stopped. What it answers reports this process's share alone.

    Args:
        on_line: called with a line for each event and failure; default: the log.

    Raises:
        DeclarationError, AlreadyRunning: nothing was started.
        LeaseLost: another process took over.
    """
    from backtest_kit import bot

    events: list[Event] = []
    since_s, since_ms = time.perf_counter(), time.time_ns() // 1_000_000
    with bk.in_mode(job.mode, RUNS_DIRECTORY / job.mode):
        ticking = bot.run(job, on_line=on_line or logger.warning, record=events.append, stop=stop)
    until_ms = time.time_ns() // 1_000_000
    elapsed_s, nothing = time.perf_counter() - since_s, np.empty(0)
    prices = Prices(nothing.astype(np.int64), nothing)
    notes = tuple(ticking.market.notes)
    return Result(job.identity, since_ms, until_ms, events, ticking.asked, elapsed_s, notes, "", prices)
