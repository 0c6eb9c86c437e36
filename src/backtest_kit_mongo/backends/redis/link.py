"""One way to send a command to Redis: no hidden retries, no surprises about what was executed.

The protocol needs a fresh token for each attempt of LEASE and READ, so the client library's own retries are off and
every attempt is made here. Connections are the library's (TLS, authentication, Sentinel, parsing); the pool is ours,
because the library's asks the kernel before each use whether the socket is still good, which costs a sixth of a cached
read.

Which server is the primary is decided when a connection is made (with Sentinel: by asking), and each script makes sure
of it where it runs. A server that says it is none loses all our connections, and so do the others of its kind when one
new connection is led elsewhere: one process must not hear two servers.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Sequence
from contextvars import copy_context
from functools import cached_property
from importlib.resources import files
from typing import Any, Protocol, TypeAlias

import redis
from hiredis import pack_command
from redis.exceptions import MasterDownError, MovedError, NoScriptError

from backtest_kit_mongo.backends.redis.errors import OUTDATED, Outdated
from backtest_kit_mongo.backends.redis.unread import Answers, Then, Unread

Argument: TypeAlias = str | bytes | int
UNREACHABLE = (redis.ConnectionError, redis.TimeoutError, OSError)
NOT_PRIMARY = ("BKREPLICA", "BKALONE", "READONLY", "NOREPLICAS", "MASTERDOWN")
"""Refusals of a server that is a replica, or a primary that has lost its replicas, perhaps to another primary. Searched
for in the text, because Redis 6.2 puts words of its own before what a script says."""

IS_A_NODE = "the server is a node of a cluster: name it in CC_REDIS_CLUSTER"

_LUA = files(__package__) / "lua"
_pack: Any = pack_command  # Its stub knows tuples of one part only.
_MORE = dict.fromkeys(("lease", "commit", "publish", "size"), ("account",))
"""What stands in front of a script beside the prelude."""


class Script:
    """A Lua file with the shared prelude in front."""

    def __init__(self, name: str, prelude: str | None = None) -> None:
        parts = ("prelude", *_MORE.get(name, ()))
        shared = (
            prelude if prelude is not None else "".join((_LUA / f"{part}.lua").read_text("utf-8") for part in parts)
        )
        self._name, self._shared = name, shared
        self.source = shared + (_LUA / f"{name}.lua").read_text("utf-8")
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    @cached_property
    def in_cluster(self) -> Script:
        """The same step where partitions can move between servers, with the incarnation that this takes."""
        return Script(self._name, self._shared + (_LUA / "cluster.lua").read_text("utf-8"))


class Link(Protocol):
    """What the cache, the near cache and relays send through: to one server, or to the nodes of a cluster. Thread-safe.

    All keys of a script or command are of one partition. Errors are the client library's.
    """

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Execute a script once."""

    def run_later(self, script: Script, keys: Sequence[str], args: Sequence[Argument], then: Then) -> None:
        """Send a script once and do not wait: `then` gets the answer, or the error that came instead of it, before the
        answer to this thread's next command, or soon. What is raised here was sent, if at all, to no avail.
        """

    def settle(self) -> None:
        """Wait for what was sent by `run_later`, by all threads."""

    def execute(self, *command: Argument) -> Any: ...

    def execute_many(self, commands: Sequence[Sequence[Argument]]) -> list[Any]: ...

    def form(self, script: Script) -> Script:
        """The script as it is sent here."""

    def at(self, key: str) -> RedisLink:
        """To the server that has this key now, for what is asked of servers and not of keys."""

    def everywhere(self) -> Sequence[RedisLink]:
        """To each server that may have keys."""

    def drop_idle(self) -> None:
        """After a failure: keep no connection that is most likely dead, too."""

    def close(self) -> None:
        """Close idle connections; what is sent later makes new ones."""


