"""`backtest-kit-worker` and its `check`: exit codes, logs, the metrics port."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from tests.integration.support import eventually
from tests.worker.feed_support import at_age, event, publish
from typer.testing import CliRunner

from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_worker.cli import app
from backtest_kit_worker.dead_letters import DeadLetterWriter
from backtest_kit_worker.logs import JsonFormatter
from backtest_kit_worker.loop import Loop, LoopOptions
from backtest_kit_worker.roles.audit import AuditRole

Check = Callable[..., Any]
live = pytest.mark.live


@pytest.fixture
def environment(servers: Endpoints, database: str) -> dict[str, str]:
    return {
        "CC_MONGO_CONNECTION_STRING": servers.mongo_connection_string(database),
        "CC_REDIS_HOST": servers.redis_host,
        "CC_REDIS_PORT": str(servers.redis_port),
    }


@pytest.fixture
def command(environment: dict[str, str]) -> Iterator[Check]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield lambda *arguments, **env: CliRunner().invoke(app, arguments, env={**environment, **env})
    logging.root.handlers, logging.root.level = handlers, level


@pytest.fixture
def check(command: Check) -> Check:
    return partial(command, "check", "--roles", "audit")


@pytest.fixture
def audit(client: Any, mongo: Any, stream: str) -> Loop:
    return Loop(client, [stream], AuditRole(mongo), DeadLetterWriter(mongo), "one", LoopOptions(block_ms=1))


@live
class TestCheck:
    def test_all_is_well(self, check: Check, audit: Loop, client: Any, stream: str) -> None:
        publish(client, stream, event(0))
        audit.run_until_idle()
        result = check()
        assert result.exit_code == ExitCode.DONE, result.output
        assert "audit: 0 entries" in result.output

    def test_a_role_that_never_ran(self, check: Check) -> None:
        result = check()
        assert result.exit_code == ExitCode.NEVER_RAN
        assert "start a worker with --roles audit" in result.output

    def test_a_role_that_is_behind(self, check: Check, audit: Loop, client: Any, stream: str) -> None:
        audit.run_once(0)
        publish(client, stream, event(0), at=at_age(client, 9_000))
        assert check("--max-lag-seconds", "60").exit_code == ExitCode.DONE
        result = check("--max-lag-seconds", "5")
        assert result.exit_code == ExitCode.LAGGING
        assert re.search(r"1 entries, (9|10)\.\d s behind, more than 5 s", result.output)

    def test_dead_letters(self, check: Check, audit: Loop, client: Any, stream: str) -> None:
        client.xadd(stream, {"e": b"\xff"})
        audit.run_until_idle()
        result = check()
        assert result.exit_code == ExitCode.DEAD_LETTERS
        assert "bkm park list" in result.output

    def test_a_group_that_nobody_serves(self, check: Check, audit: Loop, client: Any, stream: str) -> None:
        publish(client, stream, event(0), at=at_age(client, 3_600_000))
        audit.run_until_idle()
        client.xgroup_create(stream, "gone", id="0")
        assert check().exit_code == ExitCode.ABANDONED

    def test_a_server_that_does_not_answer(self, check: Check) -> None:
        result = check(CC_REDIS_PORT="1")
        assert result.exit_code == ExitCode.UNREACHABLE
        assert "Redis at 127.0.0.1:1" in result.output

    def test_wrong_settings(self, check: Check) -> None:
        assert check(CC_REDIS_PORT="none").exit_code == 2


@live
@pytest.mark.parametrize(
    ("arguments", "says"), [(["--roles", "nobody"], "unknown role nobody"), (["--batch-max", "0"], "batch-max")]
)
def test_a_wrong_argument_is_exit_code_2(command: Check, arguments: list[str], says: str) -> None:
    result = command(*arguments)
    assert result.exit_code == ExitCode.WRONG_ARGUMENT
    assert says in result.output


@live
def test_a_worker_serves_metrics_writes_json_logs_and_stops_on_sigterm(
    environment: dict[str, str], client: Any, mongo: Any, stream: str
) -> None:
    arguments = ["--roles", "audit,trim", "--block-ms", "50", "--metrics-port", "0", "--log-format", "json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "backtest_kit_worker", *arguments],
        env={**os.environ, **environment, "CC_STREAM_RETENTION_MS": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        lines = [json.loads(process.stderr.readline()) for _ in range(2)]
        port = int(lines[1]["message"].rsplit(" ", 1)[1])
        publish(client, stream, event(0))
        eventually(lambda: mongo["audit-items"].count_documents({}) == 1)
        eventually(lambda: b'leadership{service="trim"} 1.0' in get(port, "/metrics"))
        assert json.loads(get(port, "/healthz"))["healthy"]
    finally:
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=20)
    assert process.returncode == 0
    last = json.loads(rest.splitlines()[-1])
    assert last["message"] == "stopped: 1 changes applied, 0 dead letters"
    assert {"time", "level", "logger", "thread"} < set(last)


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        body: bytes = answer.read()
    return body


def test_a_logged_error_is_one_line_with_its_traceback() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.getLogger("x").makeRecord("x", 40, __file__, 1, "failed: %s", ("why",), sys.exc_info())
    (line,) = JsonFormatter().format(record).splitlines()
    shown = json.loads(line)
    assert (shown["message"], shown["level"]) == ("failed: why", "error")
    assert "ValueError: two" in shown["traceback"]
