"""What is wrong only from another host: names that it cannot resolve, addresses that mean itself, plain text on a
network.

A client of a replica set goes to its members by the names that the set gives them, not by the one that it was given. So
a member that is called `localhost`, or by a name that one host alone knows, cannot be used from a second host although
its port answers.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from backtest_kit_mongo.connect import mongo_at
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.operate.doctor.findings import Finding, error, note, ok, warning
from backtest_kit_mongo.settings import Settings

ASK_MS: Final = 2_000
CONTAINER: Final = Path("/.dockerenv")
PLAIN, MEMBER = "hosts.plain-text", "hosts.member"

Resolve = Callable[[str], Sequence[str]]
"""From a name to its addresses; none if nobody knows it."""


def resolve(name: str) -> Sequence[str]:
    """The addresses of a name, as this host knows it."""
    try:
        return sorted({str(found[4][0]).partition("%")[0] for found in socket.getaddrinfo(name, None)})
    except (OSError, UnicodeError):
        return ()


def is_here(address: str) -> bool:
    """Whether an address is one of this host's own."""
    if ipaddress.ip_address(address).is_loopback:
        return True
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def members(servers: FeedServers) -> Iterator[Finding]:
    """Whether this host can reach each member of the set by its own name."""
    hello = servers.database.client.admin.command("hello")
    options = _parsed(servers.settings)["options"]
    yield from judge_members(
        hello.get("hosts", ()), _seeds(servers.settings), is_direct=bool(options.get("directConnection"))
    )


def judge_members(
    named: Sequence[str], seeds: Sequence[str], *, is_direct: bool, resolved: Resolve = resolve
) -> Iterator[Finding]:
    """Findings of the names of a set's members.

    Args:
        named: `host:port` of each, as the set calls them.
        seeds: hosts of the connection string.
        is_direct: the client goes to the one that it was given, whatever the set calls it.
    """
    from_here = all(address and is_here(address) for seed in seeds for address in resolved(seed) or ("",))
    well = True
    for member in named:
        host = member.rpartition(":")[0].strip("[]")
        found = resolved(host)
        if not found:
            seen = f"this host does not know the name of the member {member}"
        elif not from_here and all(ipaddress.ip_address(one).is_loopback for one in found):
            seen = f"the member {member} is called by a name that means this host itself"
        else:
            continue
        well = False
        if is_direct:
            yield note(
                MEMBER, f"{seen}; directConnection goes around that",
                "fine for a set of one; with more members a failover stops this client: give members names that all "
                "hosts resolve",
            )  # fmt: skip
        else:
            yield error(
                MEMBER, f"{seen}, so its clients here find no primary",
                "give it a name that all hosts resolve (docs/hosts.md: rs.reconfig), or put the name into /etc/hosts "
                "here; for a set of one directConnection=true will do",
            )  # fmt: skip
    if well and named:
        yield ok(MEMBER, f"{', '.join(named)}: this host knows them all")


def why_unreached(settings: Settings) -> Iterator[Finding]:
    """MongoDB was not found. Whether the names are why: those of the connection string, and those that a server which
    answers gives to the members of its set.
    """
    if settings.mongo_connection_string.get_secret_value().startswith("mongodb+srv"):
        return  # The names of its servers come from DNS already.
    seeds = _seeds(settings)
    for seed in seeds:
        if not resolve(seed):
            yield error(
                "hosts.name", f"this host does not know the name {seed} of CC_MONGO_CONNECTION_STRING",
                "correct it, or put the name into DNS or /etc/hosts",
            )  # fmt: skip
    named: Sequence[str] = ()
    for address in _parsed(settings)["nodelist"]:
        named = named or _asked(settings, *address)
    if named:
        yield from (finding for finding in judge_members(named, seeds, is_direct=False) if finding.advice)


def _asked(settings: Settings, host: str, port: int | None) -> Sequence[str]:
    """How one server calls the members of its set; needs no user."""
    options = _parsed(settings)["options"]
    tls = {name: value for name, value in options.items() if name.lower().startswith("tls")}
    with mongo_at(host, port or 27017, ASK_MS, **tls) as client:
        try:
            return tuple(client.admin.command("hello").get("hosts", ()))
        except PyMongoError:
            return ()


def mongo_plain_text(servers: FeedServers) -> Iterator[Finding]:
    """Whether what this host says to MongoDB can be read on the way."""
    if not _parsed(servers.settings)["options"].get("tls"):
        yield from judge_plain("MongoDB", _seeds(servers.settings), "tls=true in CC_MONGO_CONNECTION_STRING")


def redis_plain_text(servers: FeedServers) -> Iterator[Finding]:
    """The same of Redis."""
    settings = servers.settings
    if not settings.redis_tls:
        listed = settings.redis_cluster or settings.redis_sentinel
        hosts = [host for host, _ in listed] or [settings.redis_host]
        yield from judge_plain("Redis", hosts, "CC_REDIS_TLS=1")


def judge_plain(
    server: str, hosts: Sequence[str], remedy: str, *, resolved: Resolve = resolve, container: Path = CONTAINER
) -> Iterator[Finding]:
    """A finding if one of these hosts is another one, to which no TLS is spoken."""
    away = [host for host in hosts if not all(map(is_here, resolved(host)))]
    if not away:
        return
    seen = f"{server} at {', '.join(away)} is spoken to without TLS"
    if container.exists():
        yield note(PLAIN, f"{seen}, from a container", "fine within one machine; between hosts use TLS or a tunnel")
    else:
        yield warning(
            PLAIN, f"{seen}: passwords and positions can be read on the way, unless it is a tunnel",
            f"{remedy}, with certificates by ops/bin/new-certs (docs/hosts.md); or leave it to a "
            "tunnel such as WireGuard",
        )  # fmt: skip


def _parsed(settings: Settings) -> dict[str, Any]:
    uri = settings.mongo_connection_string.get_secret_value()
    if uri.startswith("mongodb+srv"):
        # Its servers are asked of DNS by whoever connects; TLS is on unless the string says otherwise.
        return {"nodelist": [(settings.mongo_address, None)], "options": {"tls": "tls=false" not in uri.lower()}}
    return dict(parse_uri(uri, warn=False))


def _seeds(settings: Settings) -> list[str]:
    return [str(host) for host, _ in _parsed(settings)["nodelist"]]
