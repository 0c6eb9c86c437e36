"""The compose file, without Docker: image versions, and health checks that cost next to nothing."""

from __future__ import annotations

import re
import resource
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Final

import pytest

from backtest_kit_mongo.embedded import Endpoints

ROOT: Final = Path(__file__).parents[1]
COMPOSE: Final = (ROOT / "docker-compose.yml").read_text("utf-8")
CPU_S_MAX: Final = 0.1
SAFE: Final = {
    "mongo": (7, 0, 35),
    "redis": (7, 2, 16),
    "grafana/grafana": (12, 4, 2),
}
"""The first patch release of each series without a known critical fault: memory disclosed before authentication, code
run by a Lua script or a TLS handshake, code run by an SQL expression.
"""


def cost_s(*command: str) -> tuple[int, float]:
    """A command's exit status, and the processor time that it and its children took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.returncode, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_images_are_pinned_to_one_release_without_a_known_critical_fault() -> None:
    pins = re.findall(r"\$\{[A-Z_]+IMAGE:-([a-z0-9_/]+):v?([^}]+)\}", COMPOSE)
    assert len(set(pins)) == 7
    for image, version in pins:
        assert re.match(r"\d+\.\d+\.\d+(-|$)", version), f"{image}:{version} is not one release"
        found = tuple(map(int, version.split("-")[0].split(".")))
        assert found >= SAFE.get(image, ()), f"{image}:{version} has a known critical fault"
    for image, version in re.findall(r"#[A-Z]+_IMAGE=([a-z]+):(\S+)", (ROOT / "ops" / "env.example").read_text()):
        assert f"{image}:{version}}}" in COMPOSE


def test_no_health_check_starts_an_interpreter() -> None:
    checks = re.findall(r"test:((?:\s+- .+)+|.+)", COMPOSE)
    assert len(checks) == 6
    assert not [check for check in checks if re.search(r"mongosh|python|backtest-kit-worker|bkm", check)]


@pytest.mark.live
def test_mongods_health_check_knows_a_member_that_serves_and_costs_little(servers: Endpoints) -> None:
    port = servers.mongo_url.split(":")[-1].split("/")[0]
    status, spent_s = cost_s("bash", str(ROOT / "ops" / "bin" / "mongo-check"), port)
    assert (status, spent_s < CPU_S_MAX) == (0, True)
    assert cost_s("bash", str(ROOT / "ops" / "bin" / "mongo-check"), "1")[0] != 0


@pytest.mark.parametrize(("answer", "healthy"), [(200, True), (503, False)])
def test_the_workers_health_check_asks_the_worker_itself_and_costs_little(answer: int, healthy: bool) -> None:
    class Worker(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    script = re.search(r'- "(exec 3<> /dev/tcp/127\.0\.0\.1/9100 .+)"', COMPOSE)
    assert script
    with HTTPServer(("127.0.0.1", 0), Worker) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        command = script[1].replace("\\\\", "\\").replace("/9100", f"/{server.server_port}")
        status, spent_s = cost_s("bash", "-c", command)
    assert (status == 0, spent_s < CPU_S_MAX) == (healthy, True)
