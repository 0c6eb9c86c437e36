"""`bkm chaos` as a user runs it, and with a bug in the clients that it must find."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console
from tests.chaos.planted_client import PLANTED_BUG
from tests.integration.support import eventually

from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_verify.chaos.faults import KILL, OF_WORKERS, RESTORE, SLOWEST, SNAPSHOT, TABLE
from backtest_kit_verify.chaos.faulty_servers import Servers
from backtest_kit_verify.chaos.report import PROMISES, as_json, show
from backtest_kit_verify.chaos.run import Options, run_chaos

BKM = (sys.executable, "-c", "from backtest_kit_mongo.cli.main import main; main()")
PLANTED = (sys.executable, str(Path(__file__).with_name("planted_client.py")))
live = pytest.mark.live


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: Endpoints) -> Iterator[Path]:
    """Where all temporary files of the run go. (`servers` skips, or fails, where servers cannot run.)"""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


def processes_in(directory: Path) -> list[psutil.Process]:
    """Servers work in the directory; clients have its name in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and (
                process.cwd().startswith(str(directory)) or process.environ().get("TMPDIR") == str(directory)
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


@live
def test_a_short_run_keeps_every_promise_and_leaves_nothing_behind(temporary: Path, tmp_path: Path) -> None:
    report_file = tmp_path / "report.json"
    size = ("--minutes", "0.3", "--writers", "2", "--readers", "2", "--keys", "12", "--workers", "2")
    command = [*BKM, "chaos", *size, "--seed", "smoke", "--json", str(report_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(report_file.read_text("utf-8"))
    assert report["passed"]
    assert report["violations"] == dict.fromkeys(PROMISES, 0)
    # A snapshot has to be of some age before it is restored: longer than this takes.
    faults = [fault.name for fault in (*TABLE, *OF_WORKERS) if fault.name not in (RESTORE, SNAPSHOT)]
    assert all(report["faults"][name] for name in faults), report["faults"]
    assert report["audit"]["records"] == report["audit"]["revisions"] > 0
    assert report["audit"]["seals"] > 0
    assert all(row["done"] for row in report["operations"].values())
    assert report["cached_entries_compared"] > 0
    assert "Verdict of seed smoke" in done.stdout
    assert list(temporary.iterdir()) == [report_file]
    assert not processes_in(temporary)


@live
def test_a_planted_bug_is_found_and_shown_with_the_calls_that_prove_it(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLANTED_BUG, "a write is acknowledged and forgotten")
    # The first write of each client is already one, so that the calm at the end is time enough.
    options = Options(0, "planted", writers=2, readers=1, keys=4, pause_ms=2, client=PLANTED, faults=())
    outcome = run_chaos(options, Console(quiet=True))
    report = as_json(outcome)
    assert not report["passed"]
    kinds = ("an acknowledged write lost", "one revision, two values")
    proofs = [excerpt for excerpt in report["excerpts"] if excerpt["kind"] in kinds]
    assert proofs
    assert all(report["violations"][proof["kind"]] and proof["history"] for proof in proofs)
    assert outcome.kept is not None
    assert any(outcome.kept.glob("w0.*.jsonl"))
    printed = io.StringIO()
    show(Console(file=printed, width=200), report)
    assert all(proof["text"] in printed.getvalue() for proof in proofs)


@live
def test_ctrl_c_takes_everything_away(temporary: Path) -> None:
    run = subprocess.Popen(
        [*BKM, "chaos", "--minutes", "5", "--writers", "1", "--readers", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        eventually(lambda: any(path.stat().st_size for path in temporary.glob("bkm-chaos-*/journals/*")), within_s=60)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=240)
    finally:
        run.kill()
    assert run.returncode
    assert b"Traceback" not in said
    assert not list(temporary.iterdir())
    eventually(lambda: not processes_in(temporary))


@live
def test_a_killed_redis_loses_what_was_appended_last_and_keeps_what_was_before(temporary: Path) -> None:
    servers = Servers(temporary / "servers")
    try:
        servers.redis.set("before", "1")
        file = servers._append_only_file()
        assert file is not None
        eventually(lambda: b"before" in file.read_bytes())
        servers.sample()
        servers._samples[0] = servers._samples[0]._replace(at_ns=0)
        servers.redis.set("after", "1")
        eventually(lambda: b"after" in file.read_bytes())
        kill = servers.kill_redis(random.Random(1))
        assert kill.kept_ns == 0
        servers.heal()
        assert (servers.redis.exists("before"), servers.redis.exists("after")) == (1, 0)
    finally:
        servers.close()


def test_half_an_hour_has_the_faults_that_it_must_have_even_if_all_of_them_are_late() -> None:
    least = {fault.name: 30 * 60 / (fault.every_s * SLOWEST) for fault in TABLE}
    assert least[KILL] > 300
    assert least["kill -9 of redis-server, a suffix lost"] > 30
    assert least["kill -9 of mongod"] > 10
