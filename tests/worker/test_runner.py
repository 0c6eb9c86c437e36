"""The runner: threads, leadership, shutdown, exit codes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.integration.support import eventually
from tests.worker.feed_support import Recorder, always, event, pending_ids, publish

from backtest_kit_mongo.exits import ExitCode
from backtest_kit_worker import roles, runner
from backtest_kit_worker.backoff import Backoff
from backtest_kit_worker.deployment import Deployment
from backtest_kit_worker.leadership import Leadership
from backtest_kit_worker.loop import Loop, LoopOptions
from backtest_kit_worker.roles import Work
from backtest_kit_worker.runner import Runner, RunnerOptions, ServiceRunner
from backtest_kit_worker.services import Service

OPTIONS = RunnerOptions(LoopOptions(block_ms=20, retry_ms=5, retry_max_ms=20), lease_ms=600, stop_ms=3_000)
live = pytest.mark.live


class Chore(Service):
    """A service with so many pieces of work to do, and a script of failures."""

    name = "chore"
    interval_ms = 5

    def __init__(self, piece_count: int = 3, failures: Sequence[Exception] = ()) -> None:
        self.piece_count = piece_count
        self.failures = list(failures)
        self.reported: list[str] = []
        self.block = threading.Event()
        self.block.set()

    def open(self) -> None:
        self.reported.append("open")

    def run_once(self) -> int:
        self.block.wait(10)
        if self.failures:
            raise self.failures.pop(0)
        if self.piece_count == 0:
            return 0
        self.piece_count -= 1
        self.reported.append("work")
        return 1

    def close(self) -> None:
        self.reported.append("close")


class Undecided(Chore):
    """Takes something up, and decides after so many looks."""

    def __init__(self, looks: int) -> None:
        super().__init__(piece_count=1)
        self.looks = looks

    def run_once(self) -> int:
        self.looks -= 1
        return super().run_once()

    @property
    def unjudged_count(self) -> int:
        return int(self.looks > 0)


class Lead:
    """Leadership as the test decides."""

    def __init__(self, leads: bool = True) -> None:
        self.leads = leads
        self.troubles: dict[str, str] = {}

    def holds(self, name: str) -> bool:
        return self.leads

    def attempt(self, name: str) -> bool:
        return self.leads


def serve(chore: Chore, lead: Lead) -> tuple[ServiceRunner, Callable[[], None]]:
    leadership: Any = lead
    runner, stop = ServiceRunner(chore, leadership, Backoff(1, 5)), threading.Event()
    thread = threading.Thread(target=runner.run, args=(stop,))
    thread.start()

    def end() -> None:
        stop.set()
        thread.join()

    return runner, end


class TestAService:
    def test_runs_only_while_this_process_leads(self) -> None:
        chore, lead = Chore(), Lead(False)
        runner, end = serve(chore, lead)
        assert not runner.leads()
        assert chore.reported == []
        lead.leads = True
        eventually(lambda: chore.piece_count == 0)
        lead.leads = False
        eventually(lambda: chore.reported[-1] == "close")
        end()
        assert chore.reported == ["open", "work", "work", "work", "close"]
        assert runner.done_count == 3

    def test_is_opened_again_after_a_failure_and_goes_on(self) -> None:
        chore = Chore(2, [RuntimeError("one"), RuntimeError("two")])
        runner, end = serve(chore, Lead())
        eventually(lambda: chore.piece_count == 0 and runner.trouble is None)
        end()
        assert chore.reported == ["open", "close", "open", "close", "open", "work", "work", "close"]
        assert runner.failed_count == 2

    def test_a_close_that_fails_ends_nothing(self) -> None:
        chore = Chore(1)

        def fail() -> None:
            raise RuntimeError("cannot close")

        chore.close = fail  # type: ignore[method-assign]
        _, end = serve(chore, Lead())
        eventually(lambda: chore.piece_count == 0)
        end()

    def test_once_does_all_there_is_within_the_bound(self) -> None:
        leadership: Any = Lead()
        assert ServiceRunner(Chore(5), leadership, Backoff(1, 5)).run_until_idle(100) == 5
        assert ServiceRunner(Chore(5), leadership, Backoff(1, 5)).run_until_idle(2) == 2
        leadership.leads = False
        assert ServiceRunner(Chore(5), leadership, Backoff(1, 5)).run_until_idle(100) == 0


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> tuple[Recorder, Chore]:
    """The table of roles with one role and one service of the test's own, and one that is not configured."""
    role, chore = Recorder(), Chore()
    table = {"both": Work(lambda _: role, lambda _: chore), "none": Work(lambda _: None, lambda _: None)}
    monkeypatch.setattr(roles, "TABLE", table)
    return role, chore


def start(runner: Runner) -> Callable[[], ExitCode]:
    stop = threading.Event()
    codes: list[ExitCode] = []
    thread = threading.Thread(target=lambda: codes.append(runner.run(stop)))
    thread.start()

    def end() -> ExitCode:
        stop.set()
        thread.join()
        return codes[0]

    end.thread = thread  # type: ignore[attr-defined]
    return end


