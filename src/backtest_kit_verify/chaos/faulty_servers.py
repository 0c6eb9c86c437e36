"""The private mongod and redis-server of a run, and what can be done to them."""

import random
import re
import shutil
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import redis

from backtest_kit_mongo import embedded
from backtest_kit_mongo.embedded import EmbeddedError
from backtest_kit_mongo.servers import redis_client
from backtest_kit_mongo.settings import Settings, load
from backtest_kit_mongo.testing.servers import Servers as AnyServers
from backtest_kit_verify.chaos.errors import ChaosError
from backtest_kit_verify.chaos.history import RedisKill
from backtest_kit_verify.chaos.wire import Wire

__all__ = ["DATABASE", "Servers", "settings_of"]

DATABASE = "chaos"
LEASE_MS = 1_500
SAMPLED_S = 3.0
START_S = 300.0


def settings_of(endpoints: AnyServers) -> dict[str, Any]:
    """Short cycles: a dead writer's key is cached again after a second and a half. Complete, so that the environment
    plays no part.
    """
    return {
        "mongo_connection_string": endpoints.mongo_connection_string(DATABASE),
        "redis_host": endpoints.redis_host,
        "redis_port": endpoints.redis_port,
        "redis_user": "",
        "redis_password": "",
        "redis_tls": False,
        "redis_tls_ca_file": "",
        "redis_tls_cert_file": "",
        "redis_tls_key_file": "",
        "redis_sentinel": "",
        "cache_mode": "document",
        "on_redis_down": "bypass",
        "lease_ms": LEASE_MS,
        "mongo_timeout_ms": 1_000,
        "redis_timeout_ms": 500,
        "redis_retry_ms": 50,
        "cache_ttl_ms": 60_000,
        "partitions": 1,
        "embedded": False,
    }


class Sample(NamedTuple):
    """How long the append-only file was at a moment. Another inode is another file: Redis had rewritten it."""

    at_ns: int
    inode: int
    size: int


