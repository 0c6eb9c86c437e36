"""The nodes of a Redis Cluster: which of them serves which slot, and how an answer that points elsewhere is followed.

A node that does not serve a slot refuses before anything is executed (MOVED, ASK, TRYAGAIN), so sending again is no
second attempt. A connection that breaks is: that is never repeated here.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias, TypeVar

import redis
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, TryAgainError

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.redis.link import UNREACHABLE, Argument

logger = locks.logger(__name__)

Address: TypeAlias = tuple[str, int]
Answer = TypeVar("Answer")
SLOTS: Final = 16_384
REDIRECTED: Final = (AskError, TryAgainError)
"""Answers that say: not executed here, not now. (MOVED is a kind of ASK to the client library.)"""
PAUSE_S: Final = 0.01
"""Between looks at a slot that is on its way."""


@lru_cache(maxsize=65_536)
def slot_of(key: str | bytes) -> int:
    """The hash slot of a key."""
    return key_slot(key.encode() if isinstance(key, str) else key)


def key_of(command: Sequence[Argument]) -> str | bytes:
    """The key by which a command is sent to a node. Where this guesses wrong, the node says so and the right one is
    asked.
    """
    if command[0] in ("EVAL", "EVALSHA"):
        found = command[3] if len(command) > 3 else ""
    elif command[0] in ("XREADGROUP", "XREAD"):
        found = command[[part in (b"STREAMS", "STREAMS") for part in command].index(True) + 1]
    else:
        found = command[1] if len(command) > 1 else ""
    return str(found) if isinstance(found, int) else found


class ClusterNodes:
    """The map of slots, learned from any node that answers, on first use and after failures. Thread-safe without locks:
    two threads may learn the same at once.

    Args:
        seeds: nodes to ask first; the others are learned.
        connect: makes a client of one node, which connects on first use and never retries.
        patience_s: how long a slot that is being moved is waited for.
    """

    def __init__(self, seeds: Sequence[Address], connect: Callable[[str, int], redis.Redis], patience_s: float) -> None:
        self._seeds = tuple(seeds)
        self._connect = connect
        self._patience_s = patience_s
        self._clients: dict[Address, redis.Redis] = {}
        self._owners: list[Address | None] = [None] * SLOTS
        self._known = False
        self._suspect: Address | None = None

    def __repr__(self) -> str:
        return f"<cluster of {', '.join(f'{host}:{port}' for host, port in self._seeds)}>"

    def client(self, address: Address) -> redis.Redis:
        """The client of one node."""
        found = self._clients.get(address)
        return found if found is not None else self._clients.setdefault(address, self._connect(*address))

    def owner(self, slot: int) -> Address:
        """The node that serves a slot, as far as is known here.

        Raises:
            redis.ConnectionError: no node answers, or none serves the slot.
        """
        if not self._known:
            self._learn()
        address = self._owners[slot]
        if address is None:
            self._known = False
            raise redis.ConnectionError(f"no node of the cluster serves slot {slot}")
        return address

    def primaries(self) -> list[Address]:
        """All nodes that serve slots.

        Raises:
            redis.ConnectionError: no node answers.
        """
        if not self._known:
            self._learn()
        return sorted({address for address in self._owners if address is not None})

    def suspect(self, address: Address) -> None:
        """A node could not be used: another one may have taken its place."""
        self._suspect = address
        self._known = False

    def follow(self, slot: int, send: Callable[[Address, bool], Answer], *, may_ask: bool) -> Answer:
        """Send to the node that serves a slot, and on to where it points.

        Args:
            send: to this node; true: with ASKING before it.
            may_ask: whether a node that is only receiving the slot may execute it. Not if it has several keys (some are
                still at the other node), and no script of the protocol: the node's incarnation does not count yet.

        Raises:
            redis.TryAgainError, redis.AskError: the slot is on its way for longer than is waited. Nothing was executed.
            redis.ConnectionError, redis.TimeoutError, OSError: it may or may not have been executed.
        """
        end_s, address, asking = 0.0, self.owner(slot), False
        while True:
            try:
                return send(address, asking)
            except UNREACHABLE:
                self.suspect(address)
                raise
            except REDIRECTED as cause:
                now_s = time.monotonic()
                if end_s == 0.0:
                    end_s = now_s + self._patience_s
                elif now_s > end_s:
                    raise
                else:
                    time.sleep(PAUSE_S)
                address, asking = self._led(slot, address, cause, may_ask=may_ask)

    def _led(self, slot: int, asked: Address, cause: Exception, *, may_ask: bool) -> tuple[Address, bool]:
        """Where to send next, and whether with ASKING."""
        if isinstance(cause, AskError):
            there = (cause.host or asked[0], int(cause.port))
            if isinstance(cause, MovedError):
                # More than this slot may have moved; what is known of the others is corrected one by one.
                self._owners[slot] = there
                return there, False
            if may_ask:
                return there, True
        time.sleep(PAUSE_S)
        return self.owner(slot), False

    def _learn(self) -> None:
        candidates = [*{address for address in self._owners if address is not None}, *self._seeds]
        random.shuffle(candidates)
        candidates.sort(key=lambda address: address == self._suspect)  # It would say what it said before, if anything.
        failure: Exception | None = None
        for address in dict.fromkeys(candidates):
            try:
                untyped: Any = self.client(address)
                answer = untyped.execute_command("CLUSTER", "SLOTS")
            except redis.AuthenticationError:
                raise
            except (redis.RedisError, OSError) as cause:
                failure = cause
                continue
            self._owners = _owners(answer, address)
            self._known, self._suspect = True, None
            return
        raise redis.ConnectionError(f"no node of the cluster answers; the last one asked said: {failure}") from failure

    def close(self) -> None:
        """Close idle connections."""
        for client in list(self._clients.values()):
            client.close()


def _owners(answer: Sequence[Any], asked: Address) -> list[Address | None]:
    owners: list[Address | None] = [None] * SLOTS
    for first, last, primary, *_ in answer:
        host = primary[0] or b""  # Unknown to a node that nobody has met yet: it is the one that was asked.
        there = (host.decode() if isinstance(host, bytes) else str(host)) or asked[0], int(primary[1])
        owners[first : last + 1] = [there] * (last - first + 1)
    return owners
