"""Servers as a careful operator runs them: users with few rights, passwords, TLS."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pymongo import MongoClient

from backtest_kit_mongo.embedded.binaries import find_mongod, find_redis_server
from tests.ha.support import HOST, Process, free_port
from tests.integration.support import eventually

OPS = Path(__file__).parents[2] / "ops"
DATABASES = "test_*"
"""Of all databases of the tests; an operator names one."""


def secret(user: str) -> str:
    """The password of a user of `ops/redis.acl`."""
    return f"the-very-secret-one-of-{user}"


def newest_redis() -> tuple[Path, int]:
    """The newest redis-server on this machine, and its major version: selectors need 7."""
    found = {find_redis_server()}
    found |= {Path(where) / "redis-server" for where in os.get_exec_path() if (Path(where) / "redis-server").is_file()}
    return max(((path, _major(path)) for path in found), key=lambda one: one[1])


def _major(server: Path) -> int:
    said = subprocess.run([str(server), "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"v=(\d+)", said)
    return int(version[1]) if version else 0


def acl_text(*, flat: bool) -> str:
    """The aclfile that `ops/bin/redis-acl` makes."""
    names = ("strategy", "consumer", "worker", "monitor", "replication", "operator")
    passwords = {f"BKM_{name.upper()}_PASSWORD": secret(name) for name in names}
    done = subprocess.run(
        ["sh", str(OPS / "bin" / "redis-acl"), str(OPS / "redis.acl"), *(["flat"] if flat else [])],
        env={**os.environ, **passwords, "BKM_DATABASE": DATABASES},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


class GuardedRedis:
    """A redis-server with the configuration and the users of `ops/`."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._directory = directory
        self._binary, major = newest_redis()
        self.has_selectors = major >= 7
        (directory / "users.acl").write_text(acl_text(flat=not self.has_selectors))
        self.start()

    def start(self) -> None:
        options = {
            "--port": str(self.port),
            "--bind": HOST,
            "--dir": str(self._directory),
            "--aclfile": str(self._directory / "users.acl"),
        }
        arguments = [str(OPS / "redis.conf"), *(text for pair in options.items() for text in pair)]
        operator = {"username": "operator", "password": secret("operator")}
        self.process = Process(self.port, arguments, self._directory, binary=self._binary, **operator)

    def as_user(self, user: str, **options: Any) -> Any:
        return self.process.client(username=user, password=secret(user), **options)

    @property
    def refused(self) -> list[str]:
        """What the users tried and may not, after they were authenticated. `client`: the client library introduces
        itself in ways that it can do without.
        """
        found = self.as_user("operator").acl_log()
        return [f"{entry['username']}: {entry['object']}" for entry in found if entry["object"] != "client"]


class Certificates(NamedTuple):
    """PEM files: an authority, and what it has signed. `server_both` and `client_both` hold certificate and key."""

    authority: Path
    server: Path
    server_key: Path
    server_both: Path
    client: Path
    client_key: Path
    client_both: Path
    stranger: Path


def make_certificates(directory: Path) -> Certificates:
    """As an operator makes them: an authority, a server called localhost, a client, and an authority nobody trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command")
    for where, *words in (
        ("", "server", "localhost"), ("", "client", "client"), ("strange", "client", "stranger"),
    ):  # fmt: skip
        command = ["sh", str(OPS / "bin" / "new-certs"), str(directory / where), *words]
        subprocess.run(command, capture_output=True, check=True)
    own = "authority.pem localhost.pem localhost.key localhost-both.pem client.pem client.key client-both.pem"
    return Certificates(*(directory / file for file in (*own.split(), "strange/authority.pem")))


@contextmanager
def tls_in_front_of(port: int, certificates: Certificates) -> Iterator[int]:
    """A port that speaks TLS, asks for a client's certificate, and passes on what it hears: the embedded redis-server
    is built without TLS.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server_key)
    context.load_verify_locations(certificates.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=_accept, args=(listener, context, port), daemon=True).start()
        yield int(listener.getsockname()[1])
        # Otherwise the thread would go on to wait on a number that is soon another socket's.
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, context: ssl.SSLContext, port: int) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(plain, context, port), daemon=True).start()


