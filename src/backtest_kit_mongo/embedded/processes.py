"""One server process of a data directory: find it, start it, wait for it, stop it.

Nothing here knows MongoDB or Redis: a `Program` tells what is particular to each.

Which process is ours. The record file names a pid, and a pid alone proves nothing after SIGKILL or a reboot. A
recorded process counts only when it lives, has the program's name and works in this data directory. The working
directory stands in for the command line (redis-server overwrites that) and for the creation time (which moves when
the clock of the machine is set). Before anything is said to a server, that very process must listen on its port, so a
stranger who got the port first is never mistaken for it.
"""

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from . import launcher
from .binaries import explain_death
from .errors import EmbeddedError, ServerFailedError

__all__ = [
    "HOST",
    "Deadline",
    "NotReadyError",
    "PortTakenError",
    "Program",
    "Record",
    "Server",
    "free_port",
    "is_free",
]

HOST = "127.0.0.1"

POLL_S = 0.02
LONGEST_PAUSE_S = 0.5
#: How long a starting server waits for the leavings of the last one: a child may still rewrite the append-only file.
GUARD_WAIT_S = 3.0
#: Below the range from which Linux takes the local ports of outgoing connections. In that range a client that tries to
#: reach a stopped server again and again ends up connected to itself, and keeps the server from its port.
PORTS = range(20_000, 32_768)
PORT_DRAWS = 100
ABANDON_S = 5.0
LOG_TAIL_LINES = 12
LOG_LINE_CHARACTERS = 600


class NotReadyError(Exception):
    """The server does not serve yet; the text says why. Never leaves this package: waiting ends it, or a deadline."""


class PortTakenError(ServerFailedError):
    """Another process took the chosen port between the choice and the server's bind."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time until which one whole operation may wait."""

    at_monotonic_s: float

    @classmethod
    def after(cls, timeout_s: float) -> "Deadline":
        return cls(time.monotonic() + timeout_s)

    @property
    def remaining_s(self) -> float:
        return max(0.0, self.at_monotonic_s - time.monotonic())


