"""Every name in Redis. p is the partition, db the MongoDB database; parts are escaped, so contexts never collide.

| name                       | type   | written by            | deleted by                 | evictable | meaning |
|----------------------------|--------|-----------------------|----------------------------|-----------|---------|
| {bk:p}:db:e:domain:parts   | string | COMMIT, FILL          | LEASE, RELAY, its TTL      | yes       | E, the entry: incarnation, record header, payload |
| {bk:p}:db:f:domain:parts   | string | LEASE, MISS           | LEASE, RELAY, its TTL      | yes       | F, the one right to install: incarnation, token |
| {bk:p}:db:l:domain:parts   | zset   | LEASE                 | COMMIT, ABORT, any purge   | never     | L, leases: token -> deadline in Redis' own ms. No TTL, so no `volatile-*` policy takes it |
| {bk:p}:db:n:domain         | string | LEASE, COMMIT, RELAY  | nobody                     | never     | how many invalidations the channel of the domain has carried |
| {bk:p}:db:i:domain         | channel| LEASE, COMMIT, RELAY  |                            |           | invalidations for near caches: number, space, name of the entry |
| {bk:p}:db:h:process        | channel| HEARTBEAT                  |                            |           | answers to one process's heartbeats: when asked, B, numbers |
| {bk:p}:db:b                | string | LEASE, MISS, HEARTBEAT     | FLUSH                      | never     | B, the incarnation and when it was first seen |
| {bk:p}:db:o:deployment     | string | CLAIM                 | FLUSH                      | never     | O, the era of the database that this Redis is in, and how far MongoDB had counted in it |
| {bk:0}:db:new              | string | `bkm up`              | FLUSH                      | never     | the identity of a memory that began empty, together with its MongoDB |
| {bk:p}:db:t:deployment     | string | READ                  | its TTL, FLUSH             | yes       | T, the token: incarnation, until when entries are served |
| {bk:p}:db:s                | stream | COMMIT, PUBLISH       | the worker, once acknowledged | never  | S, change events: fields `e` (header) and `p` (payload) |
| {bk:p}:db:a                | string | COMMIT, PUBLISH, SIZE | FLUSH                   | never     | A, the account of S: how many bytes it holds, and may hold |
| <original's own name>      | string | id mode only          | nobody                     | yes       | `_id` for the npm package; no protocol depends on it |

All keys of one script carry the same hash tag, so Redis Cluster keeps them on one node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote
from zlib import crc32

from backtest_kit_mongo.coherence.record import Domain, Key, Part

LIVE, BACKTEST = "live", "backtest"


class Names(NamedTuple):
    """The Redis keys of one document or scope, and its channel: five of its own in the order in which scripts take
    them, and those of its partition.
    """

    entry: str
    right: str
    leases: str
    numbers: str
    channel: str
    born: str
    stream: str
    account: str


def text(part: Part) -> str:
    """A key part as text. Columns have one type each, so texts of different values differ."""
    if isinstance(part, bool):
        return BACKTEST if part else LIVE
    return part if isinstance(part, str) else str(part)


@lru_cache(maxsize=65_536)
def names(database: str, partitions: int, domain: str, parts: tuple[Part, ...]) -> Names:
    """Redis keys of a document. Cached, because the hot read would spend more on escaping than on decoding."""
    label = ":".join((domain, escaped(parts)))
    prefix = _prefix(partition(label, partitions), database)
    return Names(
        f"{prefix}:e:{label}", f"{prefix}:f:{label}", f"{prefix}:l:{label}", f"{prefix}:n:{domain}",
        f"{prefix}:i:{domain}", f"{prefix}:b", f"{prefix}:s", f"{prefix}:a",
    )  # fmt: skip


@lru_cache(maxsize=65_536)
def script_names(
    database: str, partitions: int, deployment: str, domain: str, parts: tuple[Part, ...]
) -> tuple[str, ...]:
    """What the scripts of a write take: the partition's names, O among them, and a document's own. Cached as `names`."""
    found = names(database, partitions, domain, parts)
    return (found.born, found.stream, found.account, era_name(found.born, deployment), *found[:5])


def escaped(parts: tuple[Part, ...]) -> str:
    """Key parts as one text, from which they could be distinguished again."""
    return ":".join(quote(text(part), safe="") for part in parts)


def partition(label: str, partitions: int) -> int:
    """Stable over processes, machines and releases: changing it would orphan leases that are still live."""
    return crc32(label.encode()) % partitions


def _prefix(partition: int | str, database: str) -> str:
    return f"{{bk:{partition}}}:{quote(database, safe='')}"


class Channels(NamedTuple):
    """What a process listens to in one partition: its own heartbeats' answers and, in step with `numbers`, invalidations."""

    heartbeats: str
    born: str
    numbers: tuple[str, ...]
    invalidations: tuple[str, ...]


