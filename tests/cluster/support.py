"""A Redis Cluster of the tests' own: three masters and a replica of the first, slots to move, and nodes to kill."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.integration.support import eventually
from tests.worker.feed_support import _free_port

from backtest_kit_mongo.backends.redis.nodes import SLOTS, slot_of
from backtest_kit_mongo.embedded.binaries import find_redis_server

PARTITIONS: Final = 8
NODE_TIMEOUT_MS: Final = 500
"""After which the others agree that a node is dead."""


class Node:
    """One redis-server of a cluster, without persistence."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.port = _free_port()
        command = [
            *(str(find_redis_server()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)),
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--save", ""),
            # Nodes that are well go on serving their slots when another one fails.
            *("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.client: Any = redis.Redis(port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0))
        eventually(self._answers)
        self.id = self.ask("MYID").decode()

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def ask(self, *command: Any) -> Any:
        """A CLUSTER command, with the answer as it is sent."""
        return self.client.execute_command("CLUSTER", *command)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def is_well(self) -> bool:
        """It serves, and knows all the others."""
        info = self.client.cluster("info")
        return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == 4


class Cluster:
    """Three masters with a third of the slots each; `replica` follows the first."""

    def __init__(self, directory: Path) -> None:
        self.masters = [Node(directory / f"node{number}") for number in range(3)]
        self.replica = Node(directory / "replica")
        for number, node in enumerate(self.masters):
            node.ask("SET-CONFIG-EPOCH", number + 1)
            node.ask("ADDSLOTS", *range(SLOTS * number // 3, SLOTS * (number + 1) // 3))
        for node in (*self.masters[1:], self.replica):
            node.ask("MEET", "127.0.0.1", self.masters[0].port)
        eventually(lambda: all(node.is_well for node in (*self.masters, self.replica)))
        self.replica.ask("REPLICATE", self.masters[0].id)
        eventually(lambda: self.replica.client.info("replication")["master_link_status"] == "up")

    @property
    def seeds(self) -> str:
        return ",".join(f"127.0.0.1:{node.port}" for node in self.masters)

    def owner(self, key: str) -> Node:
        """The master that serves a key."""
        for node in self.masters:
            try:
                node.client.exists(key)
            except redis.exceptions.MovedError:
                continue
            return node
        raise AssertionError(f"no master serves {key}")

    def move(self, key: str, target: Node) -> None:
        """Move a key's slot with all its keys, as redis-cli does."""
        source, slot = self.owner(key), slot_of(key)
        target.ask("SETSLOT", slot, "IMPORTING", source.id)
        source.ask("SETSLOT", slot, "MIGRATING", target.id)
        while names := source.ask("GETKEYSINSLOT", slot, 100):
            source.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *names)
        for node in (target, source, *self.masters):
            node.ask("SETSLOT", slot, "NODE", target.id)

    def stop(self) -> None:
        for node in (*self.masters, self.replica):
            node.kill()
