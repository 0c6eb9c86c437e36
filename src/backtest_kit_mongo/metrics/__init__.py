"""Metrics of this process in Prometheus' format, named `bkm_store_*`. They describe the store that `setup()` made;
before it there are none.

Two ways, which may be combined:

    bk.metrics.register()      # among the metrics that the program serves anyway
    CC_METRICS_PORT=9470       # served by this process, at /metrics of CC_METRICS_HOST (127.0.0.1 unless set otherwise)

Nothing is added up until somebody scrapes. Labels are domains and outcomes, never keys.

Several processes on a host. Each has counters of its own, so each serves its own port: with CC_METRICS_PORT_COUNT=16 a
process takes the first free one of sixteen, and Prometheus is given all sixteen as targets (those that nobody serves
are down, and mean nothing). A process that is forked does not keep its parent's port: it takes the next one when it
first uses the store. `PROMETHEUS_MULTIPROC_DIR` does not concern these metrics, because the client library ignores
collectors in that mode: use ports.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from backtest_kit_mongo import locks

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from backtest_kit_mongo.metrics.collector import StoreCollector
    from backtest_kit_mongo.metrics.pages import PageServer

__all__ = ["close", "port", "register", "serve"]

logger = locks.logger(__name__)

_lock = locks.Lock()
_server: PageServer | None = None
_registered: WeakKeyDictionary[CollectorRegistry, StoreCollector] = WeakKeyDictionary()


def register(registry: CollectorRegistry | None = None) -> StoreCollector:
    """Add this process's metrics to a registry, by default the client library's own. A second call changes nothing.

    Returns:
        The collector, for `registry.unregister`.
    """
    from prometheus_client import REGISTRY

    from backtest_kit_mongo.metrics.collector import StoreCollector

    chosen = REGISTRY if registry is None else registry
    with _lock:
        collector = _registered.get(chosen)
        if collector is None:
            collector = _registered[chosen] = StoreCollector()
            chosen.register(collector)
        return collector


def serve(host: str, first_port: int, port_count: int = 1) -> int | None:
    """Serve /metrics on the first free port of so many, unless this process serves already. `setup()` does this when
    CC_METRICS_PORT is set.

    Args:
        first_port: 0 for any free one.

    Returns:
        The port; None if all are taken or the address is wrong, which is logged: a strategy must not end for that.
    """
    global _server
    with _lock.quietly():
        if _server is None:
            _server = _started(host, first_port, port_count)
        return None if _server is None else _server.port


def _started(host: str, first_port: int, port_count: int) -> PageServer | None:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest

    from backtest_kit_mongo.metrics.collector import StoreCollector
    from backtest_kit_mongo.metrics.pages import Page, PageServer

    registry = CollectorRegistry(auto_describe=False)
    registry.register(StoreCollector())
    ProcessCollector(registry=registry)
    cause: OSError | None = None
    for port in range(first_port, first_port + port_count):
        try:
            return PageServer(
                host, port, {"/metrics": lambda: Page(200, CONTENT_TYPE_LATEST, generate_latest(registry))}
            )
        except (OSError, OverflowError) as error:
            cause = error if isinstance(error, OSError) else OSError(f"{port} is not a port")
        except RuntimeError as error:  # Python is ending and starts no thread.
            cause = OSError(str(error))
    ports = str(first_port) if port_count == 1 else f"{first_port} to {first_port + port_count - 1}"
    logger.error("metrics are not served: %s:%s: %s", host, ports, cause)
    return None


def port() -> int | None:
    """Where this process serves its metrics; None if it does not."""
    server = _server
    return None if server is None else server.port


def close() -> None:
    """Stop serving. What is registered stays so."""
    global _server
    with _lock:
        server, _server = _server, None
    if server is not None:
        server.close()


def _forget_after_fork() -> None:
    # The thread that serves is the parent's; its socket must not be kept open by the child.
    global _server
    if _server is not None:
        _server.abandon()
        _server = None


os.register_at_fork(after_in_child=_forget_after_fork)
