"""A COMMIT that nobody waits for: whoever comes next reads its answer, and what was lost is told all the same. Without
servers.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import pytest
import redis
from redis.exceptions import NoScriptError

from backtest_kit_mongo.backends.redis.link import RedisLink, Script
from backtest_kit_mongo.backends.redis.unread import Answers, Unread
from backtest_kit_mongo.causing import caused_by, present_cause
from backtest_kit_mongo.coherence.causes import Cause

SCRIPT = Script("commit")


class Connection:
    """A server that answers each command, in order, with what it was sent, unless the test says otherwise."""

    def __init__(self, world: World) -> None:
        self.host, self.port = "one", 6379
        self._world = world
        self._coming: deque[Any] = deque()
        self.is_open = True
        world.made.append(self)

    def connect(self) -> None:
        self.is_open = True

    def disconnect(self) -> None:
        self.is_open = False

    def send_packed_command(self, commands: Any) -> None:
        if self._world.send_fault is not None:
            raise self._world.send_fault
        for command in commands:
            self._world.sent.append(command)
            self._coming.append(self._world.next_answer() or bytes(command).split(b"\r\n")[-2])

    def read_response(self) -> Any:
        answer = self._coming.popleft()
        if isinstance(answer, BaseException):
            raise answer
        return answer


class World:
    def __init__(self) -> None:
        self.made: list[Connection] = []
        self.sent: list[bytes] = []
        self.answers: deque[Any] = deque()
        self.send_fault: Exception | None = None
        self.connection_kwargs = {"world": self}
        self.connection_class = Connection
        self.connection_pool = self

    def next_answer(self) -> Any:
        return self.answers.popleft() if self.answers else None


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def link(world: World) -> RedisLink:
    client: Any = world
    link = RedisLink(client)
    link.known.add(SCRIPT.sha)
    return link


def later(link: RedisLink, said: str, heard: list[Any]) -> None:
    link.run_later(SCRIPT, ("k",), (said,), heard.append)


def test_the_next_command_of_the_thread_goes_over_the_same_connection_and_reads_both(
    link: RedisLink, world: World
) -> None:
    heard: list[Any] = []
    later(link, "first", heard)
    assert link.execute("ECHO", "second") == b"second"
    assert heard == [b"first"]
    assert len(world.made) == 1


def test_what_follows_from_an_answer_belongs_to_the_cause_of_its_command(link: RedisLink) -> None:
    causes: list[Any] = []
    first, second = Cause("s-1", "1/opened"), Cause("s-2", "2/opened")
    with caused_by(first):
        link.run_later(SCRIPT, ("k",), ("first",), lambda answer: causes.append(present_cause()))
    with caused_by(second):
        link.execute("ECHO", "second")
    assert causes == [first]


def test_a_second_one_reads_the_first(link: RedisLink, world: World) -> None:
    heard: list[Any] = []
    later(link, "first", heard)
    later(link, "second", heard)
    assert heard == [b"first"]
    link.close()
    assert heard == [b"first", b"second"]
    assert [one.is_open for one in world.made] == [False]


def test_a_script_that_the_server_may_not_have_is_waited_for(link: RedisLink) -> None:
    link.known.clear()
    heard: list[Any] = []
    later(link, "first", heard)
    assert heard == [b"first"]


@pytest.mark.parametrize(
    "answer", [NoScriptError("NOSCRIPT"), redis.ResponseError("OOM"), redis.ConnectionError("gone")]
)
def test_an_error_goes_to_whom_it_is_for(link: RedisLink, world: World, answer: Exception) -> None:
    heard: list[Any] = []
    world.answers.append(answer)
    later(link, "first", heard)
    if isinstance(answer, redis.ConnectionError):
        with pytest.raises(redis.ConnectionError):  # The connection is the same one.
            link.execute("ECHO", "second")
    else:
        assert link.execute("ECHO", "second") == b"second"
    assert heard == [answer]


def test_what_breaks_while_the_next_command_is_sent_is_told_to_both(link: RedisLink, world: World) -> None:
    heard: list[Any] = []
    later(link, "first", heard)
    world.send_fault = redis.ConnectionError("broken pipe")
    with pytest.raises(redis.ConnectionError):
        link.execute("ECHO", "second")
    assert heard == [world.send_fault]


def test_an_answer_that_is_there_is_not_lost_with_the_connection(link: RedisLink, world: World) -> None:
    heard: list[Any] = []
    later(link, "first", heard)
    world.answers.append(redis.ConnectionError("gone"))
    with pytest.raises(redis.ConnectionError):
        link.execute("ECHO", "second")
    assert heard == [b"first"]


def test_who_sends_nothing_more_has_his_answer_read_by_another_thread(link: RedisLink) -> None:
    readers: list[str] = []
    is_read = threading.Event()

    def then(_: Any) -> None:
        readers.append(threading.current_thread().name)
        is_read.set()

    writer = threading.Thread(target=lambda: link.run_later(SCRIPT, ("k",), ("first",), then))
    writer.start()
    writer.join()
    assert is_read.wait(10)
    assert readers == ["cache-answers"]


def test_a_signal_handler_in_the_middle_of_a_command_loses_nothing(link: RedisLink, world: World) -> None:
    heard: list[Any] = []
    answer = world.next_answer

    def interrupted() -> Any:
        world.next_answer = answer  # type: ignore[method-assign]
        later(link, "handler's", heard)

    world.next_answer = interrupted  # type: ignore[method-assign]
    later(link, "outer", heard)
    link.settle()
    assert sorted(heard) == [b"handler's", b"outer"]
    assert all(one.is_open for one in world.made)


def test_a_child_leaves_its_parents_answers_alone(link: RedisLink, world: World, monkeypatch: Any) -> None:
    heard: list[Any] = []
    later(link, "parent's", heard)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    link.settle()
    assert link.execute("ECHO", "child's") == b"child's"
    assert not heard
    assert len(world.made) == 2


def test_every_answer_is_read_once_whoever_wants_it() -> None:
    read: list[Unread] = []
    answers = Answers(read.append)
    unread = [Unread(None, deque(), print, copy_context(), 0.0) for _ in range(200)]

    def leave(part: list[Unread], end: Callable[[], object]) -> None:
        for one in part:
            answers.leave(one)
            taken = answers.take()
            if taken is not None:
                read.append(taken)
        end()

    done = threading.Barrier(4)
    threads = [threading.Thread(target=leave, args=(unread[n::4], lambda: done.wait(10))) for n in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        answers.settle()
    answers.settle()
    assert sorted(map(id, read)) == sorted(map(id, unread))
