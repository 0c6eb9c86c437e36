"""`bkm audit`: what it prints and how it exits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database
from tests.audit.support import Worker, change, gap
from typer.testing import CliRunner, Result

from backtest_kit_mongo.cli.audit import audit
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.exits import ExitCode

pytestmark = pytest.mark.live

KEY = "state/signal/bucket"
Documents = Database[dict[str, Any]]


@pytest.fixture
def environment(servers: Endpoints, database: Documents, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC_MONGO_CONNECTION_STRING", servers.mongo_connection_string(database.name))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def bkm(*arguments: str) -> Result:
    return CliRunner().invoke(audit, list(arguments))


@pytest.mark.usefixtures("environment")
def test_verify_prints_an_anchor_that_the_next_verify_accepts(worker: Worker) -> None:
    worker.sealed([change(1), change(2)])
    worker.record([change(4)])
    worker.seal()
    first = bkm("verify")
    assert (first.exit_code, "clean: 2 records in 1 seals" in first.stdout) == (0, True)
    assert "gap, not tampering: state/signal/bucket (d1) misses revisions ((3, 3),)" in first.stdout
    assert "not sealed yet: 1" in first.stdout
    anchor = first.stdout.partition("anchor: ")[2].strip()
    assert bkm("verify", "--anchor", anchor).exit_code == 0
    other = bkm("verify", "--anchor", f"1:{'0' * 64}")
    assert (other.exit_code, "anchor differs: seal 1" in other.stdout) == (ExitCode.DIFFERS, True)


@pytest.mark.usefixtures("environment")
def test_verify_names_what_was_tampered_with_and_exits_with_its_own_code(worker: Worker, database: Documents) -> None:
    worker.sealed(change(rev) for rev in (1, 2, 3))
    database["audit-items"].update_many({"rev": {"$gte": 2}}, {"$set": {"payload": 0}})
    one = bkm("verify", "--findings", "1")
    assert (one.exit_code, one.stdout.count("altered: ")) == (ExitCode.DIFFERS, 1)
    assert "altered: state/d1/2: it is not what seal 1 sealed" in one.stdout
    both = json.loads(bkm("verify", "--json").stdout)
    assert [found["where"] for found in both["findings"]] == ["state/d1/2", "state/d1/3"]
    assert both["clean"] is False


@pytest.mark.usefixtures("environment")
def test_tail_prints_one_line_a_record(worker: Worker) -> None:
    worker.record([change(1), change(1, document="s", domain="signal", key=("BTC/USDT", "t", "b"))])
    lines = bkm("tail").stdout.splitlines()
    written = "2024-01-01T00:01:00.000Z"
    assert lines == [
        f"{written}  upsert   {KEY}  rev 1  when 1970-01-01T00:00:01.000Z  by host:7",
        f"{written}  upsert   signal/BTC%2FUSDT/t/b  rev 1  when 1970-01-01T00:00:01.000Z  by host:7",
    ]
    assert bkm("tail", "--domain", "signal", "--symbol", "BTC/USDT").stdout.splitlines() == lines[1:]
    assert json.loads(bkm("tail", "-n", "1", "--json").stdout)["id"] == "signal/s/1"


@pytest.mark.usefixtures("environment")
def test_tail_follow_goes_on_until_it_is_interrupted(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.record([change(1)])
    seen: list[str] = []

    def printed(text: str) -> None:
        seen.append(json.loads(text)["id"])
        if len(seen) == 2:
            raise KeyboardInterrupt
        worker.record([change(2)])

    monkeypatch.setattr("backtest_kit_mongo.cli.audit.echo", printed)
    assert bkm("tail", "--follow", "--json").exit_code == 0
    assert seen == ["state/d1/1", "state/d1/2"]


@pytest.mark.usefixtures("environment")
def test_show_prints_the_timeline_with_differences(worker: Worker) -> None:
    worker.record([change(1), change(2), change(4)])
    shown = bkm("show", KEY).stdout
    assert "    + payload: {'data': 1}" in shown
    assert "    ~ data: 1 -> 2" in shown
    assert "  rev 3  no record yet" in shown
    assert [json.loads(line)["rev"] for line in bkm("show", KEY, "--json").stdout.splitlines()] == [1, 2, 4]
    assert "No record of this key" in bkm("show", "state/signal/other").stderr


@pytest.mark.usefixtures("environment")
def test_asof_prints_the_payload_of_the_moment(worker: Worker) -> None:
    worker.record([change(1), change(3)])
    worker.writer.write([gap(2)])
    by_when = bkm("asof", KEY, "--when", "1500")
    assert json.loads(by_when.stdout.partition("\n")[2]) == {"data": 1}
    assert "Revisions 2 directly after it are lost" in by_when.stderr
    assert '"data": 3' in bkm("asof", KEY, "--when", "1970-01-01T00:00:03").stdout
    by_clock = json.loads(bkm("asof", KEY, "--at", "2024-01-01T03:01:59+03:00", "--json").stdout)
    assert (by_clock["exists"], by_clock["record"]["rev"], by_clock["lost"]) == (True, 1, [2])
    assert bkm("asof", KEY, "--when", "0").stdout.startswith("absent")


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["asof", KEY], "--when"),
        (["asof", KEY, "--when", "yesterday"], "not a moment"),
        (["show", "state/signal"], "state/signalId/bucketName"),
        (["tail", "--domain", "x"], "no domain"),
        (["verify", "--anchor", "x"], "number:hash"),
        (["export", "--format", "parquet"], "--out"),
    ],
)
def test_a_wrong_argument_is_explained(database: Documents, arguments: list[str], says: str) -> None:
    result = bkm(*arguments)
    assert result.exit_code == ExitCode.WRONG_ARGUMENT
    assert says in result.stderr


def test_a_server_that_cannot_be_reached_is_distinguished_from_tampering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC_MONGO_CONNECTION_STRING", "mongodb://127.0.0.1:1/nothing")
    monkeypatch.setenv("CC_MONGO_TIMEOUT_MS", "50")
    result = bkm("verify")
    assert result.exit_code == ExitCode.FAILED
    assert "cannot be reached" in result.stderr


@pytest.mark.usefixtures("environment")
def test_export_writes_a_file_only_when_it_is_complete(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.record([change(1), change(2)])
    out = tmp_path / "audit.jsonl"
    assert "2 records in" in bkm("export", "--out", str(out)).stderr
    whole = out.read_text("utf-8")
    assert [json.loads(line)["rev"] for line in whole.splitlines()] == [1, 2]
    assert bkm("export").stdout == whole

    def fails(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("backtest_kit_mongo.cli.audit.export_jsonl", fails)
    result = bkm("export", "--out", str(out))
    assert (result.exit_code, "disk full" in result.stderr) == (ExitCode.FAILED, True)
    assert [path.name for path in tmp_path.iterdir()] == ["audit.jsonl"]
    assert out.read_text("utf-8") == whole


@pytest.mark.usefixtures("environment")
def test_export_writes_parquet(worker: Worker, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    worker.record([change(1), change(1, document="s", domain="signal", key=("BTC", "t", "b"))])
    out = tmp_path / "audit.parquet"
    assert bkm("export", "--format", "parquet", "--out", str(out), "--symbol", "BTC").exit_code == 0
    assert parquet.read_table(out).column("id").to_pylist() == ["signal/s/1"]