class RedisLink:
    """Thread-safe sender of commands over its own pool. A connection that failed is closed, never reused."""

    def __init__(self, client: redis.Redis) -> None:
        self._source = client.connection_pool
        self._idle: deque[Any] = deque()
        self._answers = Answers(self._read)
        self._address: tuple[Any, Any] | None = None
        self._process = os.getpid()
        self.known: set[str] = set()
        """Scripts that the server has, by their SHA."""

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Execute a script once. (An unknown script was not executed, so sending its source is no second attempt.)"""
        try:
            return self.execute_many((("EVALSHA", script.sha, len(keys), *keys, *args),))[0]
        except NoScriptError:
            return self.execute_many((("EVAL", script.source, len(keys), *keys, *args),))[0]

    def execute(self, *command: Argument) -> Any:
        """Send one command and return its answer.

        Raises:
            one of `UNREACHABLE`: it may or may not have been executed.
        """
        return self.execute_many((command,))[0]

    def execute_many(self, commands: Sequence[Sequence[Argument]], *, judges: bool = True) -> list[Any]:
        """Send commands in one packet. The first error that the server answered is raised after all answers were read;
        to those who judge for themselves it is an answer.
        """
        # hiredis packs a whole command in C; the library would look at each argument in Python first.
        answers = self._exchange([_pack(tuple(command)) for command in commands], len(commands))
        if judges:
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer if not isinstance(answer, MovedError) else redis.ResponseError(IS_A_NODE) from answer
        return answers

    def run_later(self, script: Script, keys: Sequence[str], args: Sequence[Argument], then: Then) -> None:
        if script.sha in self.known:
            self._exchange([_pack(("EVALSHA", script.sha, len(keys), *keys, *args))], 0, then)
        else:
            then(self.run(script, keys, args))
            self.known.add(script.sha)

    def _exchange(self, packets: Sequence[bytes], count: int, then: Then | None = None) -> list[Any]:
        """Send, and read so many answers, after the one that was left on the connection; leave one more to `then`."""
        connection, idle, unread = self._taken()
        answers: list[Any] = []
        earlier: Any = None
        try:
            connection.send_packed_command(packets)
            if unread is not None:
                earlier = self._answer(connection)
            while len(answers) < count:
                answers.append(self._answer(connection))
        except BaseException as cause:
            connection.disconnect()
            if unread is not None:
                unread.told(cause if earlier is None else earlier)
            raise
        if then is not None:
            self._answers.leave(Unread(connection, idle, then, copy_context(), time.monotonic()))
        else:
            self._put_back(connection, idle)
        if unread is not None:
            unread.told(earlier)
        return answers

    def settle(self) -> None:
        if self._process == os.getpid():
            self._answers.settle()

    def _taken(self) -> tuple[Any, deque[Any], Unread | None]:
        """A connection that nobody else uses, where to put it afterwards, and whether an answer is on its way there."""
        if self._process != os.getpid():
            self._idle, self._answers = deque(), Answers(self._read)  # The parent's sockets.
            self._process = os.getpid()
        if (unread := self._answers.take()) is not None:
            return unread.connection, unread.idle, unread
        idle = self._idle
        try:
            return idle.pop(), idle, None
        except IndexError:
            return (*self._connected(idle), None)

    def _put_back(self, connection: Any, idle: deque[Any]) -> None:
        if idle is self._idle:
            idle.append(connection)
        else:
            connection.disconnect()  # Meanwhile the others of its kind were dropped.

    def _answer(self, connection: Any) -> Any:
        """What the server answers next; an error is an answer."""
        try:
            return connection.read_response()
        except redis.ResponseError as error:
            return self._judged(error)

    def _read(self, unread: Unread) -> None:
        try:
            answer = self._answer(unread.connection)
        except BaseException as cause:
            unread.connection.disconnect()
            answer = cause
        else:
            self._put_back(unread.connection, unread.idle)
        unread.told(answer)

    def form(self, script: Script) -> Script:
        return script

    def at(self, key: str) -> RedisLink:
        return self

    def everywhere(self) -> Sequence[RedisLink]:
        return (self,)

    def close(self) -> None:
        self.settle()
        self.drop_idle()

    def _judged(self, error: Exception) -> Exception:
        """What an error that a server answered means."""
        known = isinstance(error, redis.ReadOnlyError | MasterDownError)  # Of which the library cuts off the sign.
        if not known and not any(sign in str(error) for sign in NOT_PRIMARY):
            return Outdated(str(error)) if OUTDATED in str(error) else error
        self.drop_idle()
        return redis.ConnectionError(f"the server is not, or may no longer be, the primary: {error}")

    def _connected(self, idle: deque[Any]) -> tuple[Any, deque[Any]]:
        """A new connection, and where to put it afterwards."""
        # Not the pool's own `make_connection`: it counts every connection ever made against a maximum.
        connection = self._source.connection_class(**self._source.connection_kwargs)
        connection.connect()
        address = getattr(connection, "host", None), getattr(connection, "port", None)
        if self._address not in (None, address):
            self.drop_idle()
            idle = self._idle
        self._address = address
        return connection, idle

    def drop_idle(self) -> None:
        """Close idle connections, and those in use once they come back: after a failure they are most likely dead
        too.
        """
        dropped, self._idle = self._idle, deque()
        self.known.clear()
        while True:
            try:
                dropped.pop().disconnect()
            except IndexError:
                return
