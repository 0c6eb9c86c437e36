"""backtest-kit-mongo: production persistence for trading strategies.

    import backtest_kit_mongo as bk
    bk.setup()                                        # once; see `bk.get_config()` for the settings
    bk.PersistSignalAdapter.write_signal_data(row, "BTCUSDT", "my-strategy", "binance")
    bk.read_candles("BTCUSDT", "1m", "binance", since, until).close  # a NumPy array

    with bk.simulation_time(moment): ...              # no read sees what was written later

When a write returns, it is durable in MongoDB, cached in Redis and published as a change event. Before `setup()` the
adapters keep files below ./dump. What else there is: `aio` (the same as coroutines), `errors` (whose fault, and whether
the write may have happened), `contracts` (to plug in your own backend), `domains.payloads` (typed models), `embedded`
(private servers for a laptop).
"""

from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backtest_kit_mongo import metrics, moved
from backtest_kit_mongo.adapters import registries
from backtest_kit_mongo.adapters.inventory import Held, inventory
from backtest_kit_mongo.adapters.registries import *  # noqa: F403
from backtest_kit_mongo.backends.mongo.block_files import keeping_blocks
from backtest_kit_mongo.backends.persist.base import PersistBase
from backtest_kit_mongo.candle_sources import CandleSeries, fetch_candles, list_candles, read_candle_files
from backtest_kit_mongo.causing import caused_by, present_cause
from backtest_kit_mongo.coherence.causes import Cause
from backtest_kit_mongo.coherence.moments import moment_ms, written_ms
from backtest_kit_mongo.collections.crud import BaseCRUD
from backtest_kit_mongo.collections.maps import BaseMap
from backtest_kit_mongo.drivers.scopes import Revisions, revisions
from backtest_kit_mongo.drivers.stepping import Step, step
from backtest_kit_mongo.errors import (
    AlreadySetUp,
    BacktestKitError,
    CallerError,
    Conflict,
    Contended,
    CorruptData,
    EnvironmentFault,
    InvalidKey,
    InvalidPayload,
    InvalidSetting,
    InvariantViolation,
    LegacyIndex,
    LookAhead,
    NotFound,
    NotSetUp,
    ReadFailed,
    ServerUnreachable,
    UnsafeServer,
    WriteOutcomeUnknown,
    WriteRefused,
)
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.limits import write_until
from backtest_kit_mongo.locks import set_logger
from backtest_kit_mongo.look_ahead import SimulationTime, simulation_now, simulation_time
from backtest_kit_mongo.modes import backends, get_modes, in_mode, set_modes
from backtest_kit_mongo.rehearsal import Rehearsal, RehearsedRow, rehearsing
from backtest_kit_mongo.setup import get_config, get_mongo, get_redis, install, set_config, setup, shutdown

if TYPE_CHECKING:
    from backtest_kit_mongo import aio as aio
    from backtest_kit_mongo.audit.as_of import AsOf
    from backtest_kit_mongo.audit.sessions import Session, SessionChange
    from backtest_kit_mongo.audit.tracing import Trace
    from backtest_kit_mongo.candles.frame import Candles

moved.install()

__all__ = [
    "CandleSeries",
    "AlreadySetUp",
    "BacktestKitError",
    "BaseCRUD",
    "BaseMap",
    "CallerError",
    "Candles",
    "Cause",
    "Conflict",
    "Contended",
    "CorruptData",
    "EnvironmentFault",
    "ExitCode",
    "Held",
    "InvalidKey",
    "InvalidPayload",
    "InvalidSetting",
    "InvariantViolation",
    "LegacyIndex",
    "LookAhead",
    "NotFound",
    "NotSetUp",
    "PersistBase",
    "ReadFailed",
    "Revisions",
    "ServerUnreachable",
    "SimulationTime",
    "Step",
    "UnsafeServer",
    "WriteOutcomeUnknown",
    "WriteRefused",
    "as_of",
    "backends",
    "caused_by",
    "fetch_candles",
    "get_config",
    "get_modes",
    "get_mongo",
    "get_redis",
    "in_mode",
    "install",
    "inventory",
    "keeping_blocks",
    "list_candles",
    "read_candle_files",
    "metrics",
    "moment_ms",
    "revisions",
    "set_config",
    "set_logger",
    "set_modes",
    "setup",
    "shutdown",
    "simulation_now",
    "simulation_time",
    "step",
    "trace",
    "load_session",
    "present_cause",
    "read_session",
    "rehearsing",
    "Rehearsal",
    "RehearsedRow",
    "Session",
    "SessionChange",
    "write_until",
    "written_ms",
]
__all__ += registries.__all__


def as_of(moment: "int | datetime") -> "AsOf":
    """A read-only block in which adapters read what they would have read at a moment: `audit/as_of.py`."""
    from backtest_kit_mongo.audit.as_of import as_of as past

    return past(moment)


def load_session(path: Path) -> "Session":
    """A day of a strategy out of the file that `Session.save` wrote."""
    from backtest_kit_mongo.audit.sessions import load_session as load

    return load(path)


def read_session(strategy: str, mode: str, start: int, end: int, history_ms: int) -> "Session":
    """A live or paper day of a strategy out of the audit log of the settings in force: `audit/sessions.py`."""
    from backtest_kit_mongo.audit import open_log
    from backtest_kit_mongo.audit.sessions import read_session as read

    with open_log() as log:
        return read(log, strategy, mode, start, end, history_ms)


def trace(signal: str) -> "Trace":
    """What became of a signal, out of the audit log of the settings in force (`docs/trace.md`).

    Raises:
        NotFound: no record belongs to it.
        ServerUnreachable, ReadFailed.
    """
    from backtest_kit_mongo.audit import open_log
    from backtest_kit_mongo.audit.tracing import trace as traced

    with open_log() as log:
        return traced(log, signal)


def __getattr__(name: str) -> Any:
    if name == "Candles":  # Late: it needs NumPy, which only those who use candles should wait for.
        from backtest_kit_mongo.candles.frame import Candles

        return Candles
    if name in ("Session", "SessionChange"):
        return getattr(import_module("backtest_kit_mongo.audit.sessions"), name)
    if name == "aio":  # Late as well: most programs have no event loop.
        return import_module("backtest_kit_mongo.aio")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
