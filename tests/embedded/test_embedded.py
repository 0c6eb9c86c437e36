"""The embedded servers, real ones: started, shared, killed, moved and stopped."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer
from typing import Any

import filelock
import psutil
import pytest
from pymongo import MongoClient
from redis import Redis

from backtest_kit_mongo.embedded import (
    DirectoryBusyError,
    Endpoints,
    NotInstalledError,
    ServerFailedError,
    default_directory,
    down,
    pair,
    processes,
    start_mongo,
    start_redis,
    status,
    stop_mongo,
    stop_redis,
    up,
)
from backtest_kit_mongo.embedded.processes import Deadline, PortTakenError, Server
from backtest_kit_mongo.embedded.redis_server import REDIS

UP_AND_WAIT = """
import sys
from pathlib import Path
from backtest_kit_mongo.embedded import up
endpoints = up(Path(sys.argv[1]), die_with_caller=True)
print(endpoints.mongo_pid, endpoints.redis_pid, endpoints.started_here, flush=True)
sys.stdin.read()
"""


LAUNCH = """
import sys
from pathlib import Path
from backtest_kit_mongo.embedded import processes
from backtest_kit_mongo.embedded.processes import Server, free_port
from backtest_kit_mongo.embedded.redis_server import REDIS
processes.GUARD_WAIT_S = 60  # However busy the machine, the launcher is seen while it waits.
Server(REDIS, Path(sys.argv[1])).launch(port=free_port(), options=(), die_with_caller=False)
"""


def in_another_process(code: str, home: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(home)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def remove(home: Path) -> None:
    """Stop what runs in `home` and free its disk space; pytest keeps temporary directories of several runs."""
    stop_redis(home, kill=True)
    stop_mongo(home, kill=True)
    shutil.rmtree(home, ignore_errors=True)


def eventually(condition: Callable[[], bool], timeout_s: float = 60) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def squatter(port: int) -> Iterator[None]:
    """Another program that listens on the port and hangs up on everybody."""
    with SquatterServer(("127.0.0.1", port), BaseRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield
        server.shutdown()
        thread.join()


class SquatterServer(TCPServer):
    allow_reuse_address = True


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def insert(endpoints: Endpoints, name: str) -> None:
    with MongoClient[dict[str, Any]](endpoints.mongo_url, serverSelectionTimeoutMS=5_000) as client:
        client.demo.notes.insert_one({"name": name})
    with Redis(port=endpoints.redis_port) as client:
        client.set(name, "kept")


def is_kept(endpoints: Endpoints, name: str) -> bool:
    with MongoClient[dict[str, Any]](endpoints.mongo_url, serverSelectionTimeoutMS=5_000) as client:
        in_mongo = client.demo.notes.count_documents({"name": name}) == 1
    with Redis(port=endpoints.redis_port) as client:
        return in_mongo and client.get(name) == b"kept"


def fake_server(folder: Path, name: str, program: str) -> None:
    """Put a program that poses as a server first on PATH (the caller's monkeypatch names `folder` there)."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(program)
    (folder / name).chmod(0o755)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory whose servers most tests share; each test leaves it in a state that `up` can repair."""
    home = tmp_path_factory.mktemp("embedded") / "a laptop's data"
    yield home
    remove(home)


@pytest.fixture
def running(shared: Path) -> Endpoints:
    return up(shared, die_with_caller=True, redis_options=("--maxmemory", "64mb"))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"
    remove(tmp_path / "home")


def test_up_starts_a_replica_set_and_a_redis_that_loses_and_evicts_nothing(running: Endpoints) -> None:
    with MongoClient[dict[str, Any]](running.mongo_url) as client:
        assert client.admin.command("hello")["setName"] == "rs0"
        with client.start_session() as session, session.start_transaction():
            client.demo.notes.insert_one({"name": "in a transaction"}, session=session)
        options = client.admin.command("getCmdLineOpts")["parsed"]
    assert options["net"]["bindIp"] == "127.0.0.1"
    assert options["storage"]["wiredTiger"]["engineConfig"]["cacheSizeGB"] == 0.25
    assert options["replication"]["oplogSizeMB"] == 256
    with Redis(port=running.redis_port) as redis:
        settings = redis.config_get("*")
    wanted = {"bind": "127.0.0.1", "appendonly": "yes", "appendfsync": "everysec", "save": ""}
    assert settings.items() >= {**wanted, "maxmemory-policy": "noeviction", "maxmemory": str(64 << 20)}.items()


def test_a_second_up_of_the_same_directory_reuses_the_servers(shared: Path, running: Endpoints) -> None:
    again = up(shared)
    assert not again.started_here
    assert (again.mongo_pid, again.redis_pid) == (running.mongo_pid, running.redis_pid)


def test_a_link_to_the_directory_names_the_same_servers(shared: Path, running: Endpoints, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(shared)
    assert not up(tmp_path / "link").started_here


def test_status_tells_pids_ports_versions_sizes_and_the_owner(shared: Path, running: Endpoints) -> None:
    found = status(shared)
    assert found.answering
    assert (found.mongo.pid, found.mongo.port) == (running.mongo_pid, running.mongo_port)
    assert (found.redis.pid, found.redis.port) == (running.redis_pid, running.redis_port)
    assert found.redis.owner_pid == found.mongo.owner_pid == os.getpid()
    assert found.mongo.version is not None
    assert found.mongo.data_bytes > 1 << 20


def test_what_was_written_survives_sigkill_of_both_servers_and_the_ports_stay(shared: Path, running: Endpoints) -> None:
    insert(running, "before SIGKILL")
    assert stop_mongo(shared, kill=True)
    assert stop_redis(shared, kill=True)
    assert is_gone(running.mongo_pid)
    assert is_gone(running.redis_pid)
    assert not stop_redis(shared, kill=True)
    assert start_redis(shared)
    assert start_mongo(shared)
    assert not start_redis(shared)
    after = up(shared)
    assert (after.mongo_port, after.redis_port) == (running.mongo_port, running.redis_port)
    assert is_kept(after, "before SIGKILL")
    with Redis(port=after.redis_port) as redis:
        assert redis.config_get("maxmemory") == {"maxmemory": str(64 << 20)}


def test_the_replica_set_comes_back_when_its_port_was_taken_meanwhile(shared: Path, running: Endpoints) -> None:
    insert(running, "before the move")
    with MongoClient[dict[str, Any]](running.mongo_url, serverSelectionTimeoutMS=100) as client:
        client.admin.command("ping")
        assert down(shared, timeout_s=10)  # an open connection does not delay it
    assert not status(shared).mongo.running
    with squatter(running.mongo_port), squatter(running.redis_port):
        with pytest.raises(ServerFailedError, match="Address already in use"):
            start_redis(shared)
        moved = up(shared, die_with_caller=True)
    assert moved.mongo_port != running.mongo_port
    assert moved.redis_port != running.redis_port
    assert is_kept(moved, "before the move")


def test_a_stale_record_that_names_a_living_stranger_fools_nobody(shared: Path, running: Endpoints) -> None:
    stop_redis(shared, kill=True)
    record = json.loads((shared / "redis.json").read_text())
    with subprocess.Popen(["sleep", "60"], cwd=shared / "redis") as stranger:
        (shared / "redis.json").write_text(json.dumps({**record, "pid": stranger.pid}))
        assert not status(shared).redis.running
        assert not stop_redis(shared, kill=True)
        assert stranger.poll() is None
        assert up(shared).redis_port == running.redis_port
        stranger.kill()


@pytest.mark.parametrize("record", ["", "{}", "[1]", '{"pid": 1, "options": []}'])
def test_an_unreadable_record_counts_as_none(tmp_path: Path, record: str) -> None:
    (tmp_path / "redis.json").write_text(record)
    assert not status(tmp_path).redis.running


def test_a_stranger_who_answers_on_the_port_is_not_taken_for_our_server(home: Path, running: Endpoints) -> None:
    home.mkdir()
    ours = Server(REDIS, home)
    ours.launch(port=running.redis_port, options=(), die_with_caller=True)
    with pytest.raises(PortTakenError):
        ours.await_ready(Deadline.after(5))


def test_a_server_whose_record_was_lost_keeps_its_data_to_itself(
    shared: Path, running: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GUARD_WAIT_S", 0)
    record = (shared / "redis.json").read_text()
    (shared / "redis.json").unlink()
    with pytest.raises(ServerFailedError, match=r"fuser .*redis\.lock"):
        start_redis(shared)
    (shared / "redis.json").write_text(record)
    assert up(shared).redis_pid == running.redis_pid


def test_two_processes_that_come_up_at_once_share_one_pair_and_its_owner_takes_it_along(home: Path) -> None:
    with in_another_process(UP_AND_WAIT, home) as one, in_another_process(UP_AND_WAIT, home) as other:
        with ThreadPoolExecutor(2) as pool:
            answers = [str(line).split() for line in pool.map(lambda process: process.stdout.readline(), (one, other))]
        assert answers[0][:2] == answers[1][:2]
        assert sorted(answer[2] for answer in answers) == ["False", "True"]
        owner, guest = (one, other) if answers[0][2] == "True" else (other, one)
        mongo_pid, redis_pid = (int(pid) for pid in answers[0][:2])
        guest.send_signal(signal.SIGKILL)
        guest.wait()
        assert status(home).answering
        supervisor = psutil.Process(mongo_pid).parent()
        owner.send_signal(signal.SIGKILL)
        assert eventually(lambda: is_gone(mongo_pid) and is_gone(redis_pid) and is_gone(supervisor.pid))
    assert "Shutting down" in (home / "mongo.log").read_text()


def test_servers_with_an_owner_do_not_outlive_their_supervisor_either(home: Path) -> None:
    home.mkdir()
    server = Server(REDIS, home)
    server.launch(port=processes.free_port(), options=(), die_with_caller=True)
    process = server.process()
    assert process is not None
    supervisor = process.parent()
    assert "launcher.py" in " ".join(supervisor.cmdline())
    supervisor.kill()
    assert eventually(lambda: is_gone(process.pid))


def test_a_launch_whose_caller_was_killed_starts_nothing_behind_the_back_of_a_later_down(home: Path) -> None:
    home.mkdir()
    guard = os.open(home / "redis.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(guard, fcntl.LOCK_EX)  # the launcher has to wait here

    def launchers() -> list[psutil.Process]:
        return [p for p in psutil.process_iter(["cmdline"]) if str(home / "redis.lock") in str(p.info["cmdline"])]

    with in_another_process(LAUNCH, home) as caller:
        assert eventually(lambda: [p.ppid() for p in launchers()] not in ([], [caller.pid]))
        caller.kill()
        caller.wait()
    os.close(guard)
    assert eventually(lambda: not launchers())
    assert not down(home)


def test_ports_snatched_between_choice_and_bind_are_replaced(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snatched = processes.free_port()
    choices = iter([snatched, snatched])
    with squatter(snatched):
        monkeypatch.setattr(pair, "free_port", lambda: next(choices, None) or processes.free_port())
        endpoints = up(home, die_with_caller=True)
    assert status(home).answering
    assert snatched not in (endpoints.mongo_port, endpoints.redis_port)


def test_a_failed_up_quotes_the_log_and_leaves_nothing_running(home: Path) -> None:
    with pytest.raises(ServerFailedError, match=r"(?s)Stored data was not touched.*Bad directive"):
        up(home, die_with_caller=True, redis_options=("--no-such-option", "1"))
    found = status(home)
    assert not found.mongo.running
    assert not found.redis.running


def test_a_mongod_that_aborts_is_quoted_with_the_cause_and_without_its_backtrace(home: Path) -> None:
    up(home, die_with_caller=True)
    stop_mongo(home, kill=True)
    (home / "mongo" / "WiredTiger.turtle").write_text("damaged")
    with pytest.raises(ServerFailedError, match=r"WiredTiger\.turtle") as failure:
        start_mongo(home)
    assert "__libc_start_main" not in str(failure.value)
    assert len(str(failure.value)) < 5_000


def test_a_server_that_never_gets_ready_is_stopped_at_the_timeout(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = f"#!{sys.executable}\nimport time\nprint('still thinking', flush=True)\ntime.sleep(60)\n"
    fake_server(tmp_path / "bin", "mongod", program)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    with pytest.raises(ServerFailedError, match=r"(?s)did not get ready in time: it does not listen.*still thinking"):
        up(home, die_with_caller=True, timeout_s=0.5)
    assert not status(home).mongo.running


def test_a_missing_shared_library_is_named_with_its_package(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader_says = "mongod: error while loading shared libraries: libcurl.so.4: cannot open shared object file"
    fake_server(tmp_path / "bin", "mongod", f"#!/bin/sh\necho '{loader_says}' >&2\nexit 127\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    with pytest.raises(NotInstalledError, match=r"libcurl\.so\.4 is missing.*apt-get install libcurl4"):
        up(home, die_with_caller=True)
    assert not status(home).redis.running


def test_a_binary_that_cannot_be_executed_is_reported(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_server(tmp_path / "bin", "redis-server", "#!/no/such/interpreter\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ServerFailedError, match="redis-server cannot be executed"):
        start_redis(home)


def test_up_and_down_wait_for_each_other_only_so_long(home: Path) -> None:
    home.mkdir()
    with filelock.FileLock(home / "up.lock"):
        for operation in (up, down, start_redis):
            with pytest.raises(DirectoryBusyError, match="Nothing was changed"):
                operation(home, timeout_s=0.05)


def test_a_directory_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DirectoryBusyError, match="CC_EMBEDDED_DIR"):
        up(tmp_path / "file" / "home")


def test_down_and_status_of_a_directory_that_never_was_create_nothing(tmp_path: Path) -> None:
    assert not down(tmp_path / "nowhere")
    assert not stop_redis(tmp_path / "nowhere")
    assert not status(tmp_path / "nowhere").answering
    assert not (tmp_path / "nowhere").exists()


def test_the_directory_comes_from_the_environment_or_the_users_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC_EMBEDDED_DIR", "/srv/bk")
    assert default_directory() == Path("/srv/bk")
    monkeypatch.setenv("CC_EMBEDDED_DIR", "")
    assert default_directory().name == "backtest-kit-mongo"


def test_connection_strings_name_the_replica_set_and_escape_the_database() -> None:
    endpoints = Endpoints(Path("/d"), "127.0.0.1", 1, "127.0.0.1", 2, 3, 4, started_here=False)
    assert endpoints.mongo_url == "mongodb://127.0.0.1:1/?replicaSet=rs0"
    assert endpoints.mongo_connection_string("a/b") == "mongodb://127.0.0.1:1/a%2Fb?replicaSet=rs0"
