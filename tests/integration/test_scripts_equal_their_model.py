"""The Lua scripts do what `MemoryCache` does: the simulator and the proof speak of the model, Redis executes the
scripts.

hypothesis draws operations; each is done to a real redis-server, through `RedisCache` and the shipped scripts, and to
the model; answers and contents are compared after each. Only the two functions in the scripts' prelude that look at the
server itself, its identity and its clock, are replaced by ones that a test can set.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.integration.support import settings_for

from backtest_kit_mongo import embedded
from backtest_kit_mongo.backends.memory_cache import MemoryCache, MemoryRedis, Outdated
from backtest_kit_mongo.backends.redis.cache import RedisCache
from backtest_kit_mongo.backends.redis.entry import parse_entry
from backtest_kit_mongo.backends.redis.identity import FixedIdentity
from backtest_kit_mongo.backends.redis.link import RedisLink, Script
from backtest_kit_mongo.backends.redis.options import CacheOptions
from backtest_kit_mongo.backends.redis.relay import relay
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.events import Origin, decode
from backtest_kit_mongo.coherence.keys import Names, names
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.coherence.steps import CommitAll, Done, LeaseAll
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.errors import WriteRefused
from backtest_kit_mongo.servers import redis_client

pytestmark = pytest.mark.live

DATABASE = "scripts"
LEASE_MS, WRITE_MS = 100, 50
KEYS = (Key(STATE, ("signal", "a")), Key(STATE, ("signal", "b")))
SEAMS = {
    "incarnation": "redis.call('GET', 'test:incarnation')",
    "now_ms": "tonumber(redis.call('GET', 'test:now_ms'))",
}
OF_ONE_ERA = ("lease", "commit", "read", "fill", "lease_all", "commit_all")
"""The steps that are reported the client's era."""
Saved = tuple[MemoryRedis, dict[str, Any]]
Edit = tuple[str, str, str]
"""A planted difference: in which file, what, by what it is replaced."""


def seamed(name: str, edit: Edit | None = None) -> Script:
    """A shipped script whose identity and clock the test sets; with `edit`, no longer what was shipped."""
    body = Script(name, prelude="").source
    prelude = Script(name).source.removesuffix(body)
    for function, expression in SEAMS.items():
        pattern = rf"local function {function}\(\).*?^end"
        seam = f"local function {function}() return {expression} end"
        prelude, count = re.subn(pattern, seam, prelude, flags=re.DOTALL | re.MULTILINE)
        assert count == 1
    script = Script(name, prelude=prelude)
    if edit and edit[0] in (name, "prelude"):
        if edit[1] not in script.source:
            raise LookupError(f"{edit[0]}.lua no longer has what {edit} changes")
        script.source = script.source.replace(edit[1], edit[2])
        script.sha = hashlib.sha1(script.source.encode(), usedforsecurity=False).hexdigest()
    return script


class LastToken:
    """Tokens of the real cache. The model takes the one that the real cache has just drawn, if it needs one."""

    def __init__(self) -> None:
        self._count = 0

    def fresh(self) -> str:
        self._count += 1
        return str(self)

    def __str__(self) -> str:
        return f"token{self._count}"

    def __iter__(self) -> Iterator[str]:
        while True:
            yield str(self)


