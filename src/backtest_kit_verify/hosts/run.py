"""Play scenarios on hosts, and see what each client got."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from backtest_kit_verify.chaos.checks import Evidence, Violation, check_history, stories
from backtest_kit_verify.chaos.client import Task
from backtest_kit_verify.chaos.faulty_servers import settings_of
from backtest_kit_verify.chaos.fleet import CLIENT, Fleet, Member
from backtest_kit_verify.chaos.history import History, Operation, load_history
from backtest_kit_verify.chaos.workers import WORKER
from backtest_kit_verify.chaos.workload import Workload
from backtest_kit_verify.children import Process
from backtest_kit_verify.hosts.network import HostsError, Network, network
from backtest_kit_verify.hosts.scenarios import Cut, Do, Scenario
from backtest_kit_verify.hosts.servers import HostServers

__all__ = ["Options", "Result", "judge", "run_hosts", "summary"]

HOSTS: Final = ("mongo", "redis", "a", "b", "c")
LEASE_MS: Final = 3_000
TICK_S: Final = 0.02
READY_S: Final = 120.0
CALM_S: Final = 1.0
SLOTS: Final = (("w0", "a"), ("w1", "b"), ("r0", "a"), ("r1", "b"), ("r2", "c"))
"""Two writers and three readers, and where they are."""
STALE: Final = "a stale read"


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for.

    Attributes:
        seconds: how long each scenario is played; its turns are repeated, and the last one is finished.
        has_worker: on host `c`.
    """

    seconds: float = 60.0
    seed: str = "hosts"
    keys: int = 12
    pause_ms: float = 4.0
    has_worker: bool = False
    client: Sequence[str] = CLIENT


@dataclass(frozen=True, slots=True)
class Result:
    """What a scenario came to. Stale: it began after another call had returned a newer revision.

    Attributes:
        stale: such reads, `longest_stale_ms` of them the one that was furthest behind.
        longest_write_ms: the longest that a write took that returned.
        longest_gap_ms: the longest that a writer did not get a write through.
        other: violations of other promises.
    """

    scenario: str
    seconds: float
    reads: int
    hits: int
    writes: int
    failed: int
    stale: int
    longest_stale_ms: float
    longest_write_ms: float
    longest_gap_ms: float
    other: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.stale and not self.other

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def run_hosts(
    scenarios: Sequence[Scenario], options: Options, show: Callable[[Result], None], say: Callable[[str], None]
) -> list[Result]:
    """Play them one after the other on the same servers, each in a database of its own. `say` gets where.

    Raises:
        HostsError: there can be no hosts here, a client does not come up or crashes.
    """
    results = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bkm-hosts-")))
        hosts = stack.enter_context(network(HOSTS))
        say(f"Namespaces {', '.join(host.space for host in hosts.hosts.values())}")
        servers = stack.enter_context(HostServers(hosts, directory))
        for scenario in scenarios:
            results.append(_play(scenario, options, hosts, servers, directory))
            show(results[-1])
    return results


