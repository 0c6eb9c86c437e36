"""A PostgreSQL for one test process, from the system's package."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from backtest_kit_mongo.embedded.processes import free_port
from backtest_kit_mongo.testing.servers import UnavailableError

READY_S = 60.0
_UNTIL_CALLER_ENDS = '"$@" & server=$!; cat >/dev/null; kill -QUIT $server; wait $server'
"""Its input is a pipe that nobody writes to, which ends with the caller however that ends."""


@contextmanager
def private_postgres() -> Iterator[str]:
    """The connection string of a server that nobody else uses; it and its data are gone after the block.

    Raises:
        UnavailableError: it is not installed, or does not start.
    """
    if find_spec("psycopg") is None:
        raise UnavailableError("psycopg is not installed: pip install 'backtest-kit-mongo[postgres]'")
    programs = _programs()
    with tempfile.TemporaryDirectory(prefix="bkm-postgres-", ignore_cleanup_errors=True) as directory:
        data, user = Path(directory) / "data", _user()
        if user is not None:
            shutil.chown(directory, user)
        try:
            options = ["-D", str(data), "-U", "bkm", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
            subprocess.run([programs / "initdb", *options], user=user, cwd=directory, check=True, capture_output=True)
        except subprocess.CalledProcessError as cause:
            raise UnavailableError(f"initdb: {cause.stderr.decode(errors='replace')[-300:]}") from cause
        with running(programs, data, user) as port:
            yield f"postgresql://bkm@127.0.0.1:{port}/postgres"


@contextmanager
def running(programs: Path, data: Path, user: str | None, port: int | None = None) -> Iterator[int]:
    """A server over this data, and its port."""
    port = port or free_port()
    places = ["-D", str(data), "-k", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1"]
    log = (data / "log.txt").open("ab")
    with log, subprocess.Popen(
        ["sh", "-c", _UNTIL_CALLER_ENDS, "sh", str(programs / "postgres"), *places],
        stdin=subprocess.PIPE, stdout=log, stderr=log, user=user, cwd=data, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            _wait(programs, port, process, data)
            yield port
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def _wait(programs: Path, port: int, process: subprocess.Popen[bytes], data: Path) -> None:
    end_s = time.monotonic() + READY_S
    ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(ready, check=False).returncode:
        if process.poll() is not None or time.monotonic() > end_s:
            raise UnavailableError(f"postgres does not start: {(data / 'log.txt').read_text('utf-8')[-300:]}")
        time.sleep(0.05)


def _programs() -> Path:
    """Where the server's programs are; Debian keeps them out of the path."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = debian[-1] if debian else shutil.which("initdb")
    if found is None:
        raise UnavailableError("there is no PostgreSQL here: apt-get install postgresql")
    return Path(found).resolve().parent


def _user() -> str | None:
    """Whom it runs as; it refuses to be root."""
    return None if os.geteuid() else "postgres"
