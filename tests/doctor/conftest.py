"""A database of its own for each test, on the tests' servers, and what looks at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.integration.support import settings_for

from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.feed.opened import FeedServers, open_servers

Open = Callable[..., FeedServers]


@pytest.fixture
def database(new_database: Callable[[], str]) -> str:
    return f"{new_database()}_doctor"


@pytest.fixture
def opened(servers: Endpoints, database: str) -> Iterator[Open]:
    """Opens servers with settings of the test's choice."""
    with ExitStack() as stack:
        yield lambda **more: stack.enter_context(open_servers(settings_for(servers, database, **more)))


@pytest.fixture
def client(opened: Open) -> Any:
    return opened().redis


@pytest.fixture
def environment(servers: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The CC_ variables of the test's servers and database."""
    monkeypatch.setenv("CC_MONGO_CONNECTION_STRING", servers.mongo_connection_string(database))
    monkeypatch.setenv("CC_REDIS_HOST", servers.redis_host)
    monkeypatch.setenv("CC_REDIS_PORT", str(servers.redis_port))
    monkeypatch.setenv("CC_LEASE_MS", "1500")
    monkeypatch.setenv("COLUMNS", "200")
    return monkeypatch
