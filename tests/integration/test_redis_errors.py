"""What Redis refuses is not done, what it missed is reported: without being asked, and at the latest when a process
ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.integration.support import eventually
from tests.integration.test_redis_faults import KEY, Endpoints, events, hits, open_cache, put, unreachable, value_of

import backtest_kit_mongo as bk
from backtest_kit_mongo.backends.redis.cache import RedisCache
from backtest_kit_mongo.coherence.keys import names
from backtest_kit_mongo.drivers.store import Store

pytestmark = pytest.mark.live


class TestAnErrorIsNoSilence:
    """A server that answers one client with an error may serve the others: nothing may be written past it."""

    def test_a_full_redis_caches_nothing_new_and_is_not_bypassed(
        self, store: Store, client: Any, database: str
    ) -> None:
        put(store, 1)
        open_cache(store)
        assert isinstance(store.cache, RedisCache)
        client.config_set("maxmemory", 1)
        try:
            client.delete(store.cache._token)
            before = hits(store)
            assert (value_of(store), hits(store)) == (1, before + 1)
            client.delete(names(database, 1, "state", KEY.parts).entry)
            assert [value_of(store), value_of(store)] == [1, 1]
            assert (store.cache.counts.fills_refused, store.cache._is_down) == (2, False)
        finally:
            client.config_set("maxmemory", 0)

    def test_a_write_without_a_lease_is_refused_and_reads_go_on(
        self, store: Store, own: Endpoints, client: Any, database: str
    ) -> None:
        put(store, 1)
        open_cache(store)
        leases = names(database, 1, "state", KEY.parts).leases
        client.set(leases, "not what LEASE expects")
        with pytest.raises(bk.WriteRefused, match="nothing was written"):
            put(store, 2)
        assert value_of(store) == 1
        client.delete(leases)
        assert put(store, 3).rev == 2


WRITER = """
import multiprocessing, sys
import backtest_kit_mongo as bk
from backtest_kit_mongo import stores
from backtest_kit_mongo.domains.checks import make_change, make_key
from backtest_kit_mongo.domains.table import STATE

KEY = make_key(STATE, ("signal", "bucket"))

def write():
    bk.setup()
    stores.live_store().write(make_change(KEY, {"data": 1}, 1))
    print("ready", flush=True)
    sys.stdin = open(0)
    sys.stdin.readline()
    stores.live_store().write(make_change(KEY, {"data": 2}, 2))

if __name__ == "__main__":
    if sys.argv[1] == "script":
        write()
    else:
        child = multiprocessing.get_context("fork").Process(target=write)
        child.start()
        child.join()
"""


class TestWhatRedisMissed:
    def test_a_process_that_does_nothing_more_tells_it(self, store: Store, client: Any, database: str) -> None:
        put(store, 1)
        assert isinstance(store.cache, RedisCache)
        link: Any = store.cache._link
        real = link.execute_many
        link.execute_many = unreachable
        put(store, 2)
        link.execute_many = real
        eventually(lambda: events(client, database)[-1:] == [("upsert", 2)])

    @pytest.mark.parametrize("way", ["script", "child"])
    def test_a_process_that_ends_while_redis_stalls_tells_it(
        self, own: Endpoints, client: Any, store: Store, database: str, tmp_path: Path, way: str
    ) -> None:
        put(store, 0)
        script = tmp_path / "writer.py"
        script.write_text(WRITER)
        environment = {
            **os.environ, "CC_MONGO_CONNECTION_STRING": own.mongo_connection_string(database),
            "CC_REDIS_TIMEOUT_MS": "200",
            "CC_REDIS_HOST": own.redis_host, "CC_REDIS_PORT": str(own.redis_port), "CC_EMBEDDED": "0",
        }  # fmt: skip
        command = [sys.executable, str(script), way]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as writer:
            assert writer.stdin
            assert writer.stdout
            assert writer.stdout.readline() == b"ready\n"
            server = client.info("server")["process_id"]
            os.kill(server, signal.SIGSTOP)
            going_on = threading.Timer(1.3, os.kill, (server, signal.SIGCONT))
            going_on.start()
            writer.stdin.write(b"\n")
            writer.stdin.close()
            assert writer.wait(30) == 0
            going_on.join()
        assert events(client, database)[-1] == ("upsert", 3)
        assert value_of(store) == 2
