"""A real Prometheus over real processes, and the shipped rules and board as data. For the tests and for
`benchmarks/board.py`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

from backtest_kit_mongo.embedded import Endpoints

ROOT = Path(__file__).resolve().parents[2]
OPS = ROOT / "ops"
RULES = OPS / "prometheus" / "alerts.yml"
BOARD = OPS / "grafana" / "dashboards" / "backtest-kit.json"
PORTS = 8
"""The demo has three hosts and itself; a host that is restarted may find its port still in use."""
Process: TypeAlias = subprocess.Popen[bytes]
BKM = (sys.executable, "-c", "from backtest_kit_mongo.cli.main import main; main()")
WORKER = (sys.executable, "-m", "backtest_kit_worker")


class Alert(NamedTuple):
    """One rule. `hold` is its `for`, "0s" if it has none."""

    name: str
    expr: str
    hold: str
    text: str


class Query(NamedTuple):
    """One query of a panel of the board."""

    panel: str
    expr: str
    legend: str


def alerts(text: str | None = None) -> list[Alert]:
    """The rules; read with a pattern, because Python has no YAML of its own and these files are uniform."""
    blocks = (RULES.read_text("utf-8") if text is None else text).split("- alert: ")[1:]
    found = []
    for block in blocks:
        expr = re.search(r"expr: (?:>-\n)?(.*?)\n +(?:for|labels):", block, re.DOTALL)
        assert expr is not None, block
        hold = re.search(r"\n +for: (\S+)", block)
        name = block.split("\n", 1)[0].strip()
        found.append(Alert(name, " ".join(expr[1].split()), hold[1] if hold else "0s", block))
    return found


def queries() -> list[Query]:
    """All queries of the board, panel by panel."""
    panels = json.loads(BOARD.read_text("utf-8"))["panels"]
    return [
        Query(panel["title"], target["expr"], target["legendFormat"])
        for panel in panels
        for target in panel.get("targets", ())
    ]


def metrics_in(text: str) -> set[str]:
    """Metrics of ours that a text names."""
    return set(re.findall(r"\bbkm_(?:store|worker)_[a-z_]+", text))


def find(program: str) -> str | None:
    return shutil.which(program)


def free_ports(count: int) -> list[int]:
    """Ports in a row, free at this moment."""
    for base in range(20_000 + os.getpid() % 10_000, 60_000, count):
        try:
            for port in range(base, base + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return list(range(base, base + count))
    raise OSError("no free ports in a row")


def ask(url: str, path: str, **parameters: Any) -> Any:
    """The `data` of a Prometheus' answer; None while it does not answer."""
    try:
        with urllib.request.urlopen(f"{url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as cause:
        if cause.code == 503:
            return None
        raise AssertionError(f"{parameters}: {cause.read().decode()}") from None
    except OSError:
        return None


class Prometheus:
    """A Prometheus of its own.

    Args:
        directory: for its data and configuration.
        jobs: ports by job.
        rules: the rules it judges.
    """

    def __init__(
        self, directory: Path, port: int, jobs: Mapping[str, Sequence[int]], rules: str, interval: str = "500ms"
    ) -> None:
        self._jobs, self._interval = dict(jobs), interval
        self._config = directory / "prometheus.yml"
        (directory / "alerts.yml").write_text(rules, "utf-8")
        self._config.write_text(self._configuration(), "utf-8")
        self.url = f"http://127.0.0.1:{port}"
        program = find("prometheus")
        assert program is not None
        command = [program, f"--config.file={self._config}", f"--storage.tsdb.path={directory / 'data'}"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn", "--web.enable-lifecycle"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _configuration(self) -> str:
        head = {"scrape_interval": self._interval, "evaluation_interval": self._interval}
        head["scrape_timeout"] = self._interval
        jobs = [
            {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
            for name, ports in self._jobs.items()
        ]
        # JSON is YAML.
        return json.dumps({"global": head, "rule_files": ["alerts.yml"], "scrape_configs": jobs})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, path: str, **parameters: Any) -> Any:
        """The `data` of an answer; None while it does not answer yet."""
        return ask(self.url, path, **parameters)

    def has_data(self, expr: str) -> bool:
        """Whether a query returns at least one number."""
        answer = self.ask("query", query=expr)
        return answer is not None and any(sample["value"][1] != "NaN" for sample in answer["result"])

    def firing(self) -> dict[str, str]:
        """Alerts by name, and their state: `pending` or `firing`."""
        answer = self.ask("alerts") or {"alerts": []}
        return {alert["labels"]["alertname"]: alert["state"] for alert in answer["alerts"]}


def environment(servers: Endpoints, database: str, **more: str) -> dict[str, str]:
    """Of a child process that uses these servers."""
    own = {
        "CC_MONGO_CONNECTION_STRING": servers.mongo_connection_string(database),
        "CC_REDIS_HOST": servers.redis_host,
        "CC_REDIS_PORT": str(servers.redis_port),
        "CC_LEASE_MS": "1500",
    }
    return {**os.environ, **own, **more}


@contextmanager
def running(command: Sequence[str], variables: Mapping[str, str], output: Path) -> Iterator[Process]:
    """A child process; ended with all of its own children, if it still runs."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, env=dict(variables), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


class Watched(NamedTuple):
    """What runs: see `watched_demo`."""

    prometheus: Prometheus
    demo: Process
    workers: list[Process]


@contextmanager
def watched_demo(
    servers: Endpoints,
    database: str,
    directory: Path,
    *,
    interval: str = "500ms",
    workers: int = 1,
    repeat: bool = False,
) -> Iterator[Watched]:
    """`bkm demo` and workers that serve metrics, and a Prometheus that scrapes them all.

    Args:
        repeat: begin the demo again whenever it has ended.
    """
    own, *rest = free_ports(1 + workers + PORTS)
    worker_ports, strategy_ports = rest[:workers], rest[workers:]
    jobs = {"worker": worker_ports, "strategy": strategy_ports}
    variables = environment(servers, database, CC_REPLICA_DIRECTORY=str(directory / "replica"))
    metrics = {"CC_METRICS_PORT": str(strategy_ports[0]), "CC_METRICS_PORT_COUNT": str(PORTS)}
    demo = (*BKM, "demo", "--database", database, "--quiet")
    command = ("sh", "-c", 'while "$@" || true; do :; done', "demo", *demo) if repeat else demo
    with ExitStack() as stack:
        rules = RULES.read_text("utf-8")
        prometheus = stack.enter_context(Prometheus(directory, own, jobs, rules, interval))
        watched = [
            stack.enter_context(
                running((*WORKER, "--metrics-port", str(port)), variables, directory / f"worker-{port}.log")
            )
            for port in worker_ports
        ]
        process = stack.enter_context(running(command, {**variables, **metrics}, directory / "demo.log"))
        yield Watched(prometheus, process, watched)


def wait_until_data(prometheus: Prometheus, wanted: Sequence[Query], within_s: float) -> list[Query]:
    """Ask until every query has returned something once; returns those that never did."""
    end_s = time.monotonic() + within_s
    missing = list(wanted)
    while missing and time.monotonic() < end_s:
        missing = [each for each in missing if not prometheus.has_data(each.expr.replace("$__rate_interval", "10s"))]
        time.sleep(0.1)
    return missing
