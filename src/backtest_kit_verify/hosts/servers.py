"""A mongod and a redis-server on hosts of their own."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pymongo
import redis
from pymongo.errors import PyMongoError

from backtest_kit_mongo.embedded.binaries import find_mongod, find_redis_server
from backtest_kit_verify.hosts.network import DOMAIN, HostsError, Network

__all__ = ["HostServers"]

MONGO_PORT: Final = 27017
REDIS_PORT: Final = 6379
READY_S: Final = 60.0
_POLL_S: Final = 0.05


@dataclass(slots=True)
class HostServers:
    """Where they are, as `testing.servers.Servers`; they end with this process, however it ends."""

    network: Network
    directory: Path
    _stack: ExitStack = field(default_factory=ExitStack)
    _redis: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> HostServers:
        (self.directory / "mongo").mkdir()
        mongod = [
            str(find_mongod()), "--dbpath", str(self.directory / "mongo"), "--bind_ip_all", "--replSet", "rs0",
            "--port", str(MONGO_PORT), "--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "256", "--quiet",
            "--nounixsocket", "--setParameter", "diagnosticDataCollectionEnabled=false",
            "--wiredTigerEngineConfigString", "log=(prealloc=false)",
        ]  # fmt: skip
        self._start("mongo", mongod)
        self.start_redis()
        with pymongo.MongoClient[dict[str, Any]](self._seen_from_here, serverSelectionTimeoutMS=500) as client:
            member = {"_id": 0, "host": f"mongo.{DOMAIN}:{MONGO_PORT}"}
            self._until(lambda: client.admin.command("ping"))
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
            self._until(lambda: client.admin.command("hello")["isWritablePrimary"])
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def _seen_from_here(self) -> str:
        return f"mongodb://{self.network.hosts['mongo'].address}:{MONGO_PORT}/?directConnection=true"

    @property
    def mongo_url(self) -> str:
        return self.mongo_connection_string("")

    def mongo_connection_string(self, database: str) -> str:
        """By the name that the set's member has, as on real hosts; good inside the namespaces only."""
        return f"mongodb://mongo.{DOMAIN}:{MONGO_PORT}/{quote(database, safe='')}?replicaSet=rs0"

    @property
    def redis_host(self) -> str:
        return f"redis.{DOMAIN}"

    @property
    def redis_port(self) -> int:
        return REDIS_PORT

    def start_redis(self) -> None:
        """An empty one; one that ran before is killed."""
        if self._redis is not None:
            self._redis.kill()
            self._redis.wait()
        command = [
            str(find_redis_server()), "--port", str(REDIS_PORT), "--bind", "0.0.0.0", "--protected-mode", "no",
            "--save", "", "--dir", str(self.directory), "--maxmemory-policy", "noeviction",
        ]  # fmt: skip
        self._redis = self._start("redis", command)
        with redis.Redis(self.network.hosts["redis"].address, REDIS_PORT) as client:
            self._until(client.ping)

    def _start(self, host: str, command: list[str]) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self.directory / f"{host}.log").open("ab"))
        process = subprocess.Popen([*self.network.hosts[host].inside, *command], stdout=log, stderr=log)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def _until(self, is_so: Any) -> None:
        end_s = time.monotonic() + READY_S
        while True:
            try:
                if is_so():
                    return
            except (PyMongoError, redis.RedisError, OSError):
                pass
            if time.monotonic() > end_s:
                raise HostsError(f"a server did not get ready within {READY_S:g} s; see the logs in {self.directory}")
            time.sleep(_POLL_S)
