"""The same study in many ways: processes, a cluster, killed workers, three hosts. The answer has to be one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from backtest_kit_mongo.testing.servers import Servers
from backtest_kit_verify.made_up import START_MS
from backtest_kit_verify.runs.study import ASKED, prepare
from backtest_kit_verify.runs.way import Seen, Task

__all__ = ["Way", "run_campaign", "run_hosts", "ways"]

MINUTE_MS = 60_000
BEFORE = 30
"""Minutes of candles before a frame."""
OnLine = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Way:
    """Attributes:
    store: "mongo" or "files".
    """

    title: str
    store: str
    kind: str = "processes"
    workers: int = 1
    kill: float = 0.0


def ways(kill: float, *, has_dask: bool) -> list[Way]:
    """The usual ones."""
    found = [Way(f"{count} processes", "mongo", workers=count) for count in (1, 2, 4)]
    if has_dask:
        found.append(Way("Dask, 2 workers", "mongo", "dask", 2))
    found.append(Way("4 processes, killed", "mongo", workers=4, kill=kill))
    found.append(Way("2 processes", "files", workers=2))
    found.append(Way("4 processes, killed", "files", workers=4, kill=kill))
    return found


@dataclass(frozen=True, slots=True)
class Study:
    """The strategy's file, the frame, how many runs, and where everything is kept."""

    file: Path
    frame: str
    runs: int
    base: Path


def made(base: Path, runs: int, minutes: int) -> Study:
    """A study over so many minutes."""
    file = prepare(base / "strategy", BEFORE + minutes)
    start = START_MS + BEFORE * MINUTE_MS
    return Study(file, f"{start}..{start + (minutes - 1) * MINUTE_MS}", runs, base)


def run_campaign(study: Study, chosen: Sequence[Way], servers: Servers, on_line: OnLine) -> list[str]:
    """Do it in each way; what does not hold, in words."""
    problems: list[str] = []
    digests: dict[str, str] = {}
    for number, way in enumerate(chosen):
        home = study.base / f"way-{number}"
        environment = _environment(home, servers if way.store == "mongo" else None, f"way-{number}")
        task = Task(str(study.file), study.frame, study.runs, way.kind, way.workers, way.kill)
        seen = _ended(_start(task, home, environment))
        on_line(_line(f"{way.title} ({way.store})", seen, study.runs))
        digests[f"{way.title} ({way.store})"] = seen.digest
        problems += [f"{way.title} ({way.store}): {one}" for one in _judge(way, seen, study.runs)]
    if len(set(digests.values())) > 1:
        problems.append(f"there are {len(set(digests.values()))} digests: {digests}")
    return problems


def run_hosts(study: Study, servers: Servers, on_line: OnLine, hosts: int = 3) -> list[str]:
    """Hosts with directories of their own and one MongoDB and Redis do it at the same time."""
    asked = study.base / "asked"
    asked.touch()
    task = Task(str(study.file), study.frame, study.runs)
    started = []
    for number in range(hosts):
        home = study.base / f"host-{number}"
        started.append(_start(task, home, _environment(home, servers, "hosts") | {ASKED: str(asked)}))
    seen = [_ended(one) for one in started]
    given = asked.read_text().split()
    for number, one in enumerate(seen):
        on_line(_line(f"host {number + 1} of {hosts}", one, study.runs))
    on_line(f"the exchange gave {len(given)} candles, {len(set(given))} different ones")
    return list(_judge_hosts(seen, given, study.runs))


def _judge_hosts(seen: Sequence[Seen], given: Sequence[str], runs: int) -> Iterator[str]:
    executed, attempts = sum(one.executed for one in seen), seen[0].attempts
    if len({digest for one in seen for digest in (one.digest, one.digest_again)}) > 1:
        yield f"hosts have {[one.digest for one in seen]}"
    if executed != runs or attempts != runs:
        yield f"{executed} runs were done and {attempts} claimed, instead of {runs}"
    if any(one.lost or one.failed or one.twice for one in seen):
        yield "a run was lost, failed or written twice"
    if len(given) != len(set(given)):
        yield f"the exchange was asked for {len(given) - len(set(given))} candles more than once"


def _judge(way: Way, seen: Seen, runs: int) -> Iterator[str]:
    if seen.lost or seen.failed:
        yield f"{seen.lost} runs are lost, {seen.failed} failed"
    if seen.twice:
        yield f"{seen.twice} runs were written more often than claimed and ended once"
    if not way.kill and seen.attempts != runs:
        yield f"{seen.attempts} claims for {runs} runs, although nobody was killed"
    if seen.executed > runs or (not way.kill and seen.executed != runs):
        yield f"{seen.executed} runs were executed of {runs}"
    if seen.again or seen.digest_again != seen.digest:
        yield f"done again, {seen.again} runs were executed, and the digest is {seen.digest_again}"
    if way.kill and seen.killed < way.kill * seen.workers_seen - 1:
        yield f"only {seen.killed} of {seen.workers_seen} workers were killed: this tried too little"


def _line(title: str, seen: Seen, runs: int) -> str:
    killed = f", {seen.killed} of {seen.workers_seen} workers killed" if seen.workers_seen else ""
    return (
        f"{title}: {seen.executed:,} of {runs:,} runs executed in {seen.elapsed_s:.1f} s "
        f"({runs / seen.elapsed_s:,.0f}/s), {seen.lost} lost, {seen.twice} twice, {seen.attempts - runs} claimed "
        f"again{killed}; once more: {seen.again} executed; digest {seen.digest}"
    )


def _environment(home: Path, servers: Servers | None, database: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CC_")}
    kept |= {"CC_CANDLE_CACHE_DIR": str(home / "cache"), "PYTHONWARNINGS": "ignore"}
    if servers is None:
        return kept
    return kept | {
        "CC_MONGO_CONNECTION_STRING": servers.mongo_connection_string(database),
        "CC_REDIS_HOST": servers.redis_host,
        "CC_REDIS_PORT": str(servers.redis_port),
    }


def _start(task: Task, home: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    home.mkdir(parents=True)
    command = [sys.executable, "-m", "backtest_kit_verify.runs.way", json.dumps(asdict(task))]
    return subprocess.Popen(
        command, cwd=home, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _ended(process: subprocess.Popen[str]) -> Seen:
    """Raises:
    RuntimeError: with what it said last.
    """
    out, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a sweep ended with {process.returncode}: {errors[-2000:]}")
    return Seen(**json.loads(out.splitlines()[-1]))
