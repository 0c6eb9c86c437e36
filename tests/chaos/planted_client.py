"""A chaos client with a bug: `python -m tests.chaos.planted_client`, the bug named by PLANTED_BUG."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.backends.redis.cache import RedisCache
from backtest_kit_mongo.backends.redis.link import Script
from backtest_kit_mongo.coherence.effects import Commit, Defer, Find, Upsert
from backtest_kit_mongo.coherence.record import Record
from backtest_kit_verify.chaos import client

PLANTED_BUG = "PLANTED_BUG"


class Edit(NamedTuple):
    """A change of one Lua script."""

    script: str
    before: str
    after: str


def edit(change: Edit) -> None:
    real = Script.__init__

    def planted(self: Script, name: str, prelude: str | None = None) -> None:
        real(self, name, prelude)
        if name == change.script:
            self.source = self.source.replace(change.before, change.after)
            self.sha = f"{name}: not cached, so the source is sent each time"

    Script.__init__ = planted  # type: ignore[method-assign]


def never_relay() -> None:
    """What was written past Redis is announced, but the old entry stays."""
    real = RedisCache.defer
    RedisCache.defer = lambda self, effect: real(self, Defer((), effect.published))  # type: ignore[method-assign]


def acknowledge_without_writing() -> None:
    """A client's first write is acknowledged and forgotten, and then every twentieth."""
    real = MongoTruth.upsert
    count = 0

    def planted(self: MongoTruth, effect: Upsert) -> Record:
        nonlocal count
        count += 1
        if count % 20 != 1:
            return real(self, effect)
        change = effect.change
        stored = self.find(Find(change.key))
        return Record(change.key, stored.rev + 1, change.payload, change.when, False, stored.id or "x")

    MongoTruth.upsert = planted  # type: ignore[method-assign]


def forget_events() -> None:
    """Every twentieth change is not reported to the feed."""
    real = RedisCache.commit
    count = 0

    def planted(self: RedisCache, effect: Commit) -> None:
        nonlocal count
        count += 1
        published: Any = effect.published if count % 20 else ()
        real(self, Commit(effect.key, effect.token, effect.entry, effect.body, published))

    RedisCache.commit = planted  # type: ignore[method-assign]


SCRIPT_BUGS = {
    "LEASE keeps the entry": Edit("lease", "redis.call('DEL', KEYS[n])\n  invalidate", "invalidate"),
    "LEASE keeps another's right": Edit("lease", "else\n    redis.call('DEL', KEYS[n + 1])\n  end", "end"),
    "LEASE always takes the right": Edit("lease", "if sole and open then", "if true then"),
    "COMMIT installs without the right": Edit("commit", "redis.call('GET', KEYS[n + 1]) == i .. ARGV[2]", "true"),
    "FILL installs without the right": Edit("fill", "redis.call('GET', KEYS[2]) ~= i .. ARGV[2]", "false"),
    "READ gives a right beside a lease": Edit("read", "leased(KEYS[3], now, tonumber(ARGV[3])) or", ""),
    "entries outlive a restart": Edit("read", "if entry and string.sub(entry, 1, 40) == i then", "if entry then"),
}
for name, change in SCRIPT_BUGS.items():
    if change.before not in Script(change.script).source:
        raise LookupError(f"{change.script}.lua no longer has what the bug {name!r} changes")

BUGS: dict[str, Callable[[], None]] = {
    **{name: partial(edit, change) for name, change in SCRIPT_BUGS.items()},
    "what was written past Redis is not relayed": never_relay,
    "a write is acknowledged and forgotten": acknowledge_without_writing,
    "an event is forgotten": forget_events,
}


def main() -> None:
    BUGS[os.environ[PLANTED_BUG]]()
    client.main()


if __name__ == "__main__":
    main()
