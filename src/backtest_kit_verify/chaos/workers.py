"""The workers of a run as processes: started, killed at any moment, started again, and at the end left alone until the
audit log has caught up.

They are a command to this package: the worker imports the package, never the other way round.
"""

import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import redis

from backtest_kit_mongo.feed.positions import look
from backtest_kit_verify.chaos.audit_checks import AuditState
from backtest_kit_verify.chaos.errors import ChaosError
from backtest_kit_verify.chaos.faulty_servers import DATABASE, Servers
from backtest_kit_verify.children import Process

__all__ = ["WORKER", "Workers", "owed_by_group"]

PROGRAM = (sys.executable, "-m", "backtest_kit_worker")
WORKER = (*PROGRAM, "--block-ms", "200", "--claim-idle-ms", "2000", "--roles", "audit,replica,recovery,trim")
RESTART_S = 0.5
STOP_S = 30.0
COMPARE_S = 300.0
POLL_S = 0.5
SAID_MAX = 20
PATIENCE = 6
"""So many times as long as they may stand still they may take in all."""
RETENTION_MS = 3_000
"""Short, so that trimming happens while everything is killed."""


class Workers:
    """All worker processes.

    Args:
        command: runs one of them.

    Attributes:
        kill_count: SIGKILLs that were sent.
        crashes: what workers said that ended by themselves.
    """

    def __init__(
        self, count: int, command: Sequence[str], servers: Servers, environment: Mapping[str, str], seed: str
    ) -> None:
        endpoints = servers.endpoints
        self._environment = {
            **environment,
            "CC_MONGO_CONNECTION_STRING": endpoints.mongo_connection_string(DATABASE),
            "CC_REDIS_HOST": endpoints.redis_host,
            "CC_REDIS_PORT": str(endpoints.redis_port),
            "CC_LEASE_MS": str(servers.settings.lease_ms),
            "CC_MONGO_TIMEOUT_MS": str(servers.settings.mongo_bound_ms),
            # The replica is another database of the same mongod.
            "CC_REPLICA_MONGO_CONNECTION_STRING": servers.endpoints.mongo_connection_string(f"{DATABASE}-replica"),
            "CC_STREAM_RETENTION_MS": str(RETENTION_MS),
        }
        self._command = tuple(command)
        self._running: list[Process | None] = [None] * count
        self._restart_at_s = [0.0] * count
        self._rng = random.Random(f"{seed}/workers")
        self._exited: dict[Process, int] = {}
        self._doomed: set[Process] = set()
        self.kill_count = 0
        self.crashes: list[str] = []

    def tick(self) -> None:
        """Notice who ended, and start whoever is missing."""
        for slot, process in enumerate(self._running):
            if process is not None and process in self._exited:
                self._ended(slot, process)
            elif process is None and time.monotonic() >= self._restart_at_s[slot]:
                self._running[slot] = self._start(self._command)

    def _start(self, command: tuple[str, ...]) -> Process:
        made: list[Process] = []

        def on_exit(code: int) -> None:
            self._exited[made[0]] = code

        made.append(Process(command, self._environment, on_exit=on_exit))
        made[0].begin()
        return made[0]

    def _ended(self, slot: int, process: Process) -> None:
        self._running[slot] = None
        self._restart_at_s[slot] = time.monotonic() + self._rng.random() * RESTART_S
        code = self._exited.pop(process)
        if process not in self._doomed:
            self.crashes.append("\n".join((f"a worker ended by itself with exit code {code}:", *process.output)))
        self._doomed.discard(process)

    def kill(self, rng: random.Random) -> bool:
        """SIGKILL one, whatever it is doing."""
        victims = [one for one in self._running if one and one not in self._exited and one not in self._doomed]
        if not victims:
            return False
        victim = rng.choice(victims)
        self._doomed.add(victim)
        victim.send(signal.SIGKILL)
        self.kill_count += 1
        return True

    def settle(self, state: AuditState, step: Callable[[str], None], within_s: float) -> str:
        """Let them work undisturbed until nothing is left to do, or until they have got no further for `within_s`, as a
        busy machine alone may make them slow; then stop them. Returns what is left.
        Precondition: nobody writes any more.

        Raises:
            ChaosError: a worker does not stop.
        """
        before, deadline_s = "", time.monotonic() + within_s
        end_s = time.monotonic() + PATIENCE * within_s
        while (left := state.left()) and time.monotonic() < min(deadline_s, end_s):
            if left != before:
                before, deadline_s = left, time.monotonic() + within_s
            self.tick()
            step(left)
            time.sleep(POLL_S)
        said = [line for process in self._running if process for line in list(process.output)[-SAID_MAX:]]
        self.stop()
        return "\n".join((f"{left}; what the workers said last:", *said)) if left else ""

    def stop(self) -> None:
        for slot, process in enumerate(self._running):
            if process is None or process in self._exited:
                continue
            self._running[slot] = None
            code = process.end(signal.SIGTERM, STOP_S)
            said = "\n".join(process.output)
            if code == -signal.SIGKILL:
                raise ChaosError(f"A worker did not stop within {STOP_S:g} s:\n{said}")
            if code:
                self.crashes.append(f"a worker stopped with exit code {code}:\n{said}")

    def differing_replicas(self) -> str:
        """What `replica compare` says if a replica differs from its source; empty if none does.

        Raises:
            ChaosError: it hangs.
        """
        process = self._start((*PROGRAM, "replica", "compare"))
        deadline_s = time.monotonic() + COMPARE_S
        while process not in self._exited:
            if time.monotonic() > deadline_s:
                process.end(signal.SIGKILL, timeout_s=5)
                raise ChaosError(f"comparing the replica took more than {COMPARE_S:g} s")
            time.sleep(0.05)
        return "\n".join(process.output) if self._exited[process] else ""

    def close(self) -> None:
        """End them, however the run ended."""
        for process in self._running:
            if process is not None:
                process.end(signal.SIGKILL, timeout_s=5)


def owed_by_group(client: redis.Redis, streams: Sequence[str]) -> Counter[str]:
    """How many entries each consumer group has still to acknowledge."""
    positions = filter(None, (look(client, stream) for stream in streams))
    return sum((Counter({group.name: group.owed_count}) for one in positions for group in one.groups), Counter())
