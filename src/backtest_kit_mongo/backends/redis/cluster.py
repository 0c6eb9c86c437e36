"""A Redis Cluster as what it stands for elsewhere: a `Link` for the protocol's scripts, and a client for plain
commands.

The client library has a cluster client of its own. It connects when it is made, repeats on its own account what a
broken connection may have executed, and fails with errors that are no `RedisError`; so its clients of single nodes are
used here.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import redis
from redis.exceptions import NoScriptError

from backtest_kit_mongo.backends.redis.link import UNREACHABLE, Argument, Link, RedisLink, Script
from backtest_kit_mongo.backends.redis.nodes import REDIRECTED, Address, ClusterNodes, key_of, slot_of
from backtest_kit_mongo.backends.redis.unread import Then

SHUT_S: Final = 0.2
"""How long nothing is sent to a node that was silent for the whole time bound: each of its partitions would wait
anew.
"""


class ClusterLink:
    """One `RedisLink` a node. A connection that breaks costs the connections of that node only."""

    def __init__(self, nodes: ClusterNodes) -> None:
        self._nodes = nodes
        self._links: dict[Address, RedisLink] = {}
        self._shut_until_s: dict[Address, float] = {}

    def form(self, script: Script) -> Script:
        return script.in_cluster

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        sent = script.in_cluster
        try:
            return self.execute("EVALSHA", sent.sha, len(keys), *keys, *args)
        except NoScriptError:
            return self.execute("EVAL", sent.source, len(keys), *keys, *args)

    def run_later(self, script: Script, keys: Sequence[str], args: Sequence[Argument], then: Then) -> None:
        sent, link = script.in_cluster, self.at(keys[0])
        if sent.sha in link.known:
            link.run_later(sent, keys, args, then)
        else:
            then(self.run(script, keys, args))
            link.known.add(sent.sha)

    def settle(self) -> None:
        for link in list(self._links.values()):
            link.settle()

    def execute(self, *command: Argument) -> Any:
        def send(address: Address, asking: bool) -> Any:
            packet = (("ASKING",), command) if asking else (command,)
            answer = self._exchange(address, packet)[-1]
            if isinstance(answer, Exception):
                raise answer
            return answer

        may_ask = command[0] not in ("EVAL", "EVALSHA")
        return self._nodes.follow(slot_of(key_of(command)), send, may_ask=may_ask)

    def execute_many(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """One packet for each node; what a node points elsewhere with is followed one by one. The first error is raised
        after all answers were read. A connection that breaks ends it at once: any part may have been executed.
        """
        answers: list[Any] = [None] * len(commands)
        for address, places in by_owner(self._nodes, commands).items():
            try:
                found = self._exchange(address, [commands[place] for place in places])
            except UNREACHABLE:
                self._nodes.suspect(address)
                raise
            for place, answer in zip(places, found, strict=True):
                answers[place] = self._again(commands[place]) if isinstance(answer, REDIRECTED) else answer
                if isinstance(answer, UNREACHABLE):
                    self._nodes.suspect(address)  # It answered that it is no primary.
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _again(self, command: Sequence[Argument]) -> Any:
        try:
            return self.execute(*command)
        except redis.ResponseError as cause:
            return cause

    def _exchange(self, address: Address, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        if self._shut_until_s and time.monotonic() < self._shut_until_s.get(address, 0.0):
            raise redis.ConnectionError(f"{address[0]}:{address[1]} did not answer a moment ago")
        link = self._link(address)
        try:
            return link.execute_many(commands, judges=False)
        except UNREACHABLE as cause:
            link.drop_idle()
            if isinstance(cause, redis.TimeoutError):
                self._shut_until_s[address] = time.monotonic() + SHUT_S
            raise

    def _link(self, address: Address) -> RedisLink:
        found = self._links.get(address)
        return found if found is not None else self._links.setdefault(address, RedisLink(self._nodes.client(address)))

    def at(self, key: str) -> RedisLink:
        return self._link(self._nodes.owner(slot_of(key)))

    def everywhere(self) -> Sequence[RedisLink]:
        return [self._link(address) for address in self._nodes.primaries()]

    def drop_idle(self) -> None:
        return  # Done where it failed, for the node that failed.

    def close(self) -> None:
        for link in list(self._links.values()):
            link.close()
        self._nodes.close()


class ClusterClient(redis.Redis):
    """The client library's commands, each sent to the node of its key. Several keys must be of one slot; see
    `scan_iter` for what concerns all nodes, and `nodes` for what concerns one. Thread-safe.

    Attributes:
        nodes: the cluster's nodes.
    """

    def __init__(self, nodes: ClusterNodes, seed: Address) -> None:
        super().__init__(connection_pool=nodes.client(seed).connection_pool)
        self.nodes = nodes

    def execute_command(self, *args: Any, **options: Any) -> Any:
        def send(address: Address, asking: bool) -> Any:
            node: Any = self.nodes.client(address)
            if not asking:
                return node.execute_command(*args, **options)
            packet = node.pipeline(transaction=False)
            packet.execute_command("ASKING")
            packet.execute_command(*args, **options)
            return packet.execute()[1]

        return self.nodes.follow(slot_of(key_of(args)), send, may_ask=True)

    def scan(self, *_: Any, **__: Any) -> Any:
        raise redis.DataError("a cursor belongs to one node: use scan_iter(), which goes through all of them")

    def scan_iter(self, *args: Any, **options: Any) -> Iterator[Any]:
        """Over the keys of all nodes; one whose slot moves meanwhile may come twice."""
        for address in self.nodes.primaries():
            node: Any = self.nodes.client(address)
            yield from node.scan_iter(*args, **options)

    def pubsub(self, **options: Any) -> Any:
        """A subscription through any node: what is published reaches all of them."""
        addresses = self.nodes.primaries()
        for address in random.sample(addresses, len(addresses)):
            node: Any = self.nodes.client(address)
            try:
                node.ping()
            except UNREACHABLE:
                self.nodes.suspect(address)
                continue
            return node.pubsub(**options)
        raise redis.ConnectionError("no node of the cluster answers")

    def pipeline(self, transaction: Any = False, shard_hint: Any = None) -> Any:
        """A packet for each node concerned; never a transaction."""
        if transaction:
            raise redis.DataError("no transaction spans the nodes of a cluster: use pipeline(transaction=False)")
        return _Packet(self)

    def close(self) -> None:
        if (nodes := getattr(self, "nodes", None)) is not None:
            nodes.close()


class _Packet(redis.Redis):
    """Collects commands, sends them node by node, and gives their answers in the order of the commands."""

    def __init__(self, client: ClusterClient) -> None:
        super().__init__(connection_pool=client.connection_pool)
        self._client = client
        self._commands: list[tuple[Sequence[Any], dict[str, Any]]] = []

    def execute_command(self, *args: Any, **options: Any) -> Any:
        self._commands.append((args, options))
        return self

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands, self._commands = self._commands, []
        nodes, answers = self._client.nodes, [None] * len(commands)
        for address, places in by_owner(nodes, [args for args, _ in commands]).items():
            packet: Any = nodes.client(address).pipeline(transaction=False)
            for place in places:
                packet.execute_command(*commands[place][0], **commands[place][1])
            try:
                found = packet.execute(raise_on_error=False)
            except UNREACHABLE:
                nodes.suspect(address)
                raise
            for place, answer in zip(places, found, strict=True):
                answers[place] = self._again(*commands[place]) if isinstance(answer, REDIRECTED) else answer
        for answer in answers if raise_on_error else ():
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _again(self, args: Sequence[Any], options: dict[str, Any]) -> Any:
        try:
            return self._client.execute_command(*args, **options)
        except redis.ResponseError as cause:
            return cause

    def close(self) -> None:
        return  # The connections are its client's.


def by_owner(nodes: ClusterNodes, commands: Sequence[Sequence[Any]]) -> dict[Address, list[int]]:
    """The places of commands, by the node that each is sent to."""
    found: dict[Address, list[int]] = {}
    for place, command in enumerate(commands):
        found.setdefault(nodes.owner(slot_of(key_of(command))), []).append(place)
    return found


def link_over(client: redis.Redis) -> Link:
    """A link to the same server or cluster as a client of `setup.redis_client`."""
    return ClusterLink(client.nodes) if isinstance(client, ClusterClient) else RedisLink(client)


def servers_of(client: redis.Redis) -> list[redis.Redis]:
    """A client of each server that a client of `setup.redis_client` stands for."""
    if not isinstance(client, ClusterClient):
        return [client]
    return [client.nodes.client(address) for address in client.nodes.primaries()]
