"""A context of this process in paper or live: its lease, its broker, its market, and the ticks until it ends."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Final

import backtest_kit_mongo as bk
from backtest_kit.calling import CallingStrategy
from backtest_kit.context import Context
from backtest_kit.coroutines import Coroutines
from backtest_kit.durable import Rows, SharedRisks
from backtest_kit.errors import AlreadyRunning, DeclarationError
from backtest_kit.events import Event
from backtest_kit.fleet import FleetMarket
from backtest_kit.identity import ContextId, names_joined
from backtest_kit.leases import WRITE_S, Keeping, Lease, Leases, make_leases
from backtest_kit.living import dead_since_s
from backtest_kit.market import History
from backtest_kit.orders.broker import Broker
from backtest_kit.orders.ccxt_broker import CcxtBroker
from backtest_kit.orders.gate import OrderGate
from backtest_kit.orders.paper import PaperBroker
from backtest_kit.ticking import Clock, OnLine, SystemClock, Ticking

if TYPE_CHECKING:
    from backtest_kit.declare import Exchange
    from backtest_kit.running import Job

__all__ = ["require_orders", "run"]

logger = logging.getLogger(__name__)

LEASE_MS: Final = 9_000
"""A process that dies holds up its successor on another host for so long; on its own host its death is seen."""
CREDENTIALS: Final = {
    "apiKey": "EXCHANGE_API_KEY",
    "secret": "EXCHANGE_API_SECRET",
    "password": "EXCHANGE_API_PASSWORD",
}
"""By ccxt's name, the environment variable."""
NOT_BY_CLIENT_ID: Final = frozenset({"kraken"})
"""Exchanges where ccxt (4.5) sends a client order id under one name and looks it up under another."""


def run(
    job: Job,
    *,
    on_line: OnLine = logger.info,
    record: Callable[[Event], None] = lambda event: None,
    clock: Clock | None = None,
    stop: threading.Event | None = None,
    until_ms: int | None = None,
) -> Ticking:
    """Live every minute until it is stopped.

    Args:
        on_line: called with a line for each event and failure.
        record: called with every event that a result is made of.
        stop: set it, or press Ctrl-C once: no new positions, and the end when nothing is held. Twice: the end at once.
        until_ms: the last minute.

    Raises:
        DeclarationError: nothing was started; live needs a broker, and rules that a live tick can keep.
        AlreadyRunning: another process lives this context.
        LeaseLost: another process took over; this one has stopped.
    """
    require_orders(job)
    clock, stop = clock or SystemClock(), stop or threading.Event()
    broker, leases = _broker(job), make_leases()
    with _lease(leases, job, on_line) as lease, Keeping(leases, lease, LEASE_MS) as keeping, Coroutines() as coroutines:
        now_ms = clock.now_ms()
        with bk.simulation_time(now_ms, guards_threads=False) as block, _ctrl_c(stop, on_line):
            market = FleetMarket(job.exchange, job.symbol, leases)
            ctx = Context(job.identity, _NoHistory())
            port = CallingStrategy(job.strategy, ctx, block, coroutines, record)
            ticking = Ticking(
                job.identity,
                job.rules,
                Rows(job.identity),
                SharedRisks(job.identity, job.books(), leases, clock.now_ms),
                _gate(broker, job, keeping, clock),
                keeping,
                market,
                ctx,
                port,
                on_line,
                clock,
                stop,
                until_ms,
            )
            on_line(
                f"{job.mode}: {job.strategy.name} on {job.symbol} at {job.exchange.name}, one tick per minute; Ctrl-C "
                "asks for the end"
            )
            ticking.run()
    return ticking


def _gate(broker: Broker, job: Job, keeping: Keeping, clock: Clock) -> OrderGate:
    never = threading.Event()
    return OrderGate(
        broker,
        job.symbol,
        _name(job.identity),
        may_send=keeping.require,
        clock_s=lambda: clock.now_ms() / 1000,
        pause_s=lambda seconds: clock.wait(seconds, never),
    )


class _NoHistory(History):
    """Before the first tick."""

    def __init__(self) -> None: ...


