"""Who is cut from whom and when, as data. Hosts: `mongo` and `redis` are the servers', `a` and `b` those of a writer
and a reader each, `c` that of a reader and of the worker. Times are seconds from the beginning of a turn; turns are
repeated until the run is over.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["SCENARIOS", "Cut", "Do", "Scenario"]


class Cut(NamedTuple):
    """`who` and `whom` lose each other's packets, or one direction only."""

    who: str
    whom: str
    from_s: float
    to_s: float
    there: bool = True
    back: bool = True


class Do(NamedTuple):
    """Something that happens at a moment: `kill`, `stop`, `go-on` (of a client), `restart` (of Redis, without what it
    held), `move` (of a server), `narrow` and `widen` (the largest packet that reaches a host).
    """

    what: str
    whom: str
    at_s: float


class Scenario(NamedTuple):
    """One way in which a network fails. `turn_s` is how long one turn takes, calm at its end included."""

    name: str
    says: str
    turn_s: float
    cuts: tuple[Cut, ...] = ()
    does: tuple[Do, ...] = ()
    slots: tuple[str, ...] = ("w0", "w1", "r0", "r1", "r2")


def _flapping(who: str, whom: str, count: int) -> tuple[Cut, ...]:
    return tuple(Cut(who, whom, 1 + 1.2 * turn, 1.6 + 1.2 * turn) for turn in range(count))


SCENARIOS: Final = tuple(
    Scenario(*fields)
    for fields in (
        ("calm", "nothing is cut", 10.0),
        ("brief", "one writer loses MongoDB for a second: whether all this works here", 3.0,
            (Cut("a", "mongo", 0.5, 1.5),), (), ("w0", "r2")),
        ("writer-redis", "a writer loses Redis alone", 12.0, (Cut("a", "redis", 1, 7),)),
        ("writer-mongo", "a writer loses MongoDB alone", 12.0, (Cut("a", "mongo", 1, 7),)),
        ("writer-all", "a writer loses both at once", 12.0, (Cut("a", "redis", 1, 7), Cut("a", "mongo", 1, 7))),
        ("reader-redis", "a reader's host loses Redis", 12.0, (Cut("c", "redis", 1, 7),)),
        (
            "all-redis", "everybody loses Redis, which goes on", 12.0,
            tuple(Cut(host, "redis", 1, 5 + turn) for turn, host in enumerate("abc")),
        ),
        ("two-writers", "two writers lose Redis, one after the other", 14.0,
            (Cut("a", "redis", 1, 6), Cut("b", "redis", 4, 9))),
        ("flapping", "a writer loses Redis again and again for half a second", 14.0, _flapping("a", "redis", 7)),
        ("commands-lost", "what a writer sends does not reach Redis", 12.0, (Cut("a", "redis", 1, 7, back=False),)),
        ("answers-lost", "Redis does what a writer asks, and the answers are lost", 12.0,
            (Cut("a", "redis", 1, 7, there=False),)),
        ("mongo-answers-lost", "MongoDB does what a writer asks, and the answers are lost", 12.0,
            (Cut("a", "mongo", 1, 7, there=False),)),
        ("mongo-first", "a writer loses both; MongoDB is back three seconds before Redis", 14.0,
            (Cut("a", "redis", 1, 8), Cut("a", "mongo", 1, 5))),
        ("redis-first", "a writer loses both; Redis is back three seconds before MongoDB", 14.0,
            (Cut("a", "redis", 1, 5), Cut("a", "mongo", 1, 8))),
        ("dies-cut", "a writer loses Redis and is killed", 20.0, (Cut("a", "redis", 1, 8),), (Do("kill", "a", 5),)),
        ("stalls-cut", "a writer loses Redis, and stands still for longer than a lease", 20.0,
            (Cut("a", "redis", 1, 12),), (Do("stop", "a", 4), Do("go-on", "a", 11))),
        ("restart", "Redis is restarted while a writer cannot reach it", 14.0,
            (Cut("a", "redis", 1, 7),), (Do("restart", "redis", 4),)),
        ("worker-redis", "the worker's host loses Redis, and then a writer does", 14.0,
            (Cut("c", "redis", 1, 9), Cut("a", "redis", 3, 8))),
        ("moved", "Redis gets another address under its name", 14.0, (), (Do("move", "redis", 4),)),
        ("black-hole", "large packets do not reach a writer's host", 14.0, (),
            (Do("narrow", "a", 1), Do("widen", "a", 7))),
    )
)  # fmt: skip
