"""For how long each replica may have missed changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.worker.replica_support import Bed, bed_on, finish

from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_worker.dead_letters import DeadLetterWriter
from backtest_kit_worker.health import Limits, Monitor
from backtest_kit_worker.loop import Loop, LoopOptions
from backtest_kit_worker.metrics import WorkerCollector
from backtest_kit_worker.replicas.target import Target
from backtest_kit_worker.roles.replica import ReplicaRole

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def shared_bed(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Bed]:
    with bed_on(servers, f"{new_database()}_lag") as opened:
        yield opened


@pytest.fixture
def bed(shared_bed: Bed, tmp_path: Path) -> Bed:
    return shared_bed.cleaned(tmp_path / "replica")


def loop_of(bed: Bed, *targets: Target) -> Loop:
    role = ReplicaRole(bed.deployment, targets)
    options = LoopOptions(block_ms=1)
    return Loop(bed.deployment.redis, bed.deployment.streams, role, DeadLetterWriter(bed.mongo), "one", options)


def lags_s(bed: Bed, loop: Loop) -> dict[str, float]:
    """As a scraper sees them."""
    registry = CollectorRegistry()
    registry.register(WorkerCollector(Monitor(bed.deployment, [loop], limits=Limits(fresh_ms=0))))
    return {
        sample.labels["replica"]: sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if sample.name == "bkm_worker_replica_lag_seconds"
    }


def test_a_replica_that_has_everything_is_not_behind(bed: Bed) -> None:
    target = bed.to_directory()
    bed.state_data(1)
    finish(bed.service(target))
    loop = loop_of(bed, target)
    loop.run_until_idle()
    assert lags_s(bed, loop) == {"directory": 0}


def test_changes_that_are_not_applied_are_as_old_as_they_are(bed: Bed) -> None:
    target = bed.to_directory()
    finish(bed.service(target))
    loop = loop_of(bed, target)
    bed.state_data(1)
    assert 0 < lags_s(bed, loop)["directory"] < 60


def test_before_its_first_copy_has_begun_a_replica_has_missed_everything(bed: Bed) -> None:
    assert lags_s(bed, loop_of(bed, bed.to_nowhere())) == {"mongo": math.inf}


def test_until_the_copy_of_what_was_there_is_complete_its_age_counts(bed: Bed) -> None:
    bed.state_data(1)
    target = bed.to_directory()
    loop = loop_of(bed, target)
    loop.run_until_idle()
    service = bed.service(target)
    service.run_once()
    assert 0 < lags_s(bed, loop)["directory"] < 60
    finish(service)
    assert lags_s(bed, loop)["directory"] == 0
