"""The runner: one thread per role, one per service under leadership, a thread that keeps the leases.

Order of shutdown, on SIGTERM or SIGINT:
1. the signal only sets a request;
2. each role finishes its batch and hands back what it holds, each service its piece of work: nothing is cut off between
   being applied and being acknowledged;
3. leases are released, so that other workers take over at once;
4. metrics stop, connections close, the process exits.
What has not ended within `stop_ms` is left: entries stay pending and leases run out, so another worker goes on with
them.

A server's restart ends nothing: roles and services try again with growing pauses. Memory is bounded: each role holds
one batch, there are no queues.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from backtest_kit_mongo.exits import ExitCode
from backtest_kit_worker import roles
from backtest_kit_worker.backoff import Backoff
from backtest_kit_worker.dead_letters import DeadLetterWriter
from backtest_kit_worker.deployment import Deployment
from backtest_kit_worker.leadership import LEASE_MS, Leadership
from backtest_kit_worker.loop import Loop, LoopOptions
from backtest_kit_worker.services import Service

SETTLE_PAUSE_S = 0.05
"""How often a single run looks whether a service can decide by now."""
FOLLOWER_PAUSE_MS = 200
"""How often a process that does not lead a service looks whether it does."""
REST_AFTER_S = 60.0
REST_FACTOR, REST_MAX_MS = 5, 5_000
"""A service that had nothing to do for so long looks less often: a stack that rests costs little."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """Times are milliseconds.

    Attributes:
        lease_ms: how long a service stays without a holder when its worker dies.
        stop_ms: how long a shutdown may take.
        round_max: with `once`, pieces of work of one service in a round.
        settle_ms: with `once`, how long to wait without any work for what a service cannot decide yet.
    """

    loop: LoopOptions = field(default_factory=LoopOptions)
    lease_ms: int = LEASE_MS
    stop_ms: int = 10_000
    round_max: int = 10_000
    settle_ms: int = 15_000


def idle_pause_ms(interval_ms: int, busy_s: float) -> int:
    """How long a service pauses that had something to do at `busy_s` (monotonic) for the last time."""
    if time.monotonic() - busy_s < REST_AFTER_S:
        return interval_ms
    return max(interval_ms, min(interval_ms * REST_FACTOR, REST_MAX_MS))


class ServiceRunner:
    """Runs one service while this process leads it.

    Attributes:
        done_count: what `run_once` returned, summed up.
        heartbeat: `time.monotonic()` of the last sign of life.
        trouble: the error of the last attempt, None if it succeeded.
        failing_s: `time.monotonic()` of the first of the attempts that failed since one succeeded.
    """

    def __init__(self, service: Service, leadership: Leadership, backoff: Backoff) -> None:
        self.service = service
        self._leadership = leadership
        self._backoff = backoff
        self.done_count = 0
        self.failed_count = 0
        self.heartbeat = time.monotonic()
        self.trouble: str | None = None
        self.failing_s: float | None = None

    @property
    def name(self) -> str:
        return self.service.name

    def leads(self) -> bool:
        """Whether this process is the one that runs the service."""
        return self._leadership.holds(self.name)

    def run(self, stop: threading.Event) -> None:
        """Serve whenever this process leads, until `stop` is set; failures are tried again."""
        failure_count = 0
        while not stop.is_set():
            if not self.leads():
                self._pause(stop, FOLLOWER_PAUSE_MS)
                continue
            try:
                self._serve(stop)
                failure_count = 0
            except Exception as cause:
                failure_count = 1 if self.trouble is None else failure_count + 1
                self.failed_count += 1
                self.failing_s = self.failing_s or time.monotonic()
                self.trouble = f"{type(cause).__name__}: {cause}"
                self._leadership.troubles[self.name] = self.trouble
                pause_ms = self._backoff.pause_ms(failure_count)
                logger.warning("%s: %s; trying again in %.0f ms", self.name, self.trouble, pause_ms)
                self._pause(stop, pause_ms)

    def _serve(self, stop: threading.Event) -> None:
        try:
            self.service.open()
            busy_s = time.monotonic()
            while self.leads() and not stop.is_set():
                work_count = self._once()
                self.trouble, self.failing_s = None, None
                self._leadership.troubles.pop(self.name, None)
                if work_count:
                    busy_s = time.monotonic()
                else:
                    self._pause(stop, idle_pause_ms(self.service.interval_ms, busy_s), while_leading=True)
        finally:
            self.end()

    def begin(self) -> bool:
        """Open the service if this process gets the lease; `end` closes it. Errors are raised."""
        if not self._leadership.attempt(self.name):
            return False
        self.service.open()
        return True

    def run_until_idle(self, round_max: int) -> int:
        """Work until there is nothing to do now, at most so many pieces; returns how much was done. Errors are
        raised.
        """
        total = 0
        for _ in range(round_max):
            if not self._leadership.attempt(self.name):
                break
            work_count = self._once()
            total += work_count
            if not work_count:
                break
        return total

    @property
    def unsettled_count(self) -> int:
        """What the service has taken up and cannot decide yet."""
        return self.service.unjudged_count

    def _once(self) -> int:
        work_count = self.service.run_once()
        self.done_count += work_count
        self.heartbeat = time.monotonic()
        return work_count

    def _pause(self, stop: threading.Event, pause_ms: float, *, while_leading: bool = False) -> None:
        end_s = time.monotonic() + pause_ms / 1000
        while (left_s := end_s - time.monotonic()) > 0 and not stop.wait(min(left_s, 0.5)):
            self.heartbeat = time.monotonic()
            if while_leading and not self.leads():
                return

    def end(self) -> None:
        """Close the service, in whatever state it is."""
        try:
            self.service.close()
        except Exception as cause:
            logger.warning("%s: could not be closed: %s", self.name, cause)


class Runner:
    """All that one worker process does.

    Args:
        names: of `roles.NAMES`; those without configuration are skipped.
    """

    def __init__(self, deployment: Deployment, names: Sequence[str], options: RunnerOptions = RunnerOptions()) -> None:
        self.options = options
        self.deployment = deployment
        self.loops: list[Loop] = []
        services: list[Service] = []
        dead_letters = DeadLetterWriter(deployment.database)
        for name in names:
            role, service = roles.build_role(name, deployment), roles.build_service(name, deployment)
            if role is None and service is None:
                logger.info("%s: not configured, skipped", name)
            if role is not None:
                streams, consumer = deployment.streams, deployment.consumer
                apply = _traced(role) if deployment.settings.tracing else None
                self.loops.append(Loop(deployment.redis, streams, role, dead_letters, consumer, options.loop, apply))
            if service is not None:
                services.append(service)
        self.leadership = Leadership(
            deployment.database, deployment.consumer, [service.name for service in services], options.lease_ms
        )
        backoff = Backoff(options.loop.retry_ms, options.loop.retry_max_ms)
        self.services = [ServiceRunner(service, self.leadership, backoff) for service in services]

    @property
    def names(self) -> list[str]:
        """What runs here: roles, then services."""
        return [loop.name for loop in self.loops] + [service.name for service in self.services]

    def run(self, stop: threading.Event) -> ExitCode:
        """Work until `stop` is set."""
        leading = threading.Event()  # Leases are kept until the services have ended.
        workers = [_thread(f"role:{loop.name}", loop.run, stop) for loop in self.loops]
        workers += [_thread(f"service:{service.name}", service.run, stop) for service in self.services]
        keeper = _thread("leases", self.leadership.run, leading)
        for thread in (keeper, *workers):
            thread.start()
        crashed = _wait(stop, [keeper, *workers])
        stop.set()
        end_s = time.monotonic() + self.options.stop_ms / 1000
        left = [thread.name for thread in workers if not _ended(thread, end_s)]
        self._close()
        leading.set()
        if _ended(keeper, end_s):
            self.leadership.release()
        self._report(left)
        if crashed:
            return ExitCode.NOT_WELL
        return ExitCode.STUCK if left else ExitCode.DONE

    def run_until_idle(self) -> ExitCode:
        """Work until nothing is left: roles, then services, and again while services make new events or have something
        to decide (recovery gives each change a grace).
        """
        try:
            self._until_idle([service for service in self.services if service.begin()])
            for loop in self.loops:
                loop.drain()
        except Exception as cause:
            logger.error("stopped: %s. What was not acknowledged will be delivered again.", cause)
            return ExitCode.FAILED
        finally:
            for service in self.services:
                service.end()
            self.leadership.release()
            self._close()
        self._report([])
        return ExitCode.DONE

    def _until_idle(self, led: Sequence[ServiceRunner]) -> None:
        end_s = 0.0
        while True:
            done = sum(loop.run_until_idle() for loop in self.loops)
            done += sum(service.run_until_idle(self.options.round_max) for service in led)
            unsettled = [service for service in led if service.unsettled_count]
            if done:
                end_s = time.monotonic() + self.options.settle_ms / 1000
            elif not unsettled:
                return
            elif time.monotonic() > end_s:
                for service in unsettled:
                    logger.warning(
                        "%s: %d changes are not decided yet; the next run goes on with them",
                        service.name,
                        service.unsettled_count,
                    )
                return
            else:
                time.sleep(SETTLE_PAUSE_S)

    def _close(self) -> None:
        for loop in self.loops:
            loop.close()

    def _report(self, left: Sequence[str]) -> None:
        for name in left:
            logger.error("%s did not end in time and was left; another worker will go on with it", name)
        applied_count = sum(loop.applied_count for loop in self.loops)
        dead_letter_count = sum(loop.dead_letter_count for loop in self.loops)
        logger.info("stopped: %d changes applied, %d dead letters", applied_count, dead_letter_count)


def _traced(role: roles.Role) -> roles.Apply:
    from backtest_kit_worker.tracing import traced  # Needs the extra `otel`, which the setting asks for.

    return traced(role)


def _thread(name: str, target: Callable[[threading.Event], None], stop: threading.Event) -> threading.Thread:
    # Daemon: what hangs must not keep the process from exiting.
    return threading.Thread(target=target, args=(stop,), name=name, daemon=True)


def _wait(stop: threading.Event, threads: Sequence[threading.Thread]) -> bool:
    """Wait for the request to stop; True if a thread ended before it."""
    while not stop.wait(0.5):
        dead = [thread.name for thread in threads if not thread.is_alive()]
        if dead:
            logger.critical("%s ended unexpectedly; stopping", ", ".join(dead))
            return True
    return False


def _ended(thread: threading.Thread, end_s: float) -> bool:
    thread.join(max(0.0, end_s - time.monotonic()))
    return not thread.is_alive()
