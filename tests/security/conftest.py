"""Guarded servers, started by the first test that asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.security.support import Certificates, GuardedRedis, make_certificates


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedRedis]:
    started = GuardedRedis(tmp_path_factory.mktemp("guarded"))
    yield started
    started.process.kill()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))