class Servers:
    """Starts, kills and restarts them. They end with this process, however it ends."""

    def __init__(self, directory: Path, memory_max: int = 0) -> None:
        self._memory_max = memory_max
        self.endpoints = embedded.up(directory, die_with_caller=True)
        self.settings: Settings = load(**settings_of(self.endpoints))
        self.redis: Any = redis_client(self.settings)
        self.is_redis_up = self.is_mongo_up = True
        self._samples: deque[Sample] = deque()
        # Starting takes seconds on a busy machine, in which clients are to be hurt, healed and restarted all the same.
        self._starter = ThreadPoolExecutor(1)
        self._starts: list[Future[None]] = []
        self._snapshots = 0
        self.limit(memory_max)

    def close(self) -> None:
        self._starter.shutdown(cancel_futures=True)
        self.redis.close()
        embedded.down(self.endpoints.directory)

    @property
    def is_starting(self) -> bool:
        """Whether a server is being started; then no other can be stopped.

        Raises:
            ChaosError: one did not come back.
        """
        for done in [start for start in self._starts if start.done()]:
            self._starts.remove(done)
            done.result()
        return bool(self._starts)

    def wire(self) -> Wire:
        """A way of its own to MongoDB."""
        host, port = re.findall(r"([\d.]+):(\d+)", self.endpoints.mongo_url)[0]
        return Wire(host, int(port))

    # -- redis-server

    def sample(self) -> None:
        """Remember how long the append-only file is, to be able to cut it back to that."""
        path = self._append_only_file()
        if path is None:
            return
        try:
            stat = path.stat()
        except FileNotFoundError:
            return
        now_ns = time.monotonic_ns()
        self._samples.append(Sample(now_ns, stat.st_ino, stat.st_size))
        while self._samples[0].at_ns < now_ns - SAMPLED_S * 1e9:
            self._samples.popleft()

    def _append_only_file(self) -> Path | None:
        """The file that Redis appends to: one up to version 6, one of a directory from 7 on."""
        data = self.endpoints.directory / "redis"
        found = [data / "appendonly.aof", *(data / "appendonlydir").glob("*.incr.aof")]
        return max((path for path in found if path.exists()), key=lambda path: path.stat().st_mtime, default=None)

    def kill_redis(self, rng: random.Random) -> RedisKill:
        """SIGKILL, and the loss of what was appended in the last moments. Precondition: nothing is being started.

        The kernel would still write what the process gave it; without it, a machine loses power, and up to a second is
        lost.
        """
        self.is_redis_up = False
        embedded.stop_redis(self.endpoints.directory, kill=True)
        gone_ns = time.monotonic_ns()
        path = self._append_only_file()
        wanted_ns = gone_ns - int(rng.random() * 1e9)
        inode = path.stat().st_ino if path is not None else -1
        usable = [sample for sample in self._samples if sample.inode == inode and sample.at_ns <= wanted_ns]
        self._samples.clear()
        if path is None or not usable:
            return RedisKill(gone_ns, gone_ns)
        with path.open("r+b") as file:
            file.truncate(min(usable[-1].size, path.stat().st_size))
        return RedisKill(usable[-1].at_ns, gone_ns)

    def start_redis(self) -> None:
        """Begin to; `is_redis_up` tells when it serves."""

        def start() -> None:
            _start(embedded.start_redis, self.endpoints.directory)
            self.limit(self._memory_max)
            self.is_redis_up = True

        self._starts.append(self._starter.submit(start))

    def squeeze(self, spare_bytes: int) -> None:
        """Let Redis evict as much as it takes to get below its memory use by so many bytes.

        In one packet: the limit is gone before a client could meet it, since a full Redis is another fault than
        eviction.
        """
        used = self.used_memory()
        with self.redis.pipeline(transaction=False) as packet:
            packet.config_set("maxmemory-policy", "volatile-lru")
            packet.config_set("maxmemory", str(used - spare_bytes))
            packet.ping()  # Some versions evict when they serve the next command.
            packet.config_set("maxmemory", str(self._memory_max))
            packet.execute(raise_on_error=False)

    def limit(self, memory_max: int | None = None) -> None:
        """Give Redis so much memory, 0 for any; by default what the run gives it."""
        if memory_max or self._memory_max:
            self.redis.config_set("maxmemory-policy", "volatile-lru")
        self.redis.config_set("maxmemory", str(self._memory_max if memory_max is None else memory_max))

    def used_memory(self) -> int:
        """Bytes that Redis uses now."""
        return int(self.redis.info("memory")["used_memory"])

    def evicted_count(self) -> int:
        """Keys that the running redis-server has evicted."""
        return int(self.redis.info("stats")["evicted_keys"])

    # -- mongod

    def kill_mongo(self) -> None:
        """SIGKILL. Precondition: nothing is being started."""
        self.is_mongo_up = False
        embedded.stop_mongo(self.endpoints.directory, kill=True)

    def start_mongo(self) -> None:
        """Begin to; `is_mongo_up` tells when it serves."""

        def start() -> None:
            _start(embedded.start_mongo, self.endpoints.directory)
            self.is_mongo_up = True

        self._starts.append(self._starter.submit(start))

    def snapshot(self) -> Path:
        """Begin to start mongod again after SIGKILL and a copy of its files, as a disk's snapshot has them; returns
        where that is kept. Precondition: nothing is being started.
        """
        self.kill_mongo()
        self._snapshots += 1
        kept = self.endpoints.directory / f"snapshot-{self._snapshots}"

        def start() -> None:
            shutil.copytree(self.endpoints.directory / "mongo", kept)
            _start(embedded.start_mongo, self.endpoints.directory)
            self.is_mongo_up = True

        self._starts.append(self._starter.submit(start))
        return kept

    def restore(self, kept: Path) -> None:
        """Put mongod back to a snapshot, and wait until it serves. Precondition: nothing is being started."""
        self.kill_mongo()
        files = self.endpoints.directory / "mongo"
        shutil.rmtree(files)
        shutil.copytree(kept, files)
        self.start_mongo()
        wait(self._starts)
        assert not self.is_starting

    def heal(self) -> None:
        """Both run when this returns."""
        self.start_redis()
        self.start_mongo()
        wait(self._starts)
        assert not self.is_starting


def _start(start: Callable[..., bool], directory: Path) -> None:
    try:
        start(directory, timeout_s=START_S)
    except EmbeddedError as cause:
        raise ChaosError(f"A server did not come back after it was killed: {cause}") from cause


REDIS_ERRORS = (redis.RedisError, OSError)
