"""A child keeps its data where its parent does, no store is chosen silently, and no lock of the parent hangs a
child.
"""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import backtest_kit_mongo as bk
from backtest_kit_mongo.embedded import Endpoints


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    bk.shutdown()
    yield
    bk.shutdown()


def run(directory: Path, script: str, *arguments: str) -> str:
    """What a program says that stands in a file, as `spawn` needs it, and has no settings in its environment."""
    (directory / "bot.py").write_text(script)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CC_", "BACKTEST_KIT_"))}
    done = subprocess.run(
        [sys.executable, "bot.py", *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


BOT = """
import logging, multiprocessing as mp, os, subprocess, sys
from concurrent.futures import ProcessPoolExecutor
import backtest_kit_mongo as bk

OTHER = '''
import backtest_kit_mongo as bk
try:
    bk.PersistStateAdapter.write_state_data({"data": 1}, "other", "b", 1)
except bk.NotSetUp as cause:
    print("NotSetUp" if "setup()" in str(cause) and "hunter2" not in str(cause) else cause)
'''

def grandchild(method, name):
    with ProcessPoolExecutor(1, mp.get_context(method)) as pool:
        return pool.submit(work, name).result()

def work(name):
    bk.PersistSignalAdapter.write_signal_data({"id": name, "position": "long"}, "BTC/USDT", name, "binance")
    bk.PersistLogAdapter.write_log_data([{"id": name}])
    return bk.get_config(), bk.PersistLogAdapter.choice, bk.get_mongo().address is not None

if __name__ == "__main__":
    uri, port = sys.argv[1:]
    bk.PersistLogAdapter.use_memory()
    settings = bk.setup(mongo_connection_string=uri, redis_port=int(port), cache_mode="id")
    assert "hunter2" not in str(os.environ)
    for method in ("spawn", "forkserver", "fork"):
        with ProcessPoolExecutor(1, mp.get_context(method)) as pool:
            other = f"grand{method}"
            for name, answer in ((method, pool.submit(work, method)), (other, pool.submit(grandchild, method, other))):
                assert answer.result() == (settings, "memory", True), answer.result()
                print(bk.PersistSignalAdapter.read_signal_data("BTC/USDT", name, "binance")["id"])
    assert bk.PersistLogAdapter.read_log_data() == []
    print(subprocess.run([sys.executable, "-c", OTHER], capture_output=True, text=True).stdout.strip())
    print("dump" in os.listdir())
"""


@pytest.mark.live
def test_a_child_keeps_its_data_where_its_parent_does_however_it_was_started(
    servers: Endpoints, new_database: Callable[[], str], tmp_path: Path
) -> None:
    said = run(tmp_path, BOT, servers.mongo_connection_string(new_database()), str(servers.redis_port))
    children = ["spawn", "grandspawn", "forkserver", "grandforkserver", "fork", "grandfork"]
    assert said.split() == [*children, "NotSetUp", "False"]


FORKS = """
import faulthandler, os, sys, threading, time, warnings
import backtest_kit_mongo as bk
wiring = sys.modules["backtest_kit_mongo.setup"]
warnings.simplefilter("ignore")

def forked(task):
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(20, exit=True)
        try:
            task()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

states, stop = bk.PersistStateAdapter, threading.Event()
states.use_memory()

def write():
    for number in iter(lambda: stop.is_set(), True):
        states.write_state_data({"data": number}, "t", "b", 1)

writer = threading.Thread(target=write)
writer.start()
def in_memory():
    assert states.read_state_data("t", "b") is not None
    states.write_state_data({"data": 1}, "t", "b", 1)
states.write_state_data({"data": 0}, "t", "b", 1)
print("hung", sum(forked(in_memory) != 0 for _ in range(20)))
stop.set()
writer.join()

inside, leave = threading.Event(), threading.Event()
def held(settings):
    inside.set()
    leave.wait()
    raise bk.ServerUnreachable("not now")
wiring.resolve = held
def set_up():
    try:
        bk.setup(embedded=True)
    except bk.ServerUnreachable:
        pass
thread = threading.Thread(target=set_up)
thread.start()
inside.wait()
def in_the_middle():
    for use in (lambda: bk.PersistSignalAdapter.read_signal_data("a", "b", "c"), bk.get_mongo):
        try:
            use()
        except bk.NotSetUp:
            continue
        os._exit(3)
    bk.shutdown()
print("in setup", forked(in_the_middle))
leave.set()
thread.join()
"""


def test_no_lock_that_a_thread_of_the_parent_held_hangs_a_child(tmp_path: Path) -> None:
    assert run(tmp_path, FORKS).splitlines() == ["hung 0", "in setup 0"]


ENDING = """
import atexit, sys, threading
uri, port = sys.argv[1:]
import backtest_kit_mongo as bk

def minutes(first):
    return [
        {"timestamp": (first + minute) * 60_000, "open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1.0}
        for minute in range(2_501)
    ]

def at_exit():
    bk.shutdown()
    bk.setup(mongo_connection_string=uri, redis_port=int(port))
    print("exit", bk.PersistCandleAdapter.write_candles_data(minutes(28_000_000), "X", "1m", "e").inserted)
    bk.shutdown()

def after_main():
    threading.main_thread().join()
    print("thread", bk.PersistCandleAdapter.write_candles_data(minutes(27_000_000), "X", "1m", "e").inserted)

atexit.register(at_exit)
bk.set_config(mongo_connection_string=uri, redis_port=int(port))
bk.install()
threading.Thread(target=after_main).start()
"""


@pytest.mark.live
def test_a_program_that_is_ending_still_opens_a_store_and_writes_many_candles(
    servers: Endpoints, new_database: Callable[[], str], tmp_path: Path
) -> None:
    said = run(tmp_path, ENDING, servers.mongo_connection_string(new_database()), str(servers.redis_port))
    assert said.splitlines() == ["thread 2501", "exit 2501"]


MEMORY = """
import multiprocessing as mp, os, sys
from concurrent.futures import ProcessPoolExecutor
import backtest_kit_mongo as bk

os.environ["CC_MONGO_CONNECTION_STRING"] = "mongodb://127.0.0.1:1/x"  # The parent's choice goes before it.
sys.stderr = sys.stdout

def work(number):
    bk.PersistStateAdapter.write_state_data({"data": number}, "s", "b", 1)
    return bk.PersistStateAdapter.choice

if __name__ == "__main__":
    bk.PersistStateAdapter.use_memory()
    work(1)
    for method in ("spawn", "fork"):
        with ProcessPoolExecutor(1, mp.get_context(method)) as pool:
            print(*pool.map(work, (2, 3)))
    print(bk.PersistStateAdapter.read_state_data("s", "b"))
"""


def test_a_memory_cannot_be_shared_which_each_child_says_once(tmp_path: Path) -> None:
    said = run(tmp_path, MEMORY)
    reported = "A memory store cannot be shared"
    assert said.count(reported) == 2
    plain = [line for line in said.splitlines() if reported not in line]
    assert plain == ["memory memory", "memory memory", "{'data': 1}"]


class Strategy:
    def __init__(self) -> None:
        self.store = bk.PersistSignalAdapter
        self.read = bk.read_candles


def test_a_strategy_that_holds_adapters_is_copied_and_pickled() -> None:
    strategy = Strategy()
    for copied in (pickle.loads(pickle.dumps(strategy)), copy.deepcopy(strategy), copy.copy(strategy)):
        assert copied.store is bk.PersistSignalAdapter
        assert copied.read == bk.read_candles


class Own:
    """A user's own state backend."""

    def __init__(self, signal_id: str, bucket_name: str) -> None: ...

    def wait_for_init(self, initial: bool) -> None: ...

    def read_state_data(self, *, when: object = None) -> dict[str, str]:
        return {"data": "own"}

    def write_state_data(self, data: object, when: object) -> None: ...


def test_children_get_own_implementations_by_name_and_refuse_without_them() -> None:
    from backtest_kit_mongo.adapters import choices
    from backtest_kit_mongo.adapters.registries import REGISTRIES

    bk.PersistStateAdapter.use_persist_state_adapter(Own)
    bk.PersistRiskAdapter.use_persist_risk_adapter(lambda *context: Own("a", "b"))
    named = choices.of(REGISTRIES)
    bk.shutdown()
    choices.choose(REGISTRIES, named)
    assert bk.PersistStateAdapter.read_state_data("s", "b") == {"data": "own"}
    with pytest.raises(bk.NotSetUp, match="PersistRiskAdapter"):
        bk.PersistRiskAdapter.read_position_data("r", "e")


class TestNoStoreIsChosenSilently:
    def write(self) -> None:
        bk.PersistStateAdapter.write_state_data({"data": 1}, "s", "b", 1)

    @pytest.mark.parametrize("name", ["CC_MONGO_CONNECTION_STRING", "CC_EMBEDDED", "BACKTEST_KIT_MONGO_SET_UP"])
    def test_servers_that_the_environment_names_are_not_passed_over(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(name, "1" if name == "CC_EMBEDDED" else "mongodb://127.0.0.1:1/x")
        with pytest.raises(bk.NotSetUp, match=r"setup\(\)"):
            self.write()
        bk.PersistStateAdapter.use_json()
        self.write()

    def test_neither_are_those_of_a_set_config_or_of_a_setup_that_failed(self) -> None:
        bk.set_config(redis_port=1)
        with pytest.raises(bk.NotSetUp, match="set_config"):
            self.write()
        bk.shutdown()
        with pytest.raises(bk.ServerUnreachable):
            bk.setup(mongo_connection_string="mongodb://127.0.0.1:1/x", mongo_timeout_ms=200)
        with pytest.raises(bk.NotSetUp, match="failed"):
            self.write()
        assert not Path("dump").exists()

    def test_setup_speaks_of_what_was_written_before_it_and_of_nothing_else(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(bk.InvalidPayload):
            bk.PersistStateAdapter.write_state_data({"data": object()}, "s", "b", 1)
        assert bk.PersistStateAdapter.read_state_data("s", "b") is None
        bk.install()
        assert "before setup()" not in caplog.text
        bk.shutdown()
        self.write()
        bk.install()
        assert "used before setup()" in caplog.text
        assert caplog.text.rstrip().endswith("not copied: PersistStateAdapter")

    def test_the_default_says_once_where_its_files_are(self, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
        self.write()
        bk.PersistRiskAdapter.write_position_data([], "r", "e", when=1)
        assert caplog.text.count(str(tmp_path / "dump")) == 1

    def test_what_an_adapter_was_set_to_stays_and_setup_says_so(self, caplog: pytest.LogCaptureFixture) -> None:
        bk.PersistStateAdapter.use_memory()
        bk.install()
        self.write()
        assert bk.PersistStateAdapter.read_state_data("s", "b") == {"data": 1}
        assert "not in MongoDB, because they were set to use something else: PersistStateAdapter" in caplog.text
        bk.PersistRiskAdapter.use_dummy()
        assert bk.PersistRiskAdapter.read_position_data("r", "e") == []

    def test_setup_takes_backends_by_domain_and_refuses_what_contradicts_before_it_connects(self) -> None:
        for wrong, said in (
            ({"stat": "files"}, "no domain 'stat'"),
            ({"state": "fils"}, "a class or a Store are possible, not 'fils'"),
            ({"state": int}, "int cannot serve it"),
        ):
            with pytest.raises(bk.InvalidSetting, match=said):
                bk.setup(backends=wrong)
        bk.PersistStateAdapter.use_memory()
        with pytest.raises(bk.InvalidSetting, match="memory of this process> was set otherwise before"):
            bk.setup({"backends": {"state": "files"}})
        with pytest.raises(bk.InvalidSetting, match="given twice: redis_port"):
            bk.setup({"redis_port": 1}, redis_port=2)
        with pytest.raises(bk.InvalidSetting, match="redis_port is given twice"):
            bk.setup({"redis_port": 1}, CC_REDIS_PORT=2)

    def test_an_adapter_says_what_serves_it(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        assert set(bk.backends().values()) == {f"files below {tmp_path / 'dump'}, because setup() was not called"}
        bk.PersistStateAdapter.use_memory()
        bk.PersistRiskAdapter.use_persist_risk_adapter(bk.PersistBase)
        monkeypatch.setenv("CC_EMBEDDED", "1")
        assert repr(bk.PersistStateAdapter) == "<PersistStateAdapter: memory of this process>"
        assert str(tmp_path / "dump/persist") in bk.backends()["risk"]
        assert "CC_EMBEDDED is set" in bk.backends()["log"]
        bk.set_config(mongo_connection_string="mongodb://user:hunter2@127.0.0.1:1/x", embedded=False)
        bk.install()
        assert bk.backends()["log"] == "MongoDB at 127.0.0.1:1, database x, document cache"
