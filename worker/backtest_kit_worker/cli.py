"""The command line of the worker. Settings come from the same CC_ environment variables as the package's."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from enum import IntEnum
from typing import Annotated

import typer
from pymongo import MongoClient

from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.errors import BacktestKitError
from backtest_kit_mongo.settings import Settings, load
from backtest_kit_mongo.setup import redis_client, resolve
from backtest_kit_worker import roles
from backtest_kit_worker.loop import Loop, LoopOptions
from backtest_kit_worker.parking import Parking

logger = logging.getLogger("backtest_kit_worker")


class Exit(IntEnum):
    """Exit codes."""

    DONE = 0
    """Stopped as asked; everything taken was applied and acknowledged, or will be delivered again."""
    SETTINGS = 2
    """A setting or argument is wrong; nothing was consumed."""
    FAILED = 1
    """With --once: a server failed; what was not acknowledged will be delivered again."""


app = typer.Typer(add_completion=False)


@app.command(
    epilog="Stop it with SIGTERM: it finishes the batch at hand. After SIGKILL nothing is lost either: what was not acknowledged is delivered "
    "again, and applying it twice changes nothing."
)
def run(
    role: Annotated[
        list[str] | None, typer.Option("--roles", "-r", help=f"Roles to run, default all: {', '.join(roles.NAMES)}.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Work until nothing is left, then exit.")] = False,
    batch_max: Annotated[int, typer.Option(min=1, help="Entries applied at once.")] = 500,
    block_ms: Annotated[int, typer.Option(min=1, help="How long one read waits for new entries.")] = 1_000,
    claim_idle_ms: Annotated[
        int, typer.Option(min=1, help="Take over entries that another worker left untouched for so long.")
    ] = 30_000,
) -> None:
    """Consume the change feed of backtest-kit-mongo: audit every change exactly once."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    chosen = [name for given in role or roles.NAMES for name in given.split(",")]
    unknown = sorted(set(chosen) - set(roles.NAMES))
    if unknown:
        logger.error("unknown role %s; known: %s", ", ".join(unknown), ", ".join(roles.NAMES))
        raise typer.Exit(Exit.SETTINGS)
    try:
        settings = resolve(load())
    except BacktestKitError as cause:
        logger.error("%s", cause)
        raise typer.Exit(Exit.SETTINGS) from None
    raise typer.Exit(serve(settings, chosen, LoopOptions(batch_max, block_ms, claim_idle_ms), once=once))


def serve(settings: Settings, chosen: list[str], options: LoopOptions, *, once: bool) -> Exit:
    """Run roles until SIGTERM or SIGINT, or with `once` until nothing is left.

    Order of shutdown: the signal only sets a request; each loop finishes its batch and hands back what it holds; then
    the connections close, so no effect is cut off between being applied and being acknowledged.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    mongo: MongoClient[dict[str, object]] = MongoClient(
        settings.mongo_connection_string.get_secret_value(), tz_aware=True
    )
    client = redis_client(
        settings.model_copy(update={"redis_timeout_ms": settings.redis_timeout_ms + options.block_ms})
    )
    database = mongo[settings.database]
    consumer = f"{socket.gethostname()}-{os.getpid()}"
    names = streams(settings.database, settings.partitions)
    loops = [Loop(client, names, roles.build(name, database), Parking(database), consumer, options) for name in chosen]
    logger.info("roles %s on %s, feed at %s", ", ".join(chosen), settings.mongo_address, settings.redis_address)
    try:
        if once:
            return _drain_once(loops)
        threads = [
            threading.Thread(target=loop.run, args=(stop,), name=name) for loop, name in zip(loops, chosen, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        logger.info(
            "stopped: %d changes applied, %d entries parked",
            sum(x.applied_count for x in loops),
            sum(x.parked_count for x in loops),
        )
        return Exit.DONE
    finally:
        client.close()
        mongo.close()


def _drain_once(loops: list[Loop]) -> Exit:
    try:
        for loop in loops:
            loop.run_until_idle()
    except Exception as cause:
        logger.error("stopped: %s. What was not acknowledged will be delivered again.", cause)
        return Exit.FAILED
    return Exit.DONE


def main() -> None:
    """Entry point of `backtest-kit-worker`."""
    app()
