"""`bkm sweeps`, as short as it tells anything: killed workers, and three hosts at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from backtest_kit_mongo.testing.servers import Servers
from backtest_kit_verify.runs.campaign import Way, made, run_campaign, run_hosts

pytestmark = pytest.mark.live


def test_killed_workers_and_three_hosts_lose_nothing_and_do_nothing_twice(servers: Servers, tmp_path: Path) -> None:
    said: list[str] = []
    killed = Way("2 processes, killed", "mongo", workers=2, kill=0.3)
    assert run_campaign(made(tmp_path / "killed", 50, 30), [killed], servers, said.append) == []
    assert run_hosts(made(tmp_path / "hosts", 50, 30), servers, said.append) == []
    assert len({line.rpartition("digest ")[2] for line in said if "digest" in line}) == 1, said