def _name(context: ContextId) -> str:
    return names_joined("/", "context", context.mode, context.exchange, context.symbol, context.strategy)


@contextmanager
def _lease(leases: Leases, job: Job, on_line: OnLine) -> Iterator[Lease]:
    """The right to live this context; waits as long as a dead process may still hold it.

    Raises:
        AlreadyRunning: it is held by one that lives.
    """
    name, waited = _name(job.identity), threading.Event()
    lease = leases.acquire(name, LEASE_MS)
    if lease is None:
        holder = leases.holder(name)
        on_line(f"waiting for {_who(holder)}, which runs this context, or did until it died")
        if (since_s := dead_since_s(holder)) is not None:
            waited.wait(since_s + WRITE_S - monotonic())  # What it sent has arrived by then, or never will.
            lease = leases.acquire(name, LEASE_MS, despite=holder)
        until_s = monotonic() + LEASE_MS * 1.5 / 1000
        while lease is None and monotonic() < until_s:
            waited.wait(0.1)
            lease = leases.acquire(name, LEASE_MS)
    if lease is None:
        raise AlreadyRunning(
            f"{job.strategy.name!r} on {job.symbol} in mode {job.mode} is run by {_who(leases.holder(name))}. Two "
            "would trade twice. Stop it first (Ctrl-C or kill), or run another strategy. Nothing was started."
        )
    yield lease


def _who(holder: str) -> str:
    """For people."""
    host, _, rest = holder.partition("/")
    process = rest.partition("/")[0]
    return f"process {process} on {host}" if process else holder


def require_orders(job: Job) -> None:
    """Whether its mode can keep its rules and has somebody to send orders to. Asks nobody.

    Raises:
        DeclarationError: it cannot be run.
    """
    if job.rules.sees_running_candle:
        raise DeclarationError(
            "rules.ORIGINAL sees a candle before it is closed; paper and live cannot. Use rules.DEFAULT."
        )
    if job.mode == "paper" or job.exchange.broker is not None:
        return
    if job.exchange.ccxt is not None:
        _credentials(job.exchange)
    else:
        raise DeclarationError(
            f"exchange {job.exchange.name!r} has no broker, and live sends orders. Give it one (bt.exchange(.., "
            "broker=..)), name a ccxt exchange (ccxt='binance'), or run --paper. Nothing was started."
        )


def _broker(job: Job) -> Broker:
    if job.mode == "paper":
        return PaperBroker(job.rules)
    offered = job.exchange.broker
    if offered is None:
        credentials = _credentials(job.exchange)
        make = getattr(import_module("ccxt"), str(job.exchange.ccxt))
        return CcxtBroker(make({**credentials, "enableRateLimit": True}))
    broker: Broker = offered() if callable(offered) else offered
    return broker


def _credentials(exchange: Exchange) -> dict[str, str]:
    """Raises:
    DeclarationError: there are none, or ccxt cannot send this exchange's orders.
    """
    if exchange.ccxt in NOT_BY_CLIENT_ID:
        raise DeclarationError(
            f"ccxt does not find orders of {exchange.ccxt} by the id they were sent with: one could be sent twice. "
            "Give the exchange a broker of your own (bt.exchange(.., broker=..)). Nothing was started."
        )
    try:
        import_module("ccxt")
    except ModuleNotFoundError as cause:
        raise DeclarationError("orders through ccxt need it: pip install 'backtest-kit-mongo[ccxt]'") from cause
    found = {name: value for name, variable in CREDENTIALS.items() if (value := os.environ.get(variable))}
    if "apiKey" not in found or "secret" not in found:
        raise DeclarationError(
            f"live orders at {exchange.ccxt} need credentials: set {CREDENTIALS['apiKey']} and "
            f"{CREDENTIALS['secret']}, "
            "or give the exchange a broker. Nothing was started."
        )
    return found


@contextmanager
def _ctrl_c(stop: threading.Event, on_line: OnLine) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks for the end, the second is one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def asked(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        on_line(
            "stopping: no new positions; the end when nothing is held. Once more: the end at once, and a restart goes "
            "on"
        )

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