class Pair:
    """A real Redis and its model, side by side."""

    def __init__(self, endpoints: embedded.Endpoints, edit: Edit | None = None) -> None:
        chosen = settings_for(endpoints, DATABASE)
        self.client = redis_client(chosen)
        self.tokens = LastToken()
        options = CacheOptions(DATABASE, 1, LEASE_MS, WRITE_MS, chosen.cache_ttl_ms, 1, False, Origin("host", 1))
        self.identity = FixedIdentity(1, LEASE_MS, era_of(0))
        self.real = RedisCache(
            RedisLink(self.client),
            options,
            identity=self.identity,
            script=lambda name: seamed(name, edit),
            wall_ns=lambda: 0,
            monotonic_s=lambda: self.redis.now_ms / 1000,
        )
        stand_in: Any = self.tokens
        self.real._tokens = stand_in
        self.reset()

    def reset(self) -> None:
        self.redis = MemoryRedis(now_ms=1_000_000)
        self.model = MemoryCache(self.redis, iter(self.tokens), LEASE_MS, WRITE_MS)
        self.identity.era, self.model.era = era_of(0), 0
        self.client.delete(*self.names())
        self.set_clock_and_identity()

    def close(self) -> None:
        self.client.delete(*self.names(), "test:incarnation", "test:now_ms", self.era_key)
        self.real.close()
        self.client.close()

    def names(self) -> list[str]:
        return list(dict.fromkeys(name for key in KEYS for name in self.names_of(key)))

    def names_of(self, key: Key) -> Names:
        return names(DATABASE, 1, key.domain.name, key.parts)

    @property
    def era_key(self) -> str:
        return self.identity.name(self.names_of(KEYS[0]).born)

    def set_clock_and_identity(self) -> None:
        memory = self.redis.incarnation - self.redis.era
        self.client.mset(
            {
                "test:incarnation": f"{memory:024x}".ljust(40, "f"),
                "test:now_ms": self.redis.now_ms,
                self.era_key: f"{era_of(self.redis.era)}7",
            }
        )

    def begin_era(self, *, reported: bool) -> None:
        """The database was set back; with `reported`, this client knows."""
        self.redis.begin_era()
        self.set_clock_and_identity()
        if reported:
            self.identity.era, self.model.era = era_of(self.redis.era), self.redis.era

    def ask(self, method: str, effect: fx.Effect[Any]) -> Any:
        """Perform an effect on both sides and compare the answers. A client that learns that its era is over did
        nothing, and learns the era.
        """
        if method in OF_ONE_ERA and self.model.era not in (None, self.redis.era):
            with suppress(fx.CacheDown, WriteRefused):
                assert getattr(self.real, method)(effect) in (None, fx.Right("", is_bypass=True))
            with pytest.raises(Outdated):
                getattr(self.model, method)(effect)
            self.identity.era, self.model.era = era_of(self.redis.era), self.redis.era
            self.compare()
        real = getattr(self.real, method)(effect)
        model = getattr(self.model, method)(effect)
        if isinstance(real, fx.Leased) and isinstance(model, fx.Leased):
            assert real.deadline_s == pytest.approx(model.deadline_s)
            real, model = real._replace(deadline_s=0.0), model._replace(deadline_s=0.0)
        assert real == model, effect
        return real

    def compare(self) -> None:
        pipe: Any = self.client.pipeline(transaction=False)
        for key in KEYS:
            found = self.names_of(key)
            pipe.get(found.entry).pttl(found.entry).get(found.right).zrange(found.leases, 0, -1, withscores=True)
        *held, born, stream, number = pipe.get(found.born).xrange(found.stream).get(found.numbers).execute()
        redis = self.redis
        assert int(number or 0) == redis.numbers.get(STATE.name, 0), "invalidations"
        for key in KEYS:
            entry, ttl_ms, right, leases, *held = held
            assert (entry and (incarnation_of(entry), parse_entry(key, entry))) == redis.entries.get(key)
            assert not entry or ttl_ms > 0, "an entry without a TTL could not be evicted"
            assert stamped(right) == redis.rights.get(key)
            assert {token.decode(): int(end) for token, end in leases} == redis.leases.get(key, {})
        assert stamped(born) == (redis.born and (redis.born[0], str(redis.born[1])))
        events = [decode(fields) for _, fields in stream]
        assert [(event.operation, event.rev, event.document, event.body) for event in events] == [
            (change.operation, change.record.rev, change.record.id, change.body) for change in redis.stream
        ]

    def save(self) -> Saved:
        redis = self.redis
        leases = {key: dict(held) for key, held in redis.leases.items()}
        held = replace(
            redis, entries=dict(redis.entries), rights=dict(redis.rights), leases=leases, stream=[*redis.stream],
            numbers=dict(redis.numbers),
        )  # fmt: skip
        return held, {name: self.client.dump(name) for name in self.names()}

    def restart(self, saved: Saved) -> None:
        """Both come back with what was saved, as another incarnation."""
        held, dumped = saved
        self.redis.leases = {key: dict(leases) for key, leases in held.leases.items()}
        self.redis.entries, self.redis.rights = dict(held.entries), dict(held.rights)
        self.redis.stream, self.redis.born = [*held.stream], held.born
        self.redis.numbers = dict(held.numbers)
        self.redis.restart()
        self.client.delete(*self.names())
        for name, value in dumped.items():
            if value is not None:
                self.client.restore(name, 60_000 if ":e:" in name else 0, value)
        self.set_clock_and_identity()


