"""backtest-kit: one strategy file as backtest, paper and live.

    import backtest_kit as bt

    @bt.strategy(interval="15m")
    def ema_cross(ctx):
        close = ctx.candles("15m", 60).close  # NumPy; only what had closed at ctx.now
        if len(close) == 60 and close[-9:].mean() > close.mean():
            return bt.long(take_profit=ctx.price * 1.02, stop_loss=ctx.price * 0.99, minutes=720)

    bt.backtest("BTCUSDT", strategy="ema_cross", exchange="binance", frame="2024-01-01..2024-02-01").stats

or `bkm run strategy.py --backtest --symbol BTCUSDT`. See docs/engine.md.
"""

from backtest_kit import living as living  # First, because it notes which processes live now.

# isort: split
from backtest_kit.background import BackgroundRun, Backtest, Live
from backtest_kit.bars import Bars
from backtest_kit.caching import cached, once
from backtest_kit.context import Context
from backtest_kit.declare import (
    Exchange,
    Frame,
    Risk,
    Strategy,
    add_exchange_schema,
    add_frame_schema,
    add_risk_schema,
    add_strategy_schema,
    exchange,
    exchanges,
    frame,
    frames,
    risk,
    risks,
    strategies,
    strategy,
)
from backtest_kit.dumping import dump
from backtest_kit.errors import CandlesMissing, DeclarationError, StrategyFailed, StrategyFileError, WrongCandles
from backtest_kit.events import Event
from backtest_kit.listening import (
    listen_active_ping,
    listen_breakeven,
    listen_commit,
    listen_highest_profit,
    listen_idle,
    listen_max_drawdown,
    listen_partial_loss,
    listen_partial_profit,
    listen_pause,
    listen_risk,
    listen_schedule_ping,
    listen_signal,
    listen_signal_backtest,
    listen_signal_live,
    listen_validation,
)
from backtest_kit.results import Equity, Result, Stats, Trade
from backtest_kit.risk import RiskRequest
from backtest_kit.rules import DEFAULT, ORIGINAL, Rules
from backtest_kit.running import backtest, live, paper
from backtest_kit.runs.studies import load as load_study
from backtest_kit.runs.study import Study, equity_of, trades_of
from backtest_kit.runs.sweep import sweep
from backtest_kit.signals import Proposal, long, short

__all__ = [
    "DEFAULT",
    "ORIGINAL",
    "BackgroundRun",
    "Backtest",
    "Bars",
    "CandlesMissing",
    "Context",
    "DeclarationError",
    "Equity",
    "Event",
    "Exchange",
    "Frame",
    "Live",
    "Proposal",
    "Result",
    "Risk",
    "RiskRequest",
    "Rules",
    "Stats",
    "Strategy",
    "StrategyFailed",
    "StrategyFileError",
    "Study",
    "Trade",
    "WrongCandles",
    "add_exchange_schema",
    "add_frame_schema",
    "add_risk_schema",
    "add_strategy_schema",
    "backtest",
    "cached",
    "dump",
    "equity_of",
    "exchange",
    "exchanges",
    "frame",
    "frames",
    "listen_active_ping",
    "listen_breakeven",
    "listen_commit",
    "listen_highest_profit",
    "listen_idle",
    "listen_max_drawdown",
    "listen_partial_loss",
    "listen_partial_profit",
    "listen_pause",
    "listen_risk",
    "listen_schedule_ping",
    "listen_signal",
    "listen_signal_backtest",
    "listen_signal_live",
    "listen_validation",
    "live",
    "load_study",
    "long",
    "once",
    "paper",
    "risk",
    "risks",
    "short",
    "strategies",
    "strategy",
    "sweep",
    "trades_of",
]