@dataclass(frozen=True, slots=True)
class Program:
    """What is particular to one kind of server.

    `arguments(data, port)` is its command line without the binary. `ask(port)` returns the version and changes nothing;
    `settle(port)` takes the next step towards a usable server. Both raise NotReadyError until there is nothing left to
    wait for. `errors(lines)` picks the log lines worth quoting; when there are none, the last lines will do.
    """

    key: str
    executable: str
    find: Callable[[], Path]
    arguments: Callable[[Path, int], list[str]]
    ask: Callable[[int], str]
    settle: Callable[[int], None]
    errors: Callable[[list[str]], list[str]]


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of the last server that was launched; true of a running one only if the process matches."""

    pid: int
    port: int
    binary: str
    options: tuple[str, ...]
    owner_pid: int | None  # the process it ends with


def is_free(port: int) -> bool:
    """Whether a server could bind `port` now."""
    with socket.socket() as probe:
        # As the servers do: connections of a predecessor in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    for _ in range(PORT_DRAWS):
        port = random.choice(PORTS)
        if is_free(port):
            return port
    raise EmbeddedError(f"No free port was found between {PORTS.start} and {PORTS.stop}. Nothing was started.")


@dataclass(frozen=True, slots=True)
class Server:
    """The one server of `program` in `directory`, running or not."""

    program: Program
    directory: Path

    @property
    def data(self) -> Path:
        return self.directory / self.program.key

    @property
    def log(self) -> Path:
        return self.directory / f"{self.program.key}.log"

    @property
    def record_file(self) -> Path:
        return self.directory / f"{self.program.key}.json"

    @property
    def guard(self) -> Path:
        return self.directory / f"{self.program.key}.lock"

    def __str__(self) -> str:
        return f"{self.program.executable} of {self.directory}"

    def record(self) -> Record | None:
        """The record of the last launch; None when there was none, or when it cannot be read."""
        try:
            fields = json.loads(self.record_file.read_text(encoding="utf-8"))
            return Record(**{**fields, "options": tuple(fields["options"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def process(self) -> psutil.Process | None:
        """The live process of this server, or None."""
        record = self.record()
        if record is None:
            return None
        try:
            process = psutil.Process(record.pid)
            # A zombie has the name still, but no working directory any more.
            ours = process.name() == self.program.executable and process.cwd() == str(self.data)
        except (psutil.Error, OSError):
            return None
        return process if ours else None

    def ask(self) -> str:
        """The version that the running server reports. Raises NotReadyError when it does not answer."""
        record, process = self.record(), self.process()
        if record is None or process is None:
            raise NotReadyError("it does not run")
        try:
            listening = [c.laddr.port for c in process.net_connections("tcp4") if c.status == psutil.CONN_LISTEN]
        except (psutil.Error, OSError) as error:
            raise NotReadyError(f"its sockets cannot be seen: {error}") from error
        if record.port not in listening:
            raise NotReadyError(f"it does not listen on port {record.port}")
        return self.program.ask(record.port)

    def launch(self, *, port: int, options: Sequence[str], die_with_caller: bool) -> None:
        """Start the server; it may still be loading, or failing, when this returns. Precondition: it does not run."""
        binary = self.program.find()
        self.data.mkdir(mode=0o700, exist_ok=True)
        spec = {
            "command": [str(binary), *self.program.arguments(self.data, port), *options],
            "data": str(self.data),
            "log": str(self.log),
            "guard": str(self.guard),
            "guard_wait_s": GUARD_WAIT_S,
            "caller_pid": os.getpid(),
            "owned": die_with_caller,
            "record_file": str(self.record_file),
            "record": {
                "port": port,
                "binary": str(binary),
                "options": list(options),
                "owner_pid": os.getpid() if die_with_caller else None,
            },
        }
        command = [sys.executable, "-I", "-S", launcher.__file__, json.dumps(spec)]
        launched = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        # A launcher outlives a caller that is killed: the server it was about to start may be what was in the way.
        if (launched.stdout or launched.returncode) and self.process() is None:
            bad_news = launched.stdout.decode(errors="replace").strip()
            raise ServerFailedError(f"The {self} was not started: {bad_news}. Stored data was not touched.")

    def await_ready(self, deadline: Deadline) -> None:
        """Wait until the launched server serves. Raises NotInstalledError, PortTakenError or ServerFailedError."""
        pause_s = POLL_S
        while True:
            record = self.record()
            if record is None or self.process() is None:
                raise self._death()
            try:
                self.ask()
                self.program.settle(record.port)
                return
            except NotReadyError as error:
                reason = error
            if not deadline.remaining_s:
                raise ServerFailedError(
                    f"The {self} did not get ready in time: {reason}. Stored data is intact. Try again with a longer"
                    f" timeout: after a crash, or under load, it may need more.\n{self.log_tail()}"
                )
            time.sleep(pause_s)
            pause_s = min(1.2 * pause_s, LONGEST_PAUSE_S)

    def signal(self, *, kill: bool) -> bool:
        """Tell the server to stop cleanly, or kill it. False when it does not run."""
        process = self.process()
        if process is None:
            return False
        try:
            if kill:
                process.kill()
            else:
                process.terminate()
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied as error:
            raise ServerFailedError(f"The {self} belongs to another user, who has to stop it: {error}.") from error
        return True

    def await_gone(self, deadline: Deadline) -> None:
        """Wait until the server has stopped. Raises ServerFailedError at the deadline."""
        # psutil's own wait would also wait for a zombie, which init of a small container never reaps.
        while (process := self.process()) is not None:
            if not deadline.remaining_s:
                raise ServerFailedError(
                    f"The {self} (pid {process.pid}) was asked to stop but still runs. Nothing is lost: it may be"
                    f" flushing. Wait, or kill -9 it: it recovers at the next start.\n{self.log_tail()}"
                )
            time.sleep(POLL_S)

    def abandon(self) -> None:
        """Stop the server after a failed start: cleanly if it can, so that half-made data files are made whole."""
        try:
            self.signal(kill=False)
            self.await_gone(Deadline.after(ABANDON_S))
        except ServerFailedError:
            self.signal(kill=True)

    def log_tail(self) -> str:
        """What the server said last, and where, for an error message."""
        lines = self._log_text().splitlines()
        reported = [line[:LOG_LINE_CHARACTERS] for line in (self.program.errors(lines) or lines)[-LOG_TAIL_LINES:]]
        return "\n".join([f"The end of its log, {self.log}:", *(reported or ["(empty)"])])

    def _log_text(self) -> str:
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def _death(self) -> EmbeddedError:
        text = self._log_text()
        record = self.record()
        binary = Path(record.binary) if record is not None else Path(self.program.executable)
        if (lacking := explain_death(binary, text)) is not None:
            return lacking
        kind = PortTakenError if "Address already in use" in text else ServerFailedError
        return kind(f"The {self} stopped while it was starting. Stored data was not touched.\n{self.log_tail()}")
