"""The example runs, goes on where it stopped, and ends on Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.support import eventually
from tests.stream.support import Desk

pytestmark = pytest.mark.live
EXAMPLE = Path(__file__).parents[2] / "examples" / "live_feed.py"


def start(desk: Desk, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "CC_MONGO_CONNECTION_STRING": desk.settings.mongo_connection_string.get_secret_value(),
        "CC_REDIS_HOST": desk.settings.redis_host,
        "CC_REDIS_PORT": str(desk.settings.redis_port),
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, str(EXAMPLE), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_the_example_prints_the_past_then_the_present_until_it_is_interrupted(desk: Desk) -> None:
    desk.write(1)
    desk.audit_and_trim()
    process = start(desk, "state", "--start", "beginning")
    assert process.stdout is not None
    first = process.stdout.readline()
    assert "upsert   state signalId=s bucketName=b rev 1 {'data': 1}" in first
    assert "from the audit log" in first
    desk.write(2)
    assert "rev 2 {'data': 2}" in process.stdout.readline()
    eventually(lambda: desk.pending_count("live-feed") == 0)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=90)
    assert (process.returncode, rest) == (0, "2 changes\n")
    desk.write(3)
    again, _ = start(desk, "--until-idle").communicate(timeout=90)
    assert again.splitlines()[1:] == ["1 changes"]
    assert "rev 3" in again
