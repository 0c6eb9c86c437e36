"""A domain is a row, a payload and a signature: one that the package does not have passes the suite on every
backend.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from backtest_kit_mongo.embedded import Endpoints

HERE = Path(__file__).parent


@pytest.mark.live
def test_a_domain_added_at_run_time_passes_the_suite_on_memory_files_and_servers(
    servers: Endpoints, new_database: Callable[[], str], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "mongo_connection_string": servers.mongo_connection_string(new_database()),
        "redis_host": servers.redis_host,
        "redis_port": servers.redis_port,
    }
    monkeypatch.setenv("EIGHTEENTH_SERVERS", json.dumps(given))
    options = ("-q", "-n0", "-p", "no:cacheprovider", "-k", "verdict", "--durations=5")
    result = pytester.runpytest_subprocess(*options, str(HERE / "eighteenth_suite.py"))
    assert result.ret == 0
    assert result.parseoutcomes()["passed"] > 100
