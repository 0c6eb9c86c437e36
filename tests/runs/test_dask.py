"""The example on a real Dask cluster has the answer that one process has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backtest_kit_mongo.cli.main import app

EXAMPLE = Path(__file__).parents[2] / "examples" / "sweep_dask.py"


@pytest.mark.usefixtures("desk")
def test_two_dask_workers_and_one_process_have_one_digest() -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("distributed")
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    found = re.search(r"digest (\w+)", done.stdout)
    assert found, done.stdout
    assert "40 of them now" in done.stdout
    grid = ("fast=3..11:2", "slow=20..50:10", "target=0.8,1.6")
    options = [word for one in grid for word in ("--param", one)]
    again = CliRunner().invoke(app, ["sweep", str(EXAMPLE), "--symbol", "BTCUSDT", *options])
    assert f"digest {found[1]}" in again.stdout.replace("\n", " ")
    assert "0 were run now" in again.stdout
