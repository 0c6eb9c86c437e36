"""Metrics and health, as a scraper and a load balancer see them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.worker.feed_support import Recorder, always, at_age, event, publish

from backtest_kit_worker.backoff import Backoff
from backtest_kit_worker.dead_letters import DeadLetterWriter
from backtest_kit_worker.deployment import Deployment, connect
from backtest_kit_worker.health import GroupHealth, Limits, Monitor
from backtest_kit_worker.leadership import Leadership
from backtest_kit_worker.loop import Loop, LoopOptions
from backtest_kit_worker.metrics import GROUPS_MAX, OTHERS, MetricsServer, bounded
from backtest_kit_worker.runner import ServiceRunner
from backtest_kit_worker.services import Service

Samples = dict[tuple[str, ...], float]
"""Label values, in the order of the labels' names."""


class Repairs(Service):
    """A service that counts as recovery does."""

    name = "recovery"
    interval_ms = 10
    counts = {"republished": 3, "gap": 1, "foreign": 2}  # noqa: RUF012 - a test's constant
    oldest_s = 1.5

    def open(self) -> None:
        return

    def run_once(self) -> int:
        return 0

    def close(self) -> None:
        return


class Scraped:
    """One worker's parts and its two addresses."""

    def __init__(self, deployment: Deployment, limits: Limits) -> None:
        self.role = Recorder()
        options = LoopOptions(block_ms=1)
        dead_letters = DeadLetterWriter(deployment.database)
        self.loop = Loop(deployment.redis, deployment.streams, self.role, dead_letters, "one", options)
        self.leadership = Leadership(deployment.database, "one", ["recovery"])
        self.service = ServiceRunner(Repairs(), self.leadership, Backoff(1, 1))
        self.server = MetricsServer(Monitor(deployment, [self.loop], [self.service], limits), "127.0.0.1", 0)

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.server.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def samples(self, name: str) -> Samples:
        families = text_string_to_metric_families(self.get("/metrics")[1])
        return {
            tuple(sample.labels.values()): sample.value
            for family in families
            for sample in family.samples
            if sample.name == f"bkm_worker_{name}"
        }


@pytest.fixture
def limits() -> Limits:
    return Limits(fresh_ms=0)


@pytest.fixture
def scraped(deployment: Deployment, limits: Limits) -> Iterator[Scraped]:
    made = Scraped(deployment, limits)
    yield made
    made.server.close()


@pytest.mark.live
class TestMetrics:
    def test_events_are_counted_by_role_and_outcome(self, scraped: Scraped, client: Any, stream: str) -> None:
        publish(client, stream, event(0), event(0), event(1))
        client.xadd(stream, {"e": b"\xff"})
        scraped.loop.run_until_idle()
        assert scraped.samples("events_total") == {
            ("applied", "recorder"): 2,
            ("duplicate", "recorder"): 1,
            ("parked", "recorder"): 1,
            ("failed", "recorder"): 0,
            ("trimmed", "recorder"): 0,
        }
        assert scraped.samples("parked") == {("recorder",): 1}
        assert scraped.samples("stream_entries") == {(): 4}

    def test_lag_is_reported_in_entries_and_seconds(self, scraped: Scraped, client: Any, stream: str) -> None:
        publish(client, stream, event(0), at=at_age(client, 30_000))
        publish(client, stream, event(1))
        client.xgroup_create(stream, "recorder", id="0")
        client.xreadgroup("recorder", "dead", {stream: ">"}, count=1)
        assert scraped.samples("lag_entries") == {("recorder",): 2}
        assert scraped.samples("pending_entries") == {("recorder",): 1}
        assert 30 <= scraped.samples("lag_seconds")["recorder",] < 60
        assert 30 <= scraped.samples("pending_age_seconds")["recorder",] < 60

    def test_services_tell_leadership_and_what_recovery_found(self, scraped: Scraped) -> None:
        assert scraped.samples("leadership") == {("recovery",): 0}
        scraped.leadership.attempt("recovery")
        assert scraped.samples("leadership") == {("recovery",): 1}
        assert scraped.samples("recovered_total") == {(): 3}
        assert scraped.samples("gaps_total") == {(): 1}
        assert scraped.samples("service_behind_seconds") == {("recovery",): 1.5}

    def test_a_group_that_nobody_serves_is_reported(self, scraped: Scraped, client: Any, stream: str) -> None:
        publish(client, stream, event(0), at=at_age(client, 3_600_000))
        client.xgroup_create(stream, "gone", id="0")
        assert scraped.samples("group_abandoned")["gone",] == 1

    def test_other_paths_are_not_found(self, scraped: Scraped) -> None:
        assert scraped.get("/else")[0] == 404


@pytest.mark.live
class TestHealth:
    def test_a_worker_that_keeps_up_is_healthy(self, scraped: Scraped, client: Any, stream: str) -> None:
        publish(client, stream, event(0))
        scraped.loop.run_until_idle()
        status, body = scraped.get("/healthz")
        report = json.loads(body)
        assert (status, report["healthy"], report["why"]) == (200, True, [])
        assert report["roles"]["recorder"]["applied"] == 1

    def test_a_role_that_is_too_far_behind_is_unhealthy_and_the_body_says_how_far(
        self, scraped: Scraped, client: Any, stream: str
    ) -> None:
        scraped.role.plan = always(ConnectionError("target gone"))
        publish(client, stream, event(0), at=at_age(client, 90_000))
        with pytest.raises(ConnectionError):
            scraped.loop.run_once(0)
        status, body = scraped.get("/healthz")
        assert status == 503
        assert "recorder is 9" in json.loads(body)["why"][0]

    @pytest.mark.parametrize("limits", [Limits(fresh_ms=0, stuck_ms=-1)])
    def test_a_thread_without_a_sign_of_life_is_unhealthy(self, scraped: Scraped) -> None:
        status, body = scraped.get("/healthz")
        assert status == 503
        assert [why.split()[0] for why in json.loads(body)["why"]] == ["recorder", "recovery"]

    def test_a_server_that_does_not_answer_is_named_without_secrets(self, deployment: Deployment) -> None:
        settings = deployment.settings.model_copy(update={"redis_port": 1})
        lost = connect(settings)
        try:
            (why,) = Monitor(lost).why_unhealthy()
        finally:
            lost.close()
        assert why.startswith("Redis at 127.0.0.1:1: ")

    def test_servers_are_asked_at_most_so_often_however_many_ask_for_health(
        self, deployment: Deployment, client: Any, stream: str
    ) -> None:
        now = [0.0]
        monitor = Monitor(deployment, limits=Limits(fresh_ms=1_000), clock=lambda: now[0])
        assert monitor.snapshot().entry_count == 0
        publish(client, stream, event(0))
        assert monitor.snapshot().entry_count == 0
        now[0] = 1.1
        assert monitor.snapshot().entry_count == 1


def test_anybody_can_make_groups_but_not_any_number_of_time_series() -> None:
    groups = {f"g{n:03}": GroupHealth(n, 0, n, 0, False) for n in range(100)}
    shown = bounded(groups)
    assert len(shown) == GROUPS_MAX + 1
    assert shown[OTHERS].lag_ms == 99
