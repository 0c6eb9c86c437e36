"""One way to send a command to Redis: no hidden retries, no surprises about what was executed.

The protocol needs a fresh token for each attempt of LEASE and READ, so the client library's own retries are off and
every attempt is made here. Connections are the library's (TLS, authentication, parsing); the pool is ours, because the
library's asks the kernel before each use whether the socket is still good, which costs a sixth of a cached read.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, TypeAlias

import redis
from hiredis import pack_command
from redis.exceptions import NoScriptError

Argument: TypeAlias = str | bytes | int
UNREACHABLE = (redis.ConnectionError, redis.TimeoutError, OSError)

_LUA = files("backtest_kit_mongo.backends") / "lua"


class Script:
    """A Lua file with the shared prelude in front."""

    def __init__(self, name: str, prelude: str | None = None) -> None:
        shared = prelude if prelude is not None else (_LUA / "prelude.lua").read_text("utf-8")
        self.source = shared + (_LUA / f"{name}.lua").read_text("utf-8")
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class RedisLink:
    """Thread-safe sender of commands over its own pool. A connection that failed is closed, never reused."""

    def __init__(self, client: redis.Redis) -> None:
        self._source = client.connection_pool
        self._idle: deque[Any] = deque()
        self._process = os.getpid()

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Execute a script once. (An unknown script was not executed, so sending its source is no second attempt.)"""
        try:
            return self.execute("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return self.execute("EVAL", script.source, len(keys), *keys, *args)

    def execute(self, *command: Argument) -> Any:
        """Send one command and return its answer;

        raises one of `UNREACHABLE` if it may or may not have been executed.
        """
        return self.execute_many([command])[0]

    def execute_many(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send commands in one packet. The first error is raised after all answers were read."""
        connection = self._take()
        try:
            # hiredis packs a whole command in C; the library would look at each argument in Python first.
            connection.send_packed_command([_packed(command) for command in commands])
            answers = [self._answer(connection) for _ in commands]
        except BaseException:
            connection.disconnect()
            raise
        self._idle.append(connection)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    @staticmethod
    def _answer(connection: Any) -> Any:
        try:
            return connection.read_response()
        except redis.ResponseError as error:
            return error

    def _take(self) -> Any:
        if self._process != os.getpid():
            self._idle = deque()  # The parent's sockets.
            self._process = os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            # Not the pool's own `make_connection`: it counts every connection ever made against a maximum.
            return self._source.connection_class(**self._source.connection_kwargs)

    def drop_idle(self) -> None:
        """Close idle connections: after a failure they are most likely dead too."""
        while True:
            try:
                self._idle.pop().disconnect()
            except IndexError:
                return


def _packed(command: Sequence[Argument]) -> bytes:
    parts: Any = tuple(command)  # hiredis' stub knows tuples of one part only.
    packed: bytes = pack_command(parts)
    return packed