def era_of(number: int) -> str:
    return f"{number:016x}"


def incarnation_of(raw: bytes) -> int:
    """Of what is stamped with a memory and an era."""
    return int(raw[:24], 16) + int(raw[24:40], 16)


def stamped(raw: Any) -> tuple[int, str] | None:
    return None if raw is None else (incarnation_of(raw), raw[40:].decode())


A_KEY = st.sampled_from((0, 0, 0, 1))
"""Plain numbers and tuples, so that a failing list of operations can be read."""
A_TOKEN = st.sampled_from((0, 0, 0, 1, 2, 3))
"""How many tokens ago it was given."""
Fields = tuple[int, Any, int | None, bool, str]
A_RECORD = st.tuples(
    st.integers(0, 4),
    st.none() | st.fixed_dictionaries({"data": st.integers(0, 3)}),
    st.none() | st.integers(-1, 1),
    st.booleans(),
    st.sampled_from(("", "id", "ü")),
)
"""Revision, payload, when, removed, id."""
SOME_RECORDS = st.lists(A_RECORD, max_size=2)
SEEN_MS_AGO = st.sampled_from((0, LEASE_MS, LEASE_MS + 1, LEASE_MS + 1))
AN_OPERATION = st.one_of(
    st.tuples(st.just("write"), A_KEY, A_RECORD),
    st.tuples(st.just("write"), A_KEY, A_RECORD),
    st.tuples(st.just("read"), A_KEY),
    st.tuples(st.just("miss"), A_KEY),
    st.tuples(st.just("lease"), A_KEY, st.booleans()),
    st.tuples(st.just("lease"), A_KEY, st.booleans()),
    st.tuples(st.just("commit"), A_TOKEN, A_RECORD, SOME_RECORDS, st.booleans()),
    st.tuples(st.just("commit"), A_TOKEN, A_RECORD, SOME_RECORDS, st.booleans()),
    st.tuples(st.just("fill"), A_TOKEN, A_RECORD),
    st.tuples(st.just("abort"), A_TOKEN),
    st.tuples(st.just("defer"), st.sets(A_KEY), SOME_RECORDS),
    st.tuples(st.just("publish"), SOME_RECORDS),
    st.tuples(st.just("lease_all")),
    st.tuples(st.just("commit_all"), A_TOKEN, A_RECORD, st.none() | A_RECORD, st.booleans()),
    st.tuples(st.just("commit_all"), A_TOKEN, A_RECORD, st.none() | A_RECORD, st.booleans()),
    st.tuples(st.just("relay"), A_KEY, st.none() | st.integers(0, 4)),
    st.tuples(st.just("wait"), st.sampled_from((-LEASE_MS, 1, LEASE_MS - 1, LEASE_MS, LEASE_MS + 1))),
    st.tuples(st.just("evict"), A_KEY, st.booleans()),
    st.tuples(st.just("restart"), st.booleans(), SEEN_MS_AGO),
    st.tuples(st.just("restart"), st.just(True), SEEN_MS_AGO),
    st.tuples(st.sampled_from(("save", "flush", "open", "correct_the_clock"))),
    st.tuples(st.just("era"), st.booleans(), SEEN_MS_AGO),
)


def published(records: Iterable[Fields]) -> tuple[fx.Published, ...]:
    """Events of such records; only a change of a document that exists is ever published."""
    changed = (Record(KEYS[0], max(1, fields[0]), *fields[1:4], fields[4] or "d") for fields in records)
    return tuple(fx.Published(record, "upsert", pack(record.payload)) for record in changed)


