"""To whom everything in Redis belongs: the era of a database.

An *era* is a span of time in which one Redis saw every write of one database. MongoDB holds the eras in force, each
with a count that openings and heartbeats raise; Redis holds (O) the era that it is in and the highest count that it was
given.

    look    what does Redis remember?                     era a, count c
    note    raise a's count in MongoDB, majority, if it   n, or: a is not in force
            has come to c (so that looking again and
            again does not raise one that was set back)
    n > c   the database goes on where Redis remembers it; CLAIM tells Redis n
    n <= c  the database went back (a restore): Redis was informed c only after MongoDB had it. Another era begins
    absent  the era was ended on purpose (other settings, collections that were replaced), or it went with what was
    restored

Redis is looked at before MongoDB counts, so one round decides, whoever else counts meanwhile. CLAIM is done only if
Redis still remembers what was looked at; whoever comes too late looks again. Entries and rights carry the era beside
the identity of Redis' memory, both are compared inside the scripts, and together they are the protocol's incarnation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

ERA_CHARS = 16


class Held(NamedTuple):
    """What one partition remembers: an empty era if nothing, and the highest count that it was given."""

    era: str
    noted_count: int


def parse_held(raw: bytes | None) -> Held:
    text = (raw or b"").decode("ascii", "replace")
    count = text[ERA_CHARS:]
    return Held(text[:ERA_CHARS], int(count)) if count.isdigit() else Held("", 0)


BEHIND, REPLACED = "behind", "collections"
"""Why an era is over whose database may hold older revisions than its Redis: MongoDB has not counted as far as Redis
was given; or collections were dropped or replaced.
"""
RESTORED = "restored"
"""`bkm restore` ended it, which reports the restore itself."""


class Ended(NamedTuple):
    """Why an era was ended on purpose, and how far it had counted."""

    why: str
    counted: int


class Noted(NamedTuple):
    """What MongoDB says after it has counted.

    Attributes:
        deployment: made once, with the database.
        partitions, mode: in force; chosen by whoever was started last.
        widest: the most partitions that were ever in force.
        counts: of the eras in force.
        ended: the newest that were ended on purpose.
        open_ms: how long a new incarnation of the cache stays closed at least, because steps were used; 0 if none was.
    """

    deployment: str
    partitions: int
    mode: str
    widest: int
    counts: Mapping[str, int]
    ended: Mapping[str, Ended]
    open_ms: int = 0


class Restored(NamedTuple):
    """An era that the database went back behind: what its Redis was given, and BEHIND or REPLACED."""

    noted_count: int
    why: str


class Verdict(NamedTuple):
    """Which era to be in.

    Attributes:
        era: of those that partitions remember; empty: another one must begin.
        over: eras that some partition remembers and that must not go on.
        restored: those of them in whose place revisions may have gone back.
    """

    era: str
    over: frozenset[str]
    restored: Mapping[str, Restored]


def judge(held: Mapping[int, Held], noted: Noted) -> Verdict:
    """Decide from what partitions remembered before MongoDB counted, and what it said then."""
    reported: dict[str, int] = {}
    for era, count in held.values():
        if era:
            reported[era] = max(count, reported.get(era, 0))
    good = [era for era in reported if noted.counts.get(era, 0) > reported[era]]
    restored = {}
    for era in reported.keys() - set(good):
        end = noted.ended.get(era)
        if end is None or end.counted < reported[era]:
            restored[era] = Restored(reported[era], BEHIND)
        elif end.why == REPLACED:
            restored[era] = Restored(reported[era], REPLACED)
    return Verdict(good[0] if good else "", frozenset(reported) - set(good), restored)
