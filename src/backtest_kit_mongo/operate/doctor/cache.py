"""A few cached entries, compared with MongoDB. `bkm cache check` compares more, and again after a while."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from backtest_kit_mongo.backends.redis.cluster import servers_of
from backtest_kit_mongo.coherence.keys import entry_pattern, parse_entry_name
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.operate.cache_check import Report, open_auditor
from backtest_kit_mongo.operate.doctor.findings import Finding, error, note, ok

SAMPLE: Final = 100
PAGE: Final = 1_000
PAGES_MAX: Final = 20
"""Keys of Redis that are passed at once, and how often."""


def entries(servers: FeedServers) -> Iterator[Finding]:
    """Whether cached entries are what MongoDB holds."""
    name = "cache.entries"
    if servers.settings.cache_mode == "id":
        yield note(name, "not compared: in cache mode `id` there are none")
        return
    keys = list(islice(_keys(servers), SAMPLE))
    report = Report()
    with open_auditor(servers.settings) as auditor:
        auditor.check(keys, report)
    wrong = [str(violation.key) for violation in report.violations]
    if wrong:
        yield error(
            name, f"{len(wrong)} of {report.checked} entries are not what MongoDB holds: {', '.join(wrong[:3])}",
            ("`bkm cache check` compares more; find out who else writes Redis or MongoDB, and delete the keys of these "
                "entries"),
        )  # fmt: skip
    else:
        yield ok(name, f"{report.checked} compared, all as MongoDB has them")


def _keys(servers: FeedServers) -> Iterator[Key]:
    pattern = entry_pattern(servers.settings.database)
    asked: Any = servers_of(servers.redis)
    for server in asked:
        cursor = 0
        for _ in range(PAGES_MAX):
            cursor, page = server.scan(cursor, match=pattern, count=PAGE)
            for name in page:
                key = parse_entry_name(name.decode(), servers.settings.database, BY_NAME)
                if key is not None and key.domain.cached:
                    yield key
            if not cursor:
                break