@live
class TestTheRunner:
    def test_runs_what_is_configured_and_stops_as_asked(
        self, deployment: Deployment, client: Any, mongo: Any, stream: str, parts: tuple[Recorder, Chore]
    ) -> None:
        role, chore = parts
        runner = Runner(deployment, ["both", "none"], OPTIONS)
        assert runner.names == ["recorder", "chore"]
        end = start(runner)
        publish(client, stream, event(0))
        eventually(lambda: role.documents == ["d0"] and chore.piece_count == 0)
        assert end() is ExitCode.DONE
        assert client.xinfo_consumers(stream, "recorder") == []
        assert Leadership(mongo, "next", ["chore"]).attempt("chore")

    def test_another_worker_leads_when_the_leader_dies_without_a_word(
        self, deployment: Deployment, mongo: Any, parts: tuple[Recorder, Chore]
    ) -> None:
        assert Leadership(mongo, "dead", ["chore"], 300).attempt("chore")
        end = start(Runner(deployment, ["both"], OPTIONS))
        eventually(lambda: parts[1].piece_count == 0)
        assert end() is ExitCode.DONE

    def test_what_does_not_end_in_time_is_left_and_said(
        self, deployment: Deployment, parts: tuple[Recorder, Chore]
    ) -> None:
        _, chore = parts
        chore.block.clear()
        runner = Runner(deployment, ["both"], RunnerOptions(OPTIONS.loop, stop_ms=50))
        end = start(runner)
        eventually(lambda: chore.reported == ["open"])
        assert end() is ExitCode.STUCK
        chore.block.set()

    def test_a_thread_that_dies_stops_the_process_so_that_it_is_started_again(
        self, deployment: Deployment, parts: tuple[Recorder, Chore], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Loop, "run", lambda self, stop: None)
        runner = Runner(deployment, ["both"], OPTIONS)
        end: Any = start(runner)
        eventually(lambda: not end.thread.is_alive())
        assert end() is ExitCode.NOT_WELL

    def test_once_works_until_nothing_is_left(
        self, deployment: Deployment, client: Any, stream: str, parts: tuple[Recorder, Chore]
    ) -> None:
        role, chore = parts
        publish(client, stream, *map(event, range(20)))
        assert Runner(deployment, ["both"], OPTIONS).run_until_idle() is ExitCode.DONE
        assert (len(role.seen), chore.piece_count) == (20, 0)

    def test_once_waits_for_what_a_service_cannot_decide_yet_without_opening_it_again(
        self, deployment: Deployment, parts: tuple[Recorder, Chore], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chore = Undecided(looks=5)
        monkeypatch.setattr(roles, "TABLE", {"both": Work(lambda _: parts[0], lambda _: chore)})
        assert Runner(deployment, ["both"], OPTIONS).run_until_idle() is ExitCode.DONE
        assert chore.unjudged_count == 0
        assert chore.reported == ["open", "work", "close"]

    def test_once_ends_although_a_service_never_decides_and_says_so(
        self,
        deployment: Deployment,
        parts: tuple[Recorder, Chore],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(roles, "TABLE", {"both": Work(lambda _: parts[0], lambda _: Undecided(looks=10**9))})
        assert Runner(deployment, ["both"], RunnerOptions(OPTIONS.loop, settle_ms=10)).run_until_idle() is ExitCode.DONE
        assert "chore: 1 changes are not decided yet" in caplog.text

    def test_once_fails_when_something_fails_and_nothing_is_acknowledged(
        self, deployment: Deployment, client: Any, stream: str, parts: tuple[Recorder, Chore]
    ) -> None:
        (entry,) = publish(client, stream, event(0))
        parts[0].plan = always(ConnectionError("gone"))
        assert Runner(deployment, ["both"], OPTIONS).run_until_idle() is ExitCode.FAILED
        assert list(pending_ids(client, stream, "recorder")) == [entry]

    def test_a_backlog_is_worked_off_one_batch_at_a_time(
        self, deployment: Deployment, client: Any, stream: str, parts: tuple[Recorder, Chore]
    ) -> None:
        publish(client, stream, *map(event, range(25)))
        runner = Runner(deployment, ["both"], RunnerOptions(LoopOptions(batch_max=10, block_ms=1)))
        runner.run_until_idle()
        assert parts[0].calls == [10, 10, 5]

    def test_every_name_of_the_table_makes_what_it_says(self, deployment: Deployment) -> None:
        built = {name: Runner(deployment, [name], OPTIONS).names for name in roles.NAMES}
        assert built == {
            "audit": ["audit", "seal"],
            "replica": [],
            "invalidation": [],
            "recovery": ["recovery"],
            "blocks": ["blocks", "compaction"],
            "trim": ["trim"],
            "verify": ["verify"],
            "anchor": [],
        }

    def test_a_replica_that_is_configured_brings_its_copy_along(
        self, deployment: Deployment, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CC_REPLICA_DIRECTORY", str(tmp_path / "replica"))
        assert Runner(deployment, ["replica"], OPTIONS).names == ["replica", "replica-copy"]


def test_a_thread_waits_for_leadership_without_spinning() -> None:
    asked: list[float] = []

    class Counting(Lead):
        def holds(self, name: str) -> bool:
            asked.append(time.monotonic())
            return False

    _, end = serve(Chore(), Counting())
    end()
    assert len(asked) <= 3


def test_a_service_that_has_had_nothing_to_do_for_a_minute_looks_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1_000.0)
    assert [runner.idle_pause_ms(1_000, busy_s) for busy_s in (1_000.0, 941.0, 940.0, 0.0)] == [
        1_000,
        1_000,
        5_000,
        5_000,
    ]
    assert [runner.idle_pause_ms(each, 0.0) for each in (10, 200, 5_000, 10_000)] == [50, 1_000, 5_000, 10_000]