def _play(scenario: Scenario, options: Options, hosts: Network, servers: HostServers, directory: Path) -> Result:
    journals = directory / f"journals-{scenario.name}"
    journals.mkdir()
    servers.start_redis()
    settings = {
        **settings_of(servers),
        "mongo_connection_string": servers.mongo_connection_string(scenario.name),
        "lease_ms": LEASE_MS, "mongo_timeout_ms": 2_000, "redis_retry_ms": 100,
    }  # fmt: skip
    workload = Workload(options.keys, 2)
    tasks = [
        Task(slot, 0, "writer" if slot.startswith("w") else "reader", options.seed, settings, options.keys, 2,
             options.pause_ms, str(journals / f"{slot}.0.jsonl"))
        for slot in scenario.slots
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CC_")}
    where = dict(SLOTS)
    with ExitStack() as stack:
        if options.has_worker:
            stack.enter_context(_worker(hosts, settings, environment))
        fleet = stack.enter_context(
            Fleet(tasks, options.seed, lambda slot: (*hosts.hosts[where[slot]].inside, *options.client), environment)
        )
        fleet.start()
        _await(fleet)
        began_ns = time.monotonic_ns()
        seconds = _Turns(scenario, hosts, servers, fleet).play(options.seconds)
        _await(fleet)
        _spin(fleet, CALM_S)
        fleet.dismiss()
    history = load_history(journals, _rows(workload))
    history.killed_ns = fleet.killed_ns
    result = judge(scenario.name, seconds, history, fleet.crashes, began_ns)
    if result.passed:
        shutil.rmtree(journals)
    return result


def _rows(workload: Workload) -> dict[str, list[str]]:
    return {str(scope): [str(row) for row in workload.rows if row.scope == scope] for scope in workload.ledgers}


@contextmanager
def _worker(hosts: Network, settings: dict[str, Any], environment: dict[str, str]) -> Iterator[None]:
    names = ("mongo_connection_string", "redis_host", "redis_port", "lease_ms", "mongo_timeout_ms")
    given = {f"CC_{name.upper()}": str(settings[name]) for name in names}
    command = [word.replace("audit,replica,recovery,trim", "audit,recovery,trim") for word in WORKER]
    process = Process((*hosts.hosts["c"].inside, *command), {**environment, **given})
    process.begin()
    try:
        yield
    finally:
        process.end(signal.SIGTERM, 20)


def _await(fleet: Fleet) -> None:
    deadline_s = time.monotonic() + READY_S
    while not all(one.total("reads") + one.total("writes") for one in fleet.candidates(unhurt=False)) or (
        len(fleet.candidates(unhurt=False)) < len(fleet.members)
    ):
        if fleet.crashes or time.monotonic() > deadline_s:
            raise HostsError("not all clients came up: " + "\n".join(fleet.crashes))
        _spin(fleet, TICK_S)


def _spin(fleet: Fleet, seconds: float) -> None:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        fleet.tick()
        time.sleep(TICK_S)


class _Turns:
    """Does what a scenario says, at its time."""

    def __init__(self, scenario: Scenario, hosts: Network, servers: HostServers, fleet: Fleet) -> None:
        self._scenario, self._hosts, self._servers, self._fleet = scenario, hosts, servers, fleet

    def play(self, seconds: float) -> float:
        """Turns until so much time is over, the last one to its end. How long it took."""
        began_s = time.monotonic()
        while True:
            self._turn(time.monotonic())
            if (taken_s := time.monotonic() - began_s) >= seconds - 1:
                return taken_s

    def _turn(self, began_s: float) -> None:
        events: list[tuple[float, Callable[[], None]]] = []
        for cut in self._scenario.cuts:
            events += [(cut.from_s, self._cutting(cut)), (cut.to_s, self._healing(cut))]
        events += [(do.at_s, self._doing(do)) for do in self._scenario.does]
        for at_s, event in sorted(events, key=lambda one: one[0]):
            _spin(self._fleet, began_s + at_s - time.monotonic())
            event()
        _spin(self._fleet, began_s + self._scenario.turn_s - time.monotonic())

    def _cutting(self, cut: Cut) -> Callable[[], None]:
        return lambda: self._hosts.cut(cut.who, cut.whom, there=cut.there, back=cut.back)

    def _healing(self, cut: Cut) -> Callable[[], None]:
        return lambda: self._hosts.heal(cut.who, cut.whom)

    def _doing(self, do: Do) -> Callable[[], None]:
        match do.what:
            case "kill":
                return lambda: self._for_writers(do.whom, self._fleet.kill)
            case "stop":
                return lambda: self._for_writers(do.whom, lambda one: self._fleet.stop(one, True))
            case "go-on":
                return lambda: self._for_writers(do.whom, lambda one: self._fleet.stop(one, False))
            case "restart":
                return self._servers.start_redis
            case "move":
                return lambda: self._hosts.move(do.whom)
            case "narrow" | "widen":
                return lambda: self._hosts.limit(do.whom, 600 if do.what == "narrow" else 1_500)
        raise HostsError(f"{do.what} is nothing that can be done")

    def _for_writers(self, host: str, do: Callable[[Member], None]) -> None:
        for one in self._fleet.members:
            if (one.task.slot, host) in SLOTS and one.task.role == "writer":
                do(one)


def judge(name: str, seconds: float, history: History, crashes: Sequence[str], began_ns: int) -> Result:
    """What the calls say. `began_ns`: what came before belongs to the start of the processes, and counts for promises
    only.
    """
    found = check_history(stories(history, Evidence((), (), {}, {}, is_final=False)))
    stale_ms = [violation.behind_ns / 1e6 for violation in found if violation.kind == STALE]
    others = [violation for violation in found if violation.kind != STALE]
    others += [Violation("a client crashed", "", text) for text in crashes]
    calls = [op for op in history.operations if op.began_ns >= began_ns]
    writes = [op for op in calls if op.has_written and op.ended_ns is not None]
    took_ms = [((op.ended_ns or 0) - op.began_ns) / 1e6 for op in writes]
    return Result(
        scenario=name,
        seconds=round(seconds, 1),
        reads=sum(op.is_read and op.is_observation for op in calls),
        hits=sum(op.is_hit for op in calls),
        writes=len(writes),
        failed=sum(op.is_write and not op.has_written for op in calls),
        stale=len(stale_ms),
        longest_stale_ms=round(max(stale_ms, default=0.0), 1),
        longest_write_ms=round(max(took_ms, default=0.0), 1),
        longest_gap_ms=round(_longest_gap_ms(writes), 1),
        other=tuple(f"{kind}: {count}" for kind, count in Counter(one.kind for one in others).items())
        + tuple(one.text for one in others[:3]),
    )


def _longest_gap_ms(writes: Sequence[Operation]) -> float:
    """Between two writes of a slot that returned, whichever of its processes made them."""
    ends: dict[str, list[int]] = {}
    for op in writes:
        ends.setdefault(op.process.partition(".")[0], []).append(op.ended_ns or 0)
    gaps = [after - before for times in ends.values() for before, after in pairwise(sorted(times))]
    return max(gaps, default=0) / 1e6


def summary(results: Sequence[Result]) -> str:
    """As JSON, for a file."""
    return json.dumps([result.as_json() for result in results], indent=2) + "\n"
