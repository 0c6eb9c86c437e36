"""A private mongod and redis-server per data directory, shared by all processes that name the directory.

`up` starts what does not run and waits until it serves; `down` stops both; `status` looks and changes nothing.
`up`, `down` and the functions for single servers exclude each other by a file lock in the directory.

Layout of the directory: `mongo/` and `redis/` hold the data; `mongo.json` and `redis.json` the port and pid of the last
launch (the port is used again when it is free); `*.log` and `*.log.1` what the servers said; `*.lock` the locks.

The servers listen on 127.0.0.1 only, without passwords: every user of this machine can reach them.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import filelock
import platformdirs

from .errors import DirectoryBusyError
from .mongo_server import MONGO, REPLICA_SET
from .processes import HOST, Deadline, NotReadyError, PortTakenError, Program, Server, free_port, is_free
from .redis_server import REDIS, keep_identity

__all__ = [
    "Endpoints",
    "ServerStatus",
    "Status",
    "default_directory",
    "down",
    "mark_new",
    "start_mongo",
    "start_redis",
    "status",
    "stop_mongo",
    "stop_redis",
    "up",
]

PORT_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the two servers of `directory` answer. `started_here`: this call started at least one of them; `is_new`: it
    began with nothing in the directories of both.
    """

    directory: Path
    mongo_host: str
    mongo_port: int
    redis_host: str
    redis_port: int
    mongo_pid: int
    redis_pid: int
    started_here: bool
    is_new: bool = False

    @property
    def mongo_url(self) -> str:
        """Connection string without a database name."""
        return f"mongodb://{self.mongo_host}:{self.mongo_port}/?replicaSet={REPLICA_SET}"

    def mongo_connection_string(self, database: str) -> str:
        """Connection string with `database` as the default database."""
        return f"mongodb://{self.mongo_host}:{self.mongo_port}/{quote(database, safe='')}?replicaSet={REPLICA_SET}"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server as seen from outside. `trouble` says why a running server does not answer."""

    name: str
    running: bool
    answering: bool
    pid: int | None
    port: int | None
    owner_pid: int | None
    version: str | None
    trouble: str | None
    data_bytes: int
    log: Path


@dataclass(frozen=True, slots=True)
class Status:
    """What runs in `directory`. `owner_pid` of a server: it ends with that process (None: it stays until `down`)."""

    directory: Path
    mongo: ServerStatus
    redis: ServerStatus

    @property
    def answering(self) -> bool:
        """Whether both servers run and answer."""
        return self.mongo.answering and self.redis.answering


def default_directory() -> Path:
    """`CC_EMBEDDED_DIR` when set, else the `backtest-kit-mongo` folder in the user's data directory."""
    named = os.environ.get("CC_EMBEDDED_DIR")
    return Path(named) if named else platformdirs.user_data_path("backtest-kit-mongo", appauthor=False)


def up(
    directory: Path | str | None = None,
    *,
    die_with_caller: bool = False,
    redis_options: Sequence[str] = (),
    timeout_s: float = 30,
) -> Endpoints:
    """Make sure that both servers of `directory` run, and wait until they serve.

    `die_with_caller` ties servers that this call starts to this process: they end with it, however it ends. Without it
    they stay until `down`. `redis_options` (such as `("--maxmemory", "64mb")`) go to a redis-server that this call
    starts. Neither changes a server that runs already. `timeout_s` bounds the whole call.

    Raises NotInstalledError, ServerFailedError or DirectoryBusyError; then what this call started is stopped again.
    """
    deadline = Deadline.after(timeout_s)
    with _exclusive(directory, deadline) as home:
        mongo, redis = Server(MONGO, home), Server(REDIS, home)
        started: list[Server] = []
        is_new = not any(server.data.is_dir() and any(server.data.iterdir()) for server in (mongo, redis))
        try:
            # Both load at the same time; mongod takes longer.
            for server, options in ((mongo, ()), (redis, redis_options)):
                if server.process() is None:
                    started.append(server)
                    server.launch(port=_preferred_port(server), options=options, die_with_caller=die_with_caller)
            for server in (redis, mongo):
                _settle(server, deadline, may_move=server in started)
        except BaseException:
            for server in started:
                server.abandon()
            raise
        return _endpoints(mongo, redis, started_here=bool(started), is_new=is_new)


def down(directory: Path | str | None = None, *, timeout_s: float = 30) -> bool:
    """Stop both servers of `directory` cleanly. False when neither ran.

    Raises ServerFailedError when one still runs after `timeout_s`, DirectoryBusyError when the lock was not free.
    """
    deadline = Deadline.after(timeout_s)
    if not _resolve(directory).is_dir():
        return False
    with _exclusive(directory, deadline) as home:
        servers = [Server(REDIS, home), Server(MONGO, home)]
        stopped = [server for server in servers if server.signal(kill=False)]
        for server in stopped:
            server.await_gone(deadline)
    return bool(stopped)


def status(directory: Path | str | None = None) -> Status:
    """What runs in `directory` at this moment. Takes no lock and changes nothing."""
    home = _resolve(directory)
    return Status(home, _server_status(Server(MONGO, home)), _server_status(Server(REDIS, home)))


