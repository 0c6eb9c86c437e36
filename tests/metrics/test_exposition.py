"""What a scraper gets: names, labels, zeros, and one port a process."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.integration.support import eventually, store_for

import backtest_kit_mongo as bk
from backtest_kit_mongo import metrics, stores
from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.backends.redis.cache import RedisCache
from backtest_kit_mongo.coherence.effects import CacheRead, Fill, Lease, Right
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import DOMAINS, STATE
from backtest_kit_mongo.drivers.counts import HIT, READS, WRITES
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.errors import UnsafeServer
from backtest_kit_mongo.metrics.collector import StoreCollector
from backtest_kit_mongo.metrics.pages import Page, PageServer
from backtest_kit_mongo.ports import NoCache
from backtest_kit_mongo.testing.examples import example

KEY = Key(STATE, ("signal", "bucket"))
Samples = dict[tuple[str, ...], float]


def text_of(store: Store | None) -> str:
    registry = CollectorRegistry()
    registry.register(StoreCollector(lambda: store))
    return generate_latest(registry).decode()


def samples(text: str, name: str) -> Samples:
    return {
        tuple(sample.labels[label] for label in sorted(sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"bkm_store_{name}"
    }


def value(store: Store, name: str) -> float:
    return samples(text_of(store), name)[()]


@pytest.fixture
def store() -> Store:
    return Store("memory", MemoryTruth(), NoCache())


@pytest.fixture
def live(store: Store) -> Iterator[Store]:
    """`store` as the one that `setup()` made."""
    stores.configure_live(lambda: store)
    yield stores.live_store()
    stores.configure_live(None)


@pytest.fixture
def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class TestFamilies:
    def test_all_domains_and_outcomes_are_there_from_the_beginning(self, store: Store) -> None:
        text = text_of(store)
        assert samples(text, "reads_total").keys() == {(d.name, o) for d in DOMAINS for o in READS}
        assert samples(text, "writes_total").keys() == {(d.name, o) for d in DOMAINS for o in WRITES}
        assert set(samples(text, "reads_total").values()) == {0}

    def test_a_read_and_a_write_show_in_their_domain_alone(self, store: Store) -> None:
        store.write(make_change(KEY, example(STATE), 1))
        store.read(KEY)
        text = text_of(store)
        assert {k: v for k, v in samples(text, "reads_total").items() if v} == {("state", "miss"): 1}
        assert {k: v for k, v in samples(text, "writes_total").items() if v} == {("state", "bypass"): 1}

    def test_durations_are_a_histogram_of_used_domains(self, store: Store) -> None:
        tally = store.counts.reads[STATE]
        for seconds in (0.00005, 0.0002, 0.002, 100.0):
            tally.add(HIT, seconds)
        text = text_of(store)
        buckets = {le: count for (_, le), count in samples(text, "read_seconds_bucket").items()}
        assert (buckets["0.0001"], buckets["0.0003"], buckets["0.003"], buckets["10.0"], buckets["+Inf"]) == (
            1,
            2,
            3,
            3,
            4,
        )
        assert samples(text, "read_seconds_count") == {("state",): 4}
        assert samples(text, "read_seconds_sum")[("state",)] == pytest.approx(100.00225)
        assert samples(text, "write_seconds_count") == {}

    def test_before_a_store_is_used_there_are_no_metrics(self) -> None:
        assert text_of(None).strip() == ""


class TestRegister:
    def test_one_line_adds_the_metrics_of_the_store_that_setup_made(self, live: Store) -> None:
        registry = CollectorRegistry()
        bk.metrics.register(registry)
        live.read(KEY)
        assert samples(generate_latest(registry).decode(), "reads_total")["state", "miss"] == 1

    def test_a_second_call_changes_nothing(self, live: Store) -> None:
        registry = CollectorRegistry()
        assert bk.metrics.register(registry) is bk.metrics.register(registry)
        assert generate_latest(registry).decode().count("# HELP bkm_store_reads_total") == 1

    def test_the_default_is_the_client_librarys_own_registry(self, live: Store) -> None:
        from prometheus_client import REGISTRY

        collector = bk.metrics.register()
        try:
            assert b"bkm_store_reads_total" in generate_latest(REGISTRY)
        finally:
            REGISTRY.unregister(collector)


class TestServing:
    @pytest.fixture(autouse=True)
    def closed(self) -> Iterator[None]:
        yield
        metrics.close()

    def get(self, port: int | None, path: str = "/metrics") -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            body: bytes = answer.read()
            return body.decode()

    def test_metrics_and_those_of_the_process_are_served(self, live: Store) -> None:
        text = self.get(metrics.serve("127.0.0.1", 0))
        assert "bkm_store_reads_total" in text
        assert "process_resident_memory_bytes" in text

    def test_other_paths_are_not_found(self) -> None:
        port = metrics.serve("127.0.0.1", 0)
        with pytest.raises(urllib.error.HTTPError) as caught:
            self.get(port, "/else")
        with caught.value as answer:
            assert answer.code == 404

    def test_a_page_that_cannot_be_served_is_logged_and_prints_no_traceback(
        self, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def broken() -> Page:
            raise ValueError("no page")

        with (
            closing(PageServer("127.0.0.1", 0, {"/": broken})) as server,
            socket.create_connection(("127.0.0.1", server.port)) as asking,
        ):
            asking.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert asking.recv(1) == b""
        assert "a page could not be served: ValueError: no page" in caplog.text
        assert capfd.readouterr().err == ""

    def test_a_process_serves_once(self, free_port: int) -> None:
        assert metrics.serve("127.0.0.1", free_port) == metrics.serve("127.0.0.1", free_port + 1) == free_port

    def test_a_taken_port_is_passed_over_within_the_count(self, free_port: int) -> None:
        with closing(PageServer("127.0.0.1", free_port, {"/": lambda: Page(200, "text/plain", b"")})):
            assert metrics.serve("127.0.0.1", free_port, 8) in range(free_port + 1, free_port + 8)

    def test_without_a_free_port_the_strategy_goes_on_and_the_log_says_so(
        self, free_port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        with closing(PageServer("127.0.0.1", free_port, {})):
            assert metrics.serve("127.0.0.1", free_port) is None
        assert f"metrics are not served: 127.0.0.1:{free_port}" in caplog.text

    def test_each_process_tells_of_itself_alone_on_a_port_of_its_own(self, free_port: int) -> None:
        script = Path(__file__).with_name("several_processes.py")
        done = subprocess.run(
            [sys.executable, str(script), str(free_port)], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.stdout.splitlines() == ["child 5.0", "parent 3.0"], done.stderr


@pytest.fixture(scope="module")
def shared(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Store]:
    with store_for(servers, f"{new_database()}_metrics") as opened:

        def is_open() -> bool:
            opened.read(KEY)
            return opened.counts.read_count(HIT) > 0

        opened.write(make_change(KEY, example(STATE), 1))
        eventually(is_open)
        yield opened


@pytest.mark.live
class TestOnRealServers:
    def cache(self, store: Store) -> RedisCache:
        assert isinstance(store.cache, RedisCache)
        return store.cache

    def test_a_setup_that_fails_leaves_nothing_serving(
        self, servers: Endpoints, free_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: Store) -> None:
            assert metrics.port() == free_port
            raise UnsafeServer("it may evict leases")

        monkeypatch.setattr(Store, "open", refuse)
        with pytest.raises(UnsafeServer):
            bk.setup(
                mongo_connection_string=servers.mongo_url,
                redis_host=servers.redis_host,
                redis_port=servers.redis_port,
                metrics_port=free_port,
            )
        assert metrics.port() is None

    def test_setup_serves_on_loopback_where_the_settings_say(
        self, servers: Endpoints, new_database: Callable[[], str], free_port: int
    ) -> None:
        try:
            bk.setup(
                mongo_connection_string=servers.mongo_connection_string(f"{new_database()}_metrics"),
                redis_host=servers.redis_host,
                redis_port=servers.redis_port,
                metrics_port=free_port,
            )
            bk.PersistStateAdapter.read_state_data("signal", "bucket", when=1)
            with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            assert samples(text, "reads_total")["state", "miss"] == 1
            assert samples(text, "bypassing") == {(): 0}
        finally:
            bk.shutdown()
        assert metrics.port() is None

    def test_a_warm_read_is_a_hit(self, shared: Store) -> None:
        before = samples(text_of(shared), "reads_total")["state", "hit"]
        shared.read(KEY)
        assert samples(text_of(shared), "reads_total")["state", "hit"] == before + 1

    def test_a_write_beside_another_ones_lease_is_a_conflict(self, shared: Store) -> None:
        before = value(shared, "lease_conflicts_total")
        self.cache(shared).lease(Lease(KEY))
        shared.write(make_change(KEY, example(STATE), 2))
        shared.read(KEY)  # Until then the answer to COMMIT may be unread.
        assert value(shared, "lease_conflicts_total") == before + 1

    def test_a_reader_that_was_overtaken_by_a_write_is_a_refused_fill(self, shared: Store) -> None:
        before = value(shared, "fills_refused_total")
        absent = Key(STATE, ("signal", "overtaken"))
        right = self.cache(shared).read(CacheRead(absent))
        assert isinstance(right, Right)
        shared.write(make_change(absent, example(STATE), 1))
        self.cache(shared).fill(Fill(right.token, Record(absent)))
        assert value(shared, "fills_refused_total") == before + 1

    def test_time_without_redis_is_reported_while_it_lasts_and_after(self, shared: Store) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.cache(shared)._link, "execute_many", _unreachable)
            shared.write(make_change(KEY, example(STATE), 3))
            assert value(shared, "bypassing") == 1
            assert samples(text_of(shared), "writes_total")["state", "bypass"] == 1

        def is_back() -> bool:
            shared.read(KEY)
            return value(shared, "bypassing") == 0

        eventually(is_back)
        assert value(shared, "bypass_seconds_total") > 0


def _unreachable(_: object) -> list[object]:
    raise ConnectionError("cut off on purpose")
