"""pytest plugin of backtest-kit-mongo: stores for the tests of strategies, and of backends.

    def test_my_strategy_resumes(bkm_store):    # all adapters keep their data in memory for this test
        ...

    def test_it_does_so_on_real_servers(bkm_live):
        ...

* `bkm_store`     memory, fast. The adapters are as before after the test.
* `bkm_live`      MongoDB and Redis, in a database of the test's own. The adapters are as before after the test.
* `bkm_settings`  the settings of that database, to connect a worker or another process to it.
* `bkm_servers`   the servers, one pair for each test process: private ones of this machine, or containers with
                  `--containers` (needs Docker and `testcontainers`). Where there are none, tests are skipped; with CI
                  in the environment they fail.
* `bkm_postgres`  the connection string of a PostgreSQL of Debian's package, one for each test process; as above.

A backend proves itself with one line:

    pytest --pyargs backtest_kit_mongo.testing.conformance --bkm-store=my_package.backend:make_store

(`--bkm-aio` has it call the adapters as coroutines.)

This is a package of its own because pytest imports its plugins at each start, and the package of which the fixtures
speak takes longer to import than pytest: nothing of it is imported until a test asks for a fixture.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from backtest_kit_mongo.drivers.store import Store
    from backtest_kit_mongo.settings import Settings
    from backtest_kit_mongo.testing.servers import Servers

__all__ = [
    "bkm_live",
    "bkm_postgres",
    "bkm_servers",
    "bkm_settings",
    "bkm_store",
    "pytest_addoption",
    "pytest_configure",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("backtest-kit-mongo")
    group.addoption(
        "--containers",
        action="store_true",
        help="Run tests that need MongoDB and Redis against containers instead of private servers.",
    )
    group.addoption(
        "--bkm-store",
        metavar="MODULE:MAKER",
        help="For the conformance suite: a callable without arguments that returns a store with nothing in it.",
    )
    group.addoption(
        "--bkm-persist",
        metavar="MODULE:CLASS",
        help="For the conformance suite: a class that keeps values by id, as `backtest_kit_mongo.PersistBase` does.",
    )
    group.addoption(
        "--bkm-aio",
        action="store_true",
        help="For the conformance suite: call the adapters as an event loop does, through `backtest_kit_mongo.aio`.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """A backend that cannot be found is one message, not one for each test."""
    if config.getoption("--bkm-aio", False):
        from backtest_kit_mongo.testing import calls, loops

        calls.use_registry = loops.Looped
    named = config.getoption("--bkm-store", None)
    if named is None or hasattr(config, "workerinput"):
        return
    from inspect import signature
    from pkgutil import resolve_name

    beside = [str(config.invocation_params.dir), str(config.rootpath)]  # Where test modules will find it.
    sys.path[:0] = beside
    try:
        maker = resolve_name(named)
    except Exception as cause:
        raise pytest.UsageError(
            f"--bkm-store={named}: {type(cause).__name__}: {cause}. It is a module and what makes an empty store in "
            "it: module:maker"
        ) from None
    finally:
        del sys.path[: len(beside)]
    if not callable(maker):
        raise pytest.UsageError(f"--bkm-store={named}: a {type(maker).__name__} cannot be called")
    with suppress(ValueError):  # Of some built-in functions nobody knows what they take.
        try:
            signature(maker).bind()
        except TypeError as cause:
            raise pytest.UsageError(
                f"--bkm-store={named}: it cannot be called without arguments ({cause}), so it makes no store"
            ) from None


@pytest.fixture
def bkm_store() -> Iterator[Store]:
    """Memory behind all adapters for one test, empty at its beginning."""
    from backtest_kit_mongo.testing.serving import memory_store, serving

    with serving(memory_store()) as store:
        yield store


@pytest.fixture(scope="session")
def bkm_servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A MongoDB and a Redis that only this test process uses."""
    from backtest_kit_mongo.testing.servers import UnavailableError, container_servers, private_servers

    with ExitStack() as stack:
        try:
            if request.config.getoption("--containers"):
                servers = stack.enter_context(container_servers())
            else:
                servers = stack.enter_context(private_servers(tmp_path_factory.mktemp("servers")))
        except UnavailableError as cause:
            if os.environ.get("CI"):
                pytest.fail(f"CI must test against real servers: {cause}", pytrace=False)
            pytest.skip(f"no servers: {cause}")
        yield servers


@pytest.fixture(scope="session")
def bkm_postgres() -> Iterator[str]:
    """A PostgreSQL that only this test process uses: its connection string."""
    from backtest_kit_mongo.testing.postgres import private_postgres
    from backtest_kit_mongo.testing.servers import UnavailableError

    with ExitStack() as stack:
        try:
            uri = stack.enter_context(private_postgres())
        except UnavailableError as cause:
            if os.environ.get("CI"):
                pytest.fail(f"CI must test against a real server: {cause}", pytrace=False)
            pytest.skip(f"no PostgreSQL: {cause}")
        yield uri


@pytest.fixture
def bkm_settings(bkm_servers: Servers) -> Iterator[Settings]:
    """Settings of a database that no other test has; it is dropped after the test."""
    from backtest_kit_mongo.testing.serving import fresh_settings

    with fresh_settings(bkm_servers) as settings:
        yield settings


@pytest.fixture
def bkm_live(bkm_settings: Settings) -> Iterator[Store]:
    """MongoDB and Redis behind all adapters for one test, empty at its beginning."""
    from backtest_kit_mongo.setup import make_store
    from backtest_kit_mongo.testing.serving import serving

    with serving(make_store(bkm_settings)) as store:
        yield store
