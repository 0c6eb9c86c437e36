"""redis-server processes as the tests of failover and security need them: with any options, and killed at any time."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from backtest_kit_mongo.embedded.binaries import find_redis_server
from tests.integration.support import eventually

HOST = "127.0.0.1"


def free_port() -> int:
    with socket.create_server((HOST, 0)) as found:
        return int(found.getsockname()[1])


def client_of(port: int, **options: Any) -> Any:
    return redis.Redis(host=HOST, port=port, socket_timeout=2, retry=Retry(NoBackoff(), 0), **options)


class Process:
    """A redis-server, or a Sentinel; `credentials` are those of a user that may PING."""

    def __init__(
        self, port: int, arguments: Sequence[str], directory: Path, *, binary: Path | None = None, **credentials: str
    ) -> None:
        self.port = port
        self._credentials = credentials
        self._log = directory / f"{port}.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([str(binary or find_redis_server()), *arguments], stdout=log, stderr=log)
        eventually(self._answers)

    def client(self, **options: Any) -> Any:
        return client_of(self.port, **{**self._credentials, **options})

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        return answer_of(lambda: self.client().ping()) is True

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """As an operator would: it may write what it has."""
        self._process.terminate()
        self._process.wait()


def answer_of(ask: Callable[[], Any]) -> Any:
    """The answer, or None where the server does not give one yet."""
    try:
        return ask()
    except redis.RedisError:
        return None
