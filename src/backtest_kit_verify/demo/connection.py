"""The servers of the demo: those that the environment names, or embedded ones."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from backtest_kit_mongo import embedded
from backtest_kit_mongo.settings import Settings, load

__all__ = ["LEASE_MS", "Connection", "connected", "in_database"]

CONFIGURED_BY = ("CC_MONGO_CONNECTION_STRING", "CC_REDIS_HOST", "CC_REDIS_PORT", "CC_REDIS_SENTINEL")
OPEN_REDIS = dict.fromkeys(("CC_REDIS_USER", "CC_REDIS_PASSWORD", "CC_REDIS_SENTINEL"), "")
"""Embedded servers know no users."""
LEASE_MS = 6_000
"""Unless set: a killed process then blocks caching of the key it was writing for six seconds instead of fifteen. Calls
are bounded by it too, so a shorter one would fail on a busy laptop.
"""


@dataclass(frozen=True, slots=True)
class Connection:
    """Settings for all processes of the demo, as environment variables.

    Attributes:
        note: for people: whose servers they are.
    """

    variables: Mapping[str, str]
    note: str

    def environment(self) -> dict[str, str]:
        """The whole environment of a child."""
        return {**os.environ, **self.variables}

    def __repr__(self) -> str:
        return f"<connection {self.note}>"  # The connection string may hold a password.


@contextmanager
def connected(database: str) -> Iterator[Connection]:
    """Where the servers are; embedded ones are started when none are configured, and stopped at the end if started.

    The demo has a database of its own on whatever server it is, so it never meets the data of a strategy.

    Raises:
        EmbeddedError: the embedded servers cannot be started.
        InvalidSetting: a setting in the environment does not fit.
    """
    lease_ms = os.environ.get("CC_LEASE_MS", str(LEASE_MS))
    settings = load(lease_ms=lease_ms)
    if any(name in os.environ for name in CONFIGURED_BY):
        uri = in_database(settings.mongo_connection_string.get_secret_value(), database)
        note = f"MongoDB at {settings.mongo_address}, Redis at {settings.redis_address}"
        yield Connection(_variables(settings, uri, settings.redis_host, settings.redis_port), note)
        return
    servers = embedded.up(settings.embedded_dir)
    try:
        uri = servers.mongo_connection_string(database)
        how = "embedded servers, started" if servers.started_here else "embedded servers that ran already"
        note = f"{how} (data in {servers.directory})"
        yield Connection({**_variables(settings, uri, servers.redis_host, servers.redis_port), **OPEN_REDIS}, note)
    finally:
        if servers.started_here:
            embedded.down(servers.directory)


def _variables(settings: Settings, uri: str, redis_host: str, redis_port: int) -> dict[str, str]:
    return {
        "CC_MONGO_CONNECTION_STRING": uri,
        "CC_REDIS_HOST": redis_host,
        "CC_REDIS_PORT": str(redis_port),
        "CC_LEASE_MS": str(settings.lease_ms),
        "CC_EMBEDDED": "0",
    }


def in_database(uri: str, database: str) -> str:
    """The connection string with another default database; the user is still looked up where it was."""
    parts = urlsplit(uri)
    options = parse_qsl(parts.query, keep_blank_values=True)
    names = {name.lower() for name, _ in options}
    if parts.username is not None and not names & {"authsource", "authmechanism"}:
        options.append(("authSource", unquote(parts.path.lstrip("/")) or "admin"))
    return parts._replace(path=f"/{quote(database, safe='')}", query=urlencode(options)).geturl()
