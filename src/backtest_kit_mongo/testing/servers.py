"""A MongoDB and a Redis for one test process: private servers of this machine, or containers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import pymongo
from pymongo.errors import PyMongoError

from backtest_kit_mongo.embedded import NotInstalledError, down, up

MONGO_IMAGE, REDIS_IMAGE = "mongo:7", "redis:7"
READY_S = 120.0
"""Bound on the time until a server serves: several start at once, on a machine that does other work."""


class UnavailableError(Exception):
    """There are no such servers here; the message says what to install or start."""


class Servers(Protocol):
    """Where they are. `embedded.Endpoints` is one."""

    @property
    def mongo_url(self) -> str:
        """Connection string without a database name."""

    @property
    def redis_host(self) -> str: ...

    @property
    def redis_port(self) -> int: ...

    def mongo_connection_string(self, database: str) -> str:
        """Connection string with `database` as the default database."""


@contextmanager
def private_servers(directory: Path) -> Iterator[Servers]:
    """A mongod and a redis-server that keep their data in this directory, which is removed with them.

    Raises:
        UnavailableError: they are not installed.
    """
    try:
        endpoints = up(directory, die_with_caller=True, timeout_s=READY_S)
    except NotInstalledError as cause:
        raise UnavailableError(str(cause)) from cause
    try:
        yield endpoints
    finally:
        down(directory)
        # Hundreds of megabytes, and pytest would keep those of three runs.
        shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Containers:
    """Published ports of two containers."""

    mongo_address: str
    redis_host: str
    redis_port: int

    @property
    def mongo_url(self) -> str:
        return self.mongo_connection_string("")

    def mongo_connection_string(self, database: str) -> str:
        # Direct, because the set's member has a name that is good inside its container only.
        return f"mongodb://{self.mongo_address}/{quote(database, safe='')}?directConnection=true"


@contextmanager
def container_servers() -> Iterator[Servers]:
    """A MongoDB as a replica set of one, and a Redis, on Docker.

    Raises:
        UnavailableError: Docker or testcontainers is missing, or a container does not start.
    """
    try:
        from docker.errors import DockerException
        from testcontainers.core.container import DockerContainer
    except ImportError as cause:
        raise UnavailableError(f"containers need testcontainers (pip install testcontainers): {cause}") from cause
    with ExitStack() as stack:
        try:
            mongo = stack.enter_context(
                DockerContainer(MONGO_IMAGE)
                .with_command("--replSet rs0 --setParameter transactionLifetimeLimitSeconds=5")
                .with_exposed_ports(27017)
            )
            cache = stack.enter_context(DockerContainer(REDIS_IMAGE).with_exposed_ports(6379))
            address = f"{_host(mongo)}:{mongo.get_exposed_port(27017)}"
            servers = Containers(address, _host(cache), int(cache.get_exposed_port(6379)))
            _initiate(servers.mongo_url)
        except (DockerException, PyMongoError, TimeoutError) as cause:
            raise UnavailableError(f"containers of {MONGO_IMAGE} and {REDIS_IMAGE} do not run: {cause}") from cause
        yield servers


def _host(container: Any) -> str:
    host = str(container.get_container_host_ip())
    # The name may mean ::1 first, where Docker publishes nothing if it was set to use IPv4.
    return "127.0.0.1" if host == "localhost" else host


def _initiate(url: str) -> None:
    """Make the set of one and wait until it has a primary.

    Raises:
        PyMongoError, TimeoutError: it does not answer, or has none in time.
    """
    end_s = time.monotonic() + READY_S
    member = {"_id": 0, "host": "localhost:27017"}
    with pymongo.MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=int(READY_S * 1000)) as client:
        client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
        while not client.admin.command("hello")["isWritablePrimary"]:
            if time.monotonic() > end_s:
                raise TimeoutError(f"MongoDB elected no primary within {READY_S:g} s")
            time.sleep(0.05)
