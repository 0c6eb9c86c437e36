"""Every query of the board returns data from a real Prometheus that scrapes a running demo."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.monitoring.rig import find, queries, wait_until_data, watched_demo

from backtest_kit_mongo.embedded import Endpoints

pytestmark = pytest.mark.live


def test_every_query_of_the_board_returns_data_of_a_running_demo(
    servers: Endpoints, new_database: Callable[[], str], tmp_path: Path
) -> None:
    if find("prometheus") is None:
        assert not os.environ.get("CI"), "CI must have prometheus on PATH: apt-get install prometheus"
        pytest.skip("prometheus is not on PATH")
    with watched_demo(servers, f"{new_database()}_board", tmp_path) as run:
        missing = wait_until_data(run.prometheus, queries(), within_s=60)
        said = (tmp_path / "demo.log").read_text("utf-8")
        assert not missing, f"no data for {missing}; the demo ({run.demo.poll()}) said {said!r}"
