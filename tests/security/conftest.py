"""Guarded servers, started by the first test that asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.security.support import Certificates, GuardedMongo, GuardedRedis, make_certificates


@pytest.fixture(scope="package")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedRedis]:
    started = GuardedRedis(tmp_path_factory.mktemp("guarded"))
    yield started
    started.process.kill()


@pytest.fixture(scope="package")
def guarded_mongo(tmp_path_factory: pytest.TempPathFactory, servers: object) -> Iterator[GuardedMongo]:
    """With `servers`, which skips or fails where no mongod can run."""
    started = GuardedMongo(tmp_path_factory.mktemp("guarded_mongo"))
    yield started
    started.kill()


@pytest.fixture(scope="package")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))