class Play:
    """Operations on both sides. Steps use tokens that were given before, in any order and as often as drawn."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.given: list[tuple[Key, str]] = [(KEYS[0], "never given")]
        pair.reset()
        self.open()
        self.save()

    def token(self, ago: int) -> tuple[Key, str]:
        return self.given[max(-1 - ago, -len(self.given))]

    def read(self, key: int) -> None:
        answer = self.pair.ask("read", fx.CacheRead(KEYS[key]))
        if isinstance(answer, fx.Right) and answer.token:
            self.given.append((KEYS[key], answer.token))

    def miss(self, key: int) -> None:
        self.evict(key, entry=True)
        self.read(key)

    def lease(self, key: int, want_prior: bool) -> None:
        self.given.append((KEYS[key], self.pair.ask("lease", fx.Lease(KEYS[key], want_prior)).token))

    def commit(self, ago: int, fields: Fields, others: list[Fields], own: bool) -> None:
        """With `own`, the first event reports the entry, whose payload is then sent once for both."""
        key, token = self.token(ago)
        entry = Record(key, *fields)
        events = published([fields, *others] if own else others)
        self.pair.ask("commit", fx.Commit(key, token, entry, pack(entry.payload), events))

    def write(self, key: int, fields: Fields) -> None:
        """An undisturbed write, so that there often is an entry."""
        self.lease(key, want_prior=True)
        self.commit(0, fields, [], own=True)

    def fill(self, ago: int, fields: Fields) -> None:
        key, token = self.token(ago)
        self.pair.ask("fill", fx.Fill(token, Record(key, *fields)))

    def abort(self, ago: int) -> None:
        self.pair.ask("abort", fx.Abort(*self.token(ago)))

    def defer(self, keys: set[int], records: list[Fields]) -> None:
        self.pair.ask("defer", fx.Defer(tuple(KEYS[key] for key in keys), published(records)))

    def publish(self, records: list[Fields]) -> None:
        if records:
            self.pair.ask("publish", fx.Publish(KEYS[0].scope, published(records)))

    def lease_all(self) -> None:
        """A step of both keys; its lease lasts no longer than any other here."""
        token = self.pair.ask("lease_all", LeaseAll(KEYS, -10_000)).token
        self.given += [(key, token) for key in KEYS]

    def commit_all(self, ago: int, fields: Fields, others: Fields | None, own: bool) -> None:
        _, token = self.token(ago)
        entries = [Record(KEYS[0], *fields), None if others is None else Record(KEYS[1], *others)]
        done = tuple(
            Done(key, entry, b"" if entry is None else pack(entry.payload), published([fields] if own else []))
            for key, entry in zip(KEYS, entries, strict=True)
        )
        self.pair.ask("commit_all", CommitAll(token, done))

    def relay(self, key: int, rev: int | None) -> None:
        relay(self.pair.real._link, self.pair.real._relay, [(self.pair.names_of(KEYS[key]), rev)])
        self.pair.model.relay(KEYS[key], rev)

    def wait(self, ms: int) -> None:
        self.pair.redis.now_ms += ms
        self.pair.set_clock_and_identity()

    def evict(self, key: int, entry: bool) -> None:
        (self.pair.redis.entries if entry else self.pair.redis.rights).pop(KEYS[key], None)
        found = self.pair.names_of(KEYS[key])
        self.pair.client.delete(found.entry if entry else found.right)

    def flush(self) -> None:
        self.pair.redis.flush()
        self.pair.client.delete(*self.pair.names())

    def save(self) -> None:
        self.saved = self.pair.save()

    def restart(self, keeps_all: bool, seen_ms_ago: int) -> None:
        """Without what happened since the last `save`, unless it keeps all."""
        self.pair.restart(self.pair.save() if keeps_all else self.saved)
        if seen_ms_ago:
            self.open(seen_ms_ago)

    def era(self, reported: bool, seen_ms_ago: int) -> None:
        self.pair.begin_era(reported=reported)
        if seen_ms_ago:
            self.open(seen_ms_ago)

    def correct_the_clock(self) -> None:
        """An incarnation was first seen by a clock that went ahead."""
        self.restart(keeps_all=True, seen_ms_ago=0)
        self.read(1)
        self.wait(-LEASE_MS)
        self.open()

    def open(self, seen_ms_ago: int = LEASE_MS + 1) -> None:
        """Let this incarnation be seen, and time pass."""
        self.read(1)
        self.wait(seen_ms_ago)


@pytest.fixture
def new_pair(servers: embedded.Endpoints) -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def make(edit: Edit | None = None) -> Pair:
        made.append(Pair(servers, edit))
        return made[-1]

    yield make
    for pair in made:
        pair.close()


def compare(pair: Pair, examples: int, **more: Any) -> None:
    """Play so many lists of operations on both sides.

    Raises:
        AssertionError: an answer or the contents differ.
    """

    @settings(max_examples=examples, deadline=None, database=None, derandomize=True, **more)
    @given(st.lists(AN_OPERATION, min_size=25, max_size=50))
    def play(operations: list[tuple[Any, ...]]) -> None:
        side_by_side = Play(pair)
        for name, *arguments in operations:
            getattr(side_by_side, name)(*arguments)
            pair.compare()

    play()


def test_the_scripts_do_what_the_model_does(new_pair: Callable[..., Pair]) -> None:
    compare(new_pair(), examples=40, phases=[Phase.generate], report_multiple_bugs=False)


EDITS: list[Edit] = [
    ("lease", "redis.call('DEL', KEYS[n])", ""),
    ("lease", "if sole and open then", "if open then"),
    ("lease", "if sole and open then", "if sole then"),
    ("lease", "redis.call('DEL', KEYS[n + 1])", ""),
    ("lease", "string.sub(entry, 1, 40) == i", "true"),
    ("lease", "n = 5, #KEYS, 5", "n = 5, 9, 5"),
    ("commit", "if redis.call('ZREM', KEYS[n + 2], ARGV[2]) == 0 then", "if false then"),
    ("commit", "== i .. ARGV[2]", "~= i .. ARGV[2]"),
    ("commit", "redis.call('DEL', KEYS[n + 1])\n    installed", "installed"),
    ("commit", "and ARGV[4 + 2 * number] or", "and '' or"),
    ("commit", "and ARGV[4 + 2 * number] or", "and ARGV[#ARGV] or"),
    ("commit", "number = 1, count", "number = 1, 1"),
    ("fill", "redis.call('DEL', KEYS[2])", ""),
    ("fill", "~= i .. ARGV[2]", "== ''"),
    ("read", "leased(KEYS[3], now, tonumber(ARGV[3])) or not open", "not open"),
    ("read", "leased(KEYS[3], now, tonumber(ARGV[3])) or not open", "leased(KEYS[3], now, tonumber(ARGV[3]))"),
    ("read", "if entry and string.sub(entry, 1, 40) == i then", "if entry then"),
    ("read", "if right and string.sub(right, 1, 40) == i then", "if right then"),
    ("prelude", "if era ~= expected then", "if false then"),
    ("prelude", "string.sub(incarnation(), 1, 24) .. era", "string.sub(incarnation(), 1, 40)"),
    ("prelude", "if since and since <= now then", "if since then"),
    ("prelude", "redis.call('ZADD', leases_key", "redis.pcall('EXISTS', leases_key"),
    ("relay", "< ARGV[1]", "<= ARGV[1]"),
    ("relay", "redis.call('DEL', KEYS[2])", ""),
    ("relay", "\ninvalidate(", "\ntostring("),
    ("commit", "\n    invalidate(", "\n    tostring("),
    ("lease", "\n  invalidate(", "\n  tostring("),
    ("prelude", "> lease_ms", ">= lease_ms"),
    ("prelude", "'-inf', '('", "'-inf', ''"),
    ("prelude", "redis.call('SET', born_key", "redis.call('SETNX', born_key"),
]


@pytest.mark.parametrize(
    "edit", EDITS, ids=lambda edit: f"{edit[0]}: {edit[1].strip().splitlines()[0]} -> {edit[2].strip() or 'nothing'}"
)
def test_a_changed_script_is_noticed(new_pair: Callable[..., Pair], edit: Edit) -> None:
    changed = new_pair(edit)
    with pytest.raises(AssertionError):
        compare(changed, examples=300, phases=[Phase.generate], report_multiple_bugs=False)
