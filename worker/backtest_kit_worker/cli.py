"""The command line of the worker. Settings come from the same CC_ environment variables as the package's."""

from __future__ import annotations

import gc
import signal
import threading
from typing import Annotated

import typer

from backtest_kit_mongo.errors import BacktestKitError
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.settings import Settings, load
from backtest_kit_mongo.setup import resolve
from backtest_kit_mongo.terminal import echo
from backtest_kit_mongo.terminal import run as run_program
from backtest_kit_worker import replica_cli, roles
from backtest_kit_worker.check import examine
from backtest_kit_worker.deployment import connect
from backtest_kit_worker.health import Limits, Monitor
from backtest_kit_worker.logs import LogFormat, logger, start_logging
from backtest_kit_worker.loop import LoopOptions
from backtest_kit_worker.pacing import SHARE_MIN
from backtest_kit_worker.runner import Runner, RunnerOptions

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
app.add_typer(replica_cli.app)

Roles = Annotated[
    list[str] | None, typer.Option("--roles", "-r", help=f"What to do, default all: {', '.join(roles.NAMES)}.")
]
Format = Annotated[LogFormat, typer.Option("--log-format", help="One line of text or one JSON object a message.")]
MaxLag = Annotated[
    float, typer.Option("--max-lag-seconds", min=0.001, help="Unhealthy when a role is further behind than this.")
]


@app.callback(
    invoke_without_command=True,
    epilog="Stop it with SIGTERM: it finishes the batch at hand. After SIGKILL nothing is lost either: what was not "
    "acknowledged is delivered again, and applying it twice changes nothing.",
)
def run(
    context: typer.Context,
    role: Roles = None,
    once: Annotated[bool, typer.Option("--once", help="Work until nothing is left, then exit.")] = False,
    batch_max: Annotated[int, typer.Option(min=1, help="Entries applied at once.")] = 1_000,
    block_ms: Annotated[int, typer.Option(min=1, help="How long one read waits for new entries.")] = 2_000,
    claim_idle_ms: Annotated[
        int, typer.Option(min=1, help="Take over entries that another worker left untouched for so long.")
    ] = 30_000,
    attempts_max: Annotated[
        int, typer.Option(min=1, help="Park an entry that fails this often while others succeed.")
    ] = 8,
    catch_up_share: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1,
            help="While behind, with writers at work: work at least this share of the time. 1: never rest.",
        ),
    ] = SHARE_MIN,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Serve /metrics and /healthz here. Default: not at all.")
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address to serve them on.")] = "127.0.0.1",
    max_lag_s: MaxLag = 60,
    log_format: Format = LogFormat.TEXT,
) -> None:
    """Do what may happen after a write has returned: audit every change, keep replicas, recover lost events, trim the
    feed.

    Any number of workers share the work. Exit status: 0 stopped as asked, 1 a server failed (only with --once), 2 wrong
    settings, 3 a bug ended a thread, 5 something did not stop in time.
    """
    if context.invoked_subcommand is not None:
        return
    start_logging(log_format)
    chosen = _chosen(role)
    loop = LoopOptions(batch_max, block_ms, claim_idle_ms, attempts_max=attempts_max, share_min=catch_up_share)
    options = RunnerOptions(loop)
    address = None if metrics_port is None else (metrics_host, metrics_port)
    raise typer.Exit(serve(_settings(), chosen, options, Limits(round(max_lag_s * 1000)), address, once=once))


@app.command()
def check(role: Roles = None, max_lag_s: MaxLag = 60, log_format: Format = LogFormat.TEXT) -> None:
    """Look once whether the feed is worked on: servers, groups, lag, dead letters. Changes nothing.

    Exit status: 0 all is well, 2 wrong settings, 10 a server does not answer, 11 a role has never run, 12 a role is
    further behind than --max-lag-seconds, 13 there are dead letters, 14 a group that nobody serves holds back trimming,
    15 work stands still or something is not what it should be. Of several the first is returned.
    """
    start_logging(log_format)
    chosen = _chosen(role)
    deployment = connect(_settings())
    try:
        code, lines = examine(deployment, chosen, max_lag_s * 1000)
    finally:
        deployment.close()
    for line in lines:
        echo(line)
    raise typer.Exit(code)


def _chosen(given: list[str] | None) -> list[str]:
    chosen = list(dict.fromkeys(name for names in given or roles.NAMES for name in names.split(",")))
    unknown = sorted(set(chosen) - set(roles.NAMES))
    if unknown:
        logger.error("unknown role %s; known: %s", ", ".join(unknown), ", ".join(roles.NAMES))
        raise typer.Exit(ExitCode.WRONG_ARGUMENT)
    return chosen


def _settings() -> Settings:
    try:
        return resolve(load())
    except BacktestKitError as cause:
        logger.error("%s", cause)
        raise typer.Exit(ExitCode.WRONG_ARGUMENT) from None


def serve(
    settings: Settings,
    chosen: list[str],
    options: RunnerOptions,
    limits: Limits,
    metrics_address: tuple[str, int] | None,
    *,
    once: bool,
) -> ExitCode:
    """Run until SIGTERM or SIGINT, or with `once` until nothing is left. Order of shutdown: see `runner`."""
    # What a batch decodes to is many objects and no cycles: looking for cycles at the usual rate takes a fifth of the
    # time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    stop = threading.Event()
    if not once:  # Which may be ended at any moment, and has its own end.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    deployment = connect(settings, block_ms=options.loop.block_ms)
    try:
        runner = Runner(deployment, chosen, options)
        if not runner.names:
            logger.error("nothing of %s is configured", ", ".join(chosen))
            return ExitCode.WRONG_ARGUMENT
        logger.info("%s on %s, feed at %s", ", ".join(runner.names), settings.mongo_address, settings.redis_address)
        if once:
            return runner.run_until_idle()
        return _run_watched(runner, limits, metrics_address, stop)
    except BacktestKitError as cause:
        logger.error("%s", cause)
        return ExitCode.WRONG_ARGUMENT
    finally:
        deployment.close()


def _run_watched(
    runner: Runner, limits: Limits, metrics_address: tuple[str, int] | None, stop: threading.Event
) -> ExitCode:
    if metrics_address is None:
        return runner.run(stop)
    from backtest_kit_worker.metrics import MetricsServer

    try:
        server = MetricsServer(Monitor(runner.deployment, runner.loops, runner.services, limits), *metrics_address)
    except OSError as cause:
        logger.error("metrics cannot be served on %s:%d: %s. Nothing was consumed.", *metrics_address, cause)
        return ExitCode.WRONG_ARGUMENT
    logger.info("metrics and health on port %d", server.port)
    try:
        return runner.run(stop)
    finally:
        server.close()


def main() -> None:
    """Entry point of `backtest-kit-worker`."""
    run_program(app)
