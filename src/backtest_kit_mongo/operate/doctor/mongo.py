"""MongoDB as a server: reachable, new enough, a replica set whose members answer, acknowledging by a majority."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pymongo
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri

from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.operate.doctor import between_hosts
from backtest_kit_mongo.operate.doctor.findings import Finding, duration, error, note, ok, said, version, warning
from backtest_kit_mongo.stored import PARKED_ITEMS

VERSION_MIN: Final = (4, 2)
"""Updates by pipeline, `$$NOW`, and change streams that go on after an invalidating change."""
TESTED: Final = ("6.0",)
"""Releases that this package's own tests run on."""
REACH_MS: Final = 5_000
ANSWERING: Final = ("PRIMARY", "SECONDARY", "ARBITER")
"""States of members that count for a majority."""
MEMBER_LAG_MS: Final = 10_000
"""A majority write waits for a member that is so far behind, if it is needed for the majority."""


def reach(servers: FeedServers) -> Iterator[Finding]:
    """Whether MongoDB answers and lets us in, and which one it is. The first finding is an error if it does not."""
    address = servers.settings.mongo_address
    bound_ms = min(servers.settings.mongo_bound_ms, REACH_MS)
    try:
        with pymongo.timeout(bound_ms / 1000):
            # Needs the right to read the database, which `ping` does not.
            servers.database[PARKED_ITEMS].find_one({}, {"_id": 1})
            found = str(servers.database.client.server_info()["version"])
    except PyMongoError as cause:
        # A time limit that ran out may be the server's word too, but it refuses nobody.
        if isinstance(cause, OperationFailure) and not cause.timeout:
            yield error("mongo.reachable", f"{address} refused: {said(cause)}", _CREDENTIALS)
            return
        yield error(
            "mongo.reachable", f"no answer from {address} within {bound_ms} ms ({type(cause).__name__})", _START
        )
        yield from between_hosts.why_unreached(servers.settings)
        return
    yield ok("mongo.reachable", f"{address}, database {servers.settings.database}")
    yield _version(found)


_CREDENTIALS: Final = (
    "check user, password and authSource in CC_MONGO_CONNECTION_STRING; the user needs readWrite on the database"
)
_START: Final = (
    "start it (`bkm up` for a laptop, `docker compose up -d --wait` for the stack) or correct "
    "CC_MONGO_CONNECTION_STRING; a name that does not "
    "resolve and TLS on one side only look like this too"
)


def _version(found: str) -> Finding:
    name, numbers = "mongo.version", version(found)
    if numbers < VERSION_MIN:
        return error(
            name, f"MongoDB {found}", f"upgrade to {TESTED[-1]} or later; below 4.2 leases and recovery do not work"
        )
    if found.startswith(tuple(f"{release}." for release in TESTED)):
        return ok(name, f"MongoDB {found}, which this package is tested with")
    return note(name, f"MongoDB {found}; tested with {', '.join(TESTED)}", "nothing, unless something else looks odd")


def write_concern(servers: FeedServers) -> Iterator[Finding]:
    """Whether the connection string weakens how writes are acknowledged."""
    given = servers.database.client.write_concern.document
    acknowledged, journaled = given.get("w", "majority"), given.get("j", True)
    seen = f"w={acknowledged}, journal={str(journaled).lower()}"
    if acknowledged != "majority" or not journaled:
        yield error(
            "mongo.write-concern", f"{seen}: a write that returned can be lost in a failover or a power cut",
            "remove w and journal from CC_MONGO_CONNECTION_STRING; then writes wait for a majority's journal",
        )  # fmt: skip
    else:
        yield ok("mongo.write-concern", seen)


def replica_set(servers: FeedServers) -> Iterator[Finding]:
    """Whether it is a replica set with a primary, and how its members are."""
    client = servers.database.client
    hello = client.admin.command("hello")
    if hello.get("msg") == "isdbgrid":
        yield note("mongo.replica-set", "a router of a sharded cluster", "look at the members on each shard")
        return
    if "setName" not in hello:
        yield error(
            "mongo.replica-set", "no replica set: no change streams, so no recovery; no retried writes",
            "start mongod with --replSet rs0 and run rs.initiate() once; one member is enough",
        )  # fmt: skip
        return
    hosts = hello.get("hosts", [])
    if len(hosts) > 1 and _is_direct(servers):
        yield warning(
            "mongo.direct", f"connected to one member only (directConnection) of {len(hosts)}",
            "name the set in CC_MONGO_CONNECTION_STRING (?replicaSet=...), or a failover stops this client",
        )  # fmt: skip
    try:
        status = client.admin.command("replSetGetStatus")
    except OperationFailure:
        names = f"{hello['setName']}: {', '.join(hosts)}, primary {hello.get('primary', 'unknown')}"
        yield note("mongo.replica-set", names, "its members' state needs the role clusterMonitor")
        return
    yield from judge_members(str(hello["setName"]), status["members"])


def _is_direct(servers: FeedServers) -> bool:
    uri = servers.settings.mongo_connection_string.get_secret_value()
    return bool(parse_uri(uri, warn=False)["options"].get("directConnection"))


def judge_members(name: str, members: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Findings of a set's members, as replSetGetStatus tells them."""
    primary = next((member for member in members if member["stateStr"] == "PRIMARY"), None)
    if primary is None:
        states = ", ".join(f"{member['name']} {member['stateStr']}" for member in members)
        yield error("mongo.replica-set", f"{name} has no primary: {states}", "start members until a majority is up")
        return
    for member in members:
        if member["stateStr"] not in ANSWERING:
            yield warning(
                "mongo.member", f"{member['name']} is {member['stateStr'].lower()}",
                "bring it back: without a majority there are no writes",
            )  # fmt: skip
        elif "optimeDate" in member:
            behind_ms = (primary["optimeDate"] - member["optimeDate"]).total_seconds() * 1000
            if behind_ms > MEMBER_LAG_MS:
                yield warning(
                    "mongo.member", f"{member['name']} is {duration(behind_ms)} behind the primary",
                    "look at its disk and network: majority writes may have to wait for it",
                )  # fmt: skip
    yield _judge_majority(name, members, str(primary["name"]))


def _judge_majority(name: str, members: Sequence[Mapping[str, Any]], primary: str) -> Finding:
    up_count = sum(member["stateStr"] in ANSWERING for member in members)
    if up_count <= len(members) // 2:
        # The primary goes on for some seconds before it notices.
        seen = f"{name}: {up_count} of {len(members)} members are up, which is no majority: writes fail"
        return error("mongo.replica-set", seen, "start members until a majority is up")
    if len(members) == 1:
        advice = "fine for a laptop; elsewhere three members, so that the loss of one disk loses nothing"
        return note("mongo.replica-set", f"{name}: one member, {primary}", advice)
    return ok("mongo.replica-set", f"{name}: {len(members)} members, primary {primary}")