def channels(database: str, partitions: int, domains: Iterable[str], process: str) -> tuple[Channels, ...]:
    """The near cache's channels, by partition. `process` is a name that no other process uses."""
    chosen = tuple(domains)
    prefixes = [_prefix(p, database) for p in range(partitions)]
    return tuple(
        Channels(
            f"{prefix}:h:{process}",
            f"{prefix}:b",
            tuple(f"{prefix}:n:{name}" for name in chosen),
            tuple(f"{prefix}:i:{name}" for name in chosen),
        )
        for prefix in prefixes
    )


@lru_cache(maxsize=4_096)
def era_name(born: str, deployment: str) -> str:
    """O of a deployment in the partition of a `born` key."""
    return f"{born[:-1]}o:{deployment}"


@lru_cache(maxsize=4_096)
def token_name(born: str, deployment: str) -> str:
    """T of a deployment in the partition of a `born` key."""
    return f"{born[:-1]}t:{deployment}"


def partition_names(database: str, partition: int) -> tuple[str, str]:
    """B and S of a partition."""
    prefix = _prefix(partition, database)
    return f"{prefix}:b", f"{prefix}:s"


def new_name(born: str) -> str:
    """Where it stands that a memory is new, in the partition of a `born` key. `bkm up` says so in the first one."""
    return f"{born[:-1]}new"


def streams(database: str, partitions: int) -> tuple[str, ...]:
    """The change feed's streams, one per partition."""
    return tuple(f"{_prefix(p, database)}:s" for p in range(partitions))


def own_stream(database: str, collection: str) -> str:
    """The change events of a user's own collection."""
    return f"{_prefix(0, database)}:own:{quote(collection, safe='')}"


def own_map(database: str, prefix: str, key: str) -> str:
    """An entry of a user's own map."""
    return f"{_prefix(0, database)}:map:{quote(prefix, safe='')}:{quote(key, safe='')}"


def account_name(stream: str) -> str:
    """A of a stream."""
    return f"{stream[:-1]}a"


def entry_pattern(database: str) -> str:
    """A SCAN pattern for the names of a database's entries. Quoting leaves no character that is special in a pattern."""
    return f"{_prefix('*', database)}:e:*"


def lease_pattern(database: str) -> str:
    """A SCAN pattern for the names of a database's leases."""
    return f"{_prefix('*', database)}:l:*"


def parse_entry_name(name: str, database: str, domains: Mapping[str, Domain]) -> Key | None:
    """The key of an entry by its name; None if it is no entry of this database."""
    head, _, label = name.partition(f"}}:{quote(database, safe='')}:e:")
    domain_name, _, parts = label.partition(":")
    domain = domains.get(domain_name)
    if domain is None or not head.startswith("{bk:"):
        return None
    texts = [unquote(part) for part in parts.split(":")] if parts or len(domain.key) == 1 else []
    if len(texts) > len(domain.key):
        return None
    return Key(domain, tuple(_part(value, column.type) for value, column in zip(texts, domain.key, strict=False)))


def _part(value: str, kind: type) -> Part:
    if kind is bool:
        return value == BACKTEST
    return int(value) if kind is int else value