def mark_new(endpoints: Endpoints, name: str) -> None:
    """Say in the memory of a pair that is new, under this name, that it is. For who believes it, see CLAIM."""
    keep_identity(endpoints.redis_port, name)


def start_mongo(directory: Path | str | None = None, *, timeout_s: float = 30) -> bool:
    """Start mongod again as it was started last (port, options, tied to its caller or not). False when it runs."""
    return _start_again(MONGO, directory, timeout_s)


def stop_mongo(directory: Path | str | None = None, *, kill: bool = False, timeout_s: float = 30) -> bool:
    """Stop mongod alone, with SIGKILL if `kill`. False when it does not run."""
    return _stop(MONGO, directory, timeout_s, kill=kill)


def start_redis(directory: Path | str | None = None, *, timeout_s: float = 30) -> bool:
    """The same for redis-server; the options are those that `up` was given."""
    return _start_again(REDIS, directory, timeout_s)


def stop_redis(directory: Path | str | None = None, *, kill: bool = False, timeout_s: float = 30) -> bool:
    """Stop redis-server alone, with SIGKILL if `kill`. False when it does not run."""
    return _stop(REDIS, directory, timeout_s, kill=kill)


def _start_again(program: Program, directory: Path | str | None, timeout_s: float) -> bool:
    deadline = Deadline.after(timeout_s)
    with _exclusive(directory, deadline) as home:
        server = Server(program, home)
        if server.process() is not None:
            return False
        record = server.record()
        server.launch(
            # Clients of the stopped server are to find the new one, so no other port will do even if this one is taken.
            port=record.port if record is not None else free_port(),
            options=record.options if record is not None else (),
            die_with_caller=record is not None and record.owner_pid is not None,
        )
        try:
            _settle(server, deadline, may_move=False)
        except BaseException:
            server.abandon()
            raise
    return True


def _stop(program: Program, directory: Path | str | None, timeout_s: float, *, kill: bool) -> bool:
    deadline = Deadline.after(timeout_s)
    if not _resolve(directory).is_dir():
        return False
    with _exclusive(directory, deadline) as home:
        server = Server(program, home)
        if not server.signal(kill=kill):
            return False
        server.await_gone(deadline)
    return True


def _settle(server: Server, deadline: Deadline, *, may_move: bool) -> None:
    """Wait until `server` serves; when its port was snatched, launch it on another one."""
    for _ in range(PORT_ATTEMPTS - 1):
        try:
            return server.await_ready(deadline)
        except PortTakenError:
            record = server.record()
            if not may_move or record is None:
                raise
            server.launch(port=free_port(), options=record.options, die_with_caller=record.owner_pid is not None)
    return server.await_ready(deadline)


def _preferred_port(server: Server) -> int:
    record = server.record()
    return record.port if record is not None and is_free(record.port) else free_port()


def _endpoints(mongo: Server, redis: Server, *, started_here: bool, is_new: bool) -> Endpoints:
    of_mongo, of_redis = mongo.record(), redis.record()
    if of_mongo is None or of_redis is None:
        raise DirectoryBusyError(f"{mongo.directory} was removed while its servers started. Run `up` again.")
    return Endpoints(
        directory=mongo.directory,
        mongo_host=HOST,
        mongo_port=of_mongo.port,
        redis_host=HOST,
        redis_port=of_redis.port,
        mongo_pid=of_mongo.pid,
        redis_pid=of_redis.pid,
        started_here=started_here,
        is_new=is_new,
    )


def _server_status(server: Server) -> ServerStatus:
    record = server.record() if server.process() is not None else None
    version, trouble = None, None
    if record is not None:
        try:
            version = server.ask()
        except NotReadyError as error:
            trouble = str(error)
    return ServerStatus(
        name=server.program.executable,
        running=record is not None,
        answering=version is not None,
        pid=record.pid if record is not None else None,
        port=record.port if record is not None else None,
        owner_pid=record.owner_pid if record is not None else None,
        version=version,
        trouble=trouble,
        data_bytes=_allocated_bytes(server.data),
        log=server.log,
    )


def _allocated_bytes(directory: Path) -> int:
    """Disk space that the files below `directory` take; they may come and go meanwhile."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def _resolve(directory: Path | str | None) -> Path:
    """Absolute and free of links, so that all processes mean the same and the kernel's view of it compares equal."""
    return (default_directory() if directory is None else Path(directory)).expanduser().resolve()


@contextmanager
def _exclusive(directory: Path | str | None, deadline: Deadline) -> Iterator[Path]:
    home = _resolve(directory)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The kernel releases this lock when its holder dies: there is no stale lock to recognise.
        lock = filelock.FileLock(home / "up.lock", timeout=deadline.remaining_s)
        lock.acquire()
    except filelock.Timeout:
        raise DirectoryBusyError(
            f"Another process has been starting or stopping the servers of {home} all the while. Nothing was changed."
            " Try again, or with a longer timeout."
        ) from None
    except OSError as error:
        raise DirectoryBusyError(
            f"{home} cannot be used as data directory: {error}. Nothing was changed. Name another directory"
            " (`--dir`, or the environment variable CC_EMBEDDED_DIR)."
        ) from error
    try:
        yield home
    finally:
        lock.release()
