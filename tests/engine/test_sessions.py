"""A paper session of processes with the names of several hosts, with kills: what its audit log can tell afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from backtest_kit_mongo.testing.servers import Servers
from backtest_kit_verify.bots.hosts import Seat, run_seats
from backtest_kit_verify.bots.traced import judge
from backtest_kit_verify.chaos.faulty_servers import settings_of

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def seats(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> list[Seat]:
    """Two contexts, each killed once and taken up by another process."""
    directory: Path = tmp_path_factory.mktemp("session")
    settings = {**settings_of(servers), "lease_ms": 15_000, "mongo_timeout_ms": 10_000}
    settings["mongo_connection_string"] = servers.mongo_connection_string("session")
    made = [
        Seat(settings, "session", directory, symbol, 75, "paper", quiet_minutes=60) for symbol in ("AAAUSDT", "BBBUSDT")
    ]
    assert run_seats(made, 1, print) == []
    return made


def test_every_trace_is_whole_and_no_record_belongs_to_nothing(seats: list[Seat]) -> None:
    outcome = judge(seats)
    assert outcome.problems == []
    assert outcome.orphans == []
    assert outcome.signals > 1
