"""Cache mode `id`: the npm package's `_id` keys are kept up to date, and no read is answered. Node processes write such
a database without leases, so nothing but MongoDB can be believed.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import NoScriptError

from backtest_kit_mongo.backends.redis import npm_names
from backtest_kit_mongo.backends.redis.cache import RedisCache
from backtest_kit_mongo.backends.redis.link import Argument
from backtest_kit_mongo.coherence.effects import CacheRead, Commit, Fill, Right
from backtest_kit_mongo.coherence.record import Record
from backtest_kit_mongo.coherence.steps import CommitAll


class RedisIdCache(RedisCache):
    """The npm package's own cache keys, written for its sake, and the feed.

    Writes take leases and delete entries as in mode `document`, so both may run beside each other while hosts are
    switched from one to the other; nothing is installed and nothing read.
    """

    def commit(self, effect: Commit) -> None:
        found, script = self._names(effect.key), self._link.form(self._publish)
        commands: list[list[Argument]] = [["DEL", found.entry, found.right], ["ZREM", found.leases, effect.token]]
        if effect.entry.exists and effect.key.domain.cached and (name := npm_names.name(effect.key)):
            commands.append(["SET", name, effect.entry.id])
        events = self._event_arguments(effect.published)
        commands.append(["EVALSHA", script.sha, 2, found.stream, found.account, self._identity.partitions, *events])

        def send() -> Any:
            try:
                return self._link.execute_many(commands)
            except NoScriptError:  # All else was done, and may be done again.
                self._link.at(found.stream).execute("SCRIPT", "LOAD", script.source)
                return self._link.execute_many(commands)

        if not self._reach.guarded(send)[-1]:
            self._keep_events(effect.key, effect.published)

    def commit_all(self, effect: CommitAll) -> None:
        for one in effect.done:
            entry = one.entry if one.entry is not None else Record(one.key)
            self.commit(Commit(one.key, effect.token, entry, one.body, one.published))

    def read(self, effect: CacheRead) -> Record | Right:
        return Right("")

    def fill(self, effect: Fill) -> None:
        return
