"""Fixtures that the suite brings along."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pkgutil import resolve_name

import pytest

from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.stores import new_persist_store
from backtest_kit_mongo.testing.serving import values_served

_tags = count()


@pytest.fixture(scope="class")
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store that `--bkm-store` makes, or one over the class of `--bkm-persist`, for a run of the suite by itself.
    Test modules that bind it have their own.
    """
    if persist := request.config.getoption("--bkm-persist", None):
        maker, ask = resolve_name(persist), request.getfixturevalue
        with values_served(maker, lambda: ask("bkm_servers"), lambda: ask("bkm_postgres")):
            yield new_persist_store(maker, str(tmp_path_factory.mktemp("values")))
        return
    named: str | None = request.config.getoption("--bkm-store", None)
    if not named:
        pytest.fail("name a backend: --bkm-store=module:maker, where maker() returns an empty store", pytrace=False)
    made = resolve_name(named)()
    if not isinstance(made, Store):
        # Once, not for each test.
        pytest.exit(f"--bkm-store={named} made a {type(made).__name__}, not a Store", pytest.ExitCode.USAGE_ERROR)
    yield made
    made.close()


@pytest.fixture
def tag() -> str:
    """Key parts that start with it belong to this test alone: no test of the process had the same, and none is
    another's beginning.
    """
    return f"t{next(_tags)}."


@pytest.fixture
def twin(store: Store) -> Store:
    """A second store of the same data, as another process would have. Override it where the data outlive a store."""
    return store


@pytest.fixture
def empty_store(store: Store) -> Store:
    """A store that nobody has written to. Override it where `store` is shared by several classes."""
    return store
