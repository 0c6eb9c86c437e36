"""A cut of the network and what the kernel delivers when it heals, on a real network namespace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backtest_kit_mongo.embedded import Endpoints

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "cut_off.py"
PROBE = "bkm-probe"


def require_namespaces() -> None:
    try:
        subprocess.run(["ip", "netns", "add", PROBE], check=True, capture_output=True)
        subprocess.run(["ip", "netns", "del", PROBE], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as cause:
        message = f"network namespaces need root and iproute2: {cause}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


@pytest.mark.live
def test_no_value_goes_back_after_a_cut_and_the_last_one_stays(servers: Endpoints) -> None:
    """Twenty cuts of 2 to 20 s: the program without arguments."""
    require_namespaces()
    short = ("--cuts", "1", "--least", "2.5", "--most", "2.6", "--calm", "0.5", "--delivery", "2.5")
    command = [sys.executable, str(PROGRAM), *short, "--writers", "1", "--servers", str(servers.directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    reported = json.loads(done.stdout)
    assert reported["unknown"] >= 1, "the cut held nothing back"
    assert reported["gone_back"] == []
