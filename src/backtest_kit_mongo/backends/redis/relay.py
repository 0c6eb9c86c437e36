"""RELAY: tell a Redis of changes that its entries may not know of, many in one packet."""

from __future__ import annotations

from collections.abc import Sequence

from redis.exceptions import NoScriptError

from backtest_kit_mongo.backends.redis.link import Argument, Link, Script
from backtest_kit_mongo.coherence.keys import Names

RELAY_MAX = 500
"""In one packet, so that it stays within the command's time bound."""


def relay(link: Link, script: Script, changes: Sequence[tuple[Names, int | None]]) -> None:
    """Delete the entries older than a revision (None: whatever they are) and the rights to install one. Repeating it is
    harmless.

    Raises:
        redis.RedisError, OSError: Redis cannot be used; any part of it may have been done.
    """
    sent = link.form(script)
    for start in range(0, len(changes), RELAY_MAX):
        page = changes[start : start + RELAY_MAX]
        commands: list[list[Argument]] = [
            ["EVALSHA", sent.sha, 5, *names[:5], "" if rev is None else f"{rev:016x}"] for names, rev in page
        ]
        try:
            link.execute_many(commands)
        except NoScriptError:
            for server in {link.at(names.entry) for names, _ in page}:
                server.execute("SCRIPT", "LOAD", sent.source)
            link.execute_many(commands)
