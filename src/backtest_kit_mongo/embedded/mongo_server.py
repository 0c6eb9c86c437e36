"""The embedded mongod: one node, but a replica set, because transactions and change streams need one."""

from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from backtest_kit_mongo.connect import mongo_at

from .binaries import find_mongod
from .processes import HOST, NotReadyError, Program

__all__ = ["MONGO", "REPLICA_SET"]

REPLICA_SET = "rs0"

CLIENT_TIMEOUT_MS = 2_000
NOT_YET_INITIALIZED = 94


def _arguments(data: Path, port: int) -> list[str]:
    return [
        *("--dbpath", str(data), "--port", str(port), "--bind_ip", HOST, "--replSet", REPLICA_SET),
        *("--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "256"),
        # Without this the journal holds two spare files of 100 MB in every data directory.
        *("--wiredTigerEngineConfigString", "log=(prealloc=false)"),
        # A socket file in /tmp would stay behind after SIGKILL; diagnostic data would grow to 200 MB.
        *("--quiet", "--nounixsocket", "--setParameter", "diagnosticDataCollectionEnabled=false"),
        # Of a step whose process was killed in the middle, the documents are free again after this time and a half.
        *("--setParameter", "transactionLifetimeLimitSeconds=5"),
    ]


def _client(port: int) -> "MongoClient[dict[str, Any]]":
    return mongo_at(HOST, port, CLIENT_TIMEOUT_MS)


def _ask(port: int) -> str:
    try:
        with _client(port) as client:
            return str(client.admin.command("buildInfo")["version"])
    except PyMongoError as error:
        raise NotReadyError(str(error)) from error


def _settle(port: int) -> None:
    """Make the node the primary of a set whose only member is this very port."""
    try:
        with _client(port) as client:
            _configure(client, f"{HOST}:{port}")
            if not client.admin.command("hello").get("isWritablePrimary"):
                raise NotReadyError("it is not the primary yet")
    except PyMongoError as error:
        # mongod first looks for itself in the set's configuration, and until then refuses these commands.
        raise NotReadyError(
            f"it refuses to set up its replica set, which takes half a minute if another program uses"
            f" its former port ({error})"
        ) from error


def _configure(client: "MongoClient[dict[str, Any]]", host: str) -> None:
    try:
        config = client.admin.command("replSetGetConfig")["config"]
    except OperationFailure as error:
        if error.code != NOT_YET_INITIALIZED:
            raise
        client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [{"_id": 0, "host": host}]})
        return
    member = config["members"][0]
    if member["host"] != host:
        # The set was made on another port: the node finds itself in no member and serves nobody. Nobody can be asked
        # for a majority, hence `force`; there is no other member that could disagree.
        moved = {**config, "version": config["version"] + 1, "members": [{**member, "host": host}]}
        client.admin.command("replSetReconfig", moved, force=True)


def _errors(lines: list[str]) -> list[str]:
    """An aborting mongod ends its log with a long backtrace; the cause is in the error and fatal lines above it."""
    return [line for line in lines if '"s":"E"' in line or '"s":"F"' in line]


MONGO = Program(
    key="mongo",
    executable="mongod",
    find=find_mongod,
    arguments=_arguments,
    ask=_ask,
    settle=_settle,
    errors=_errors,
)