def _serve(plain: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with (
        plain,
        suppress(OSError),
        context.wrap_socket(plain, server_side=True) as near,
        socket.create_connection((HOST, port)) as far,
    ):
        answers = threading.Thread(target=_pass_on, args=(far, near), daemon=True)
        answers.start()
        _pass_on(near, far)
        answers.join(5)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class GuardedMongo:
    """A set of one mongod that asks for a user, with the roles of `ops/mongo-init/roles.json` for the databases of
    tests.
    """

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._process = _start_mongod(directory, self.port, "")
        _make_set(self.port, "")
        self._keeper: MongoClient[Any] = MongoClient(self._url("keeper", "admin"))
        for user in ("strategy", "consumer", "worker"):
            roles = ["clusterMonitor", {"role": "read", "db": "local"}] if user == "worker" else []
            self._keeper.admin.command("createUser", user, pwd=secret(user), roles=roles)

    def _url(self, user: str, database: str) -> str:
        return (
            f"mongodb://{user}:{secret(user)}@localhost:{self.port}/{database}?authSource=admin&directConnection=true"
        )

    def connection_string(self, user: str, database: str) -> str:
        """Of a user who has his role in this database, and in each that was asked for before."""
        given = json.loads((OPS / "mongo-init" / "roles.json").read_text())
        for name, role in given["roles"].items():
            own = f"{name}-{database}"
            if not self._keeper.admin.command("rolesInfo", own)["roles"]:
                allowed = _privileges(role, given["documents"], database)
                self._keeper.admin.command("createRole", own, privileges=allowed, roles=[])
                self._keeper.admin.command("grantRolesToUser", name.removeprefix("bkm-"), roles=[own])
        return self._url(user, database)

    def kill(self) -> None:
        self._keeper.close()
        self._process.kill()
        self._process.wait()


def _privileges(role: dict[str, list[str]], documents: list[str], database: str) -> list[dict[str, Any]]:
    """As `ops/mongo-init/init.js` makes them."""
    special = {"*documents": documents, "*database": [""]}
    on_cluster = [{"resource": {"cluster": True}, "actions": role["*cluster"]}] if "*cluster" in role else []
    return on_cluster + [
        {"resource": {"db": database, "collection": collection}, "actions": actions}
        for name, actions in role.items()
        if name != "*cluster"
        for collection in special.get(name, [name])
    ]


def _start_mongod(directory: Path, port: int, more: str) -> subprocess.Popen[bytes]:
    (directory / "data").mkdir()
    (directory / "keyfile").write_text(secret("keyfile").replace("-", ""))
    (directory / "keyfile").chmod(0o400)
    options = f"--port {port} --bind_ip {HOST} --nounixsocket --quiet --replSet rs0 --keyFile {directory}/keyfile"
    small = f"--dbpath {directory}/data --wiredTigerCacheSizeGB 0.25 --oplogSize 64"
    with (directory / "mongod.log").open("wb") as log:
        return subprocess.Popen([str(find_mongod()), *f"{options} {more} {small}".split()], stdout=log)


def _make_set(port: int, tls: str) -> None:
    """With the user `keeper`, who may everything."""
    member = {"_id": 0, "host": f"localhost:{port}"}
    # Until there is a user, whoever comes from this host may make the set and one.
    with MongoClient[Any](f"mongodb://localhost:{port}/?directConnection=true&{tls}".rstrip("&")) as client:
        client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
        eventually(lambda: client.admin.command("hello")["isWritablePrimary"])
        client.admin.command("createUser", "keeper", pwd=secret("keeper"), roles=["root"])


@contextmanager
def guarded_mongod(directory: Path, certificates: Certificates, database: str) -> Iterator[str]:
    """A set of one mongod that speaks nothing but TLS and asks for a client's certificate and a user. The answer is the
    connection string of a user with rights in one database.
    """
    port = free_port()
    files = (
        f"--tlsMode requireTLS --tlsCertificateKeyFile {certificates.server_both} --tlsCAFile {certificates.authority}"
    )
    process = _start_mongod(directory, port, files)
    tls = f"tls=true&tlsCAFile={certificates.authority}&tlsCertificateKeyFile={certificates.client_both}"
    url = f"localhost:{port}/{database}?authSource=admin&directConnection=true&{tls}"
    try:
        _make_set(port, tls)
        with MongoClient[Any](f"mongodb://keeper:{secret('keeper')}@{url}") as client:
            roles = [{"role": "readWrite", "db": database}]
            client.admin.command("createUser", "someone", pwd=secret("mongo"), roles=roles)
        yield f"mongodb://someone:{secret('mongo')}@{url}"
    finally:
        process.kill()
        process.wait()
