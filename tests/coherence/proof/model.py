"""The protocol as logic: one key, any number of operations, in any state that a rule might ever meet.

The simulator tries schedules of a few operations; this proof needs no bound. `INVARIANTS` is shown to be *inductive*:
whatever state satisfies it, every rule (`rules.py`) leads to a state that satisfies it again. So it holds for ever,
for any number of clients, crashes, evictions and restarts. Operations are the elements of an unspecified sort, sets of
operations are predicates over it, and time appears only as "its deadline has passed".

Clients that cannot reach Redis write past it, behind a flag: an operation stands for such a client, too. While any of
them owes the cache something, entries and rights may be old, and nobody is served; so what the invariants say of
entries and rights, they say of the time in which nobody owes anything (`is_clean`).

Not modelled: the payload (a revision stands for it), and events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import z3

Op = z3.DeclareSort("Op")
Fn: TypeAlias = Callable[[Any], Any]
"""From operation to bool, integer or operation: a Z3 function, or a Python one that builds a term."""


@dataclass(frozen=True)
class State:
    """One key in MongoDB and Redis, and what each operation is about to do.

    Attributes:
        rev: the revision in MongoDB.
        incarnation, born, is_open: of the cache now, which is Redis' memory and the era of the database; whether this
            one was seen, and whether it may cache.
        has_entry, entry_incarnation, entry_rev: E.
        has_right, right_incarnation, right_token: F. A token is named after the operation that took it.
        leased: in L. ended: the lease's deadline has passed.
        writing: a writer's command is on its way to MongoDB, for however long. older: it was so when the incarnation
            was born. expired: by MongoDB's clock the deadline in the command has passed.
        written, written_rev: a writer that knows its revision and has not yet sent COMMIT.
        missed: a reader with a right, before FIND. found, found_rev: the same after FIND, before FILL.
        shared, shared_incarnation: the right that a reader was given.
        rests, base_rev: LEASE returned a valid entry to this writer, and of which revision: a list's writer goes on
            from what it remembers under that stamp.
        started: the operation, and so its token, exists.
        serving: the token is alive: entries are served.
        looked: a keeper has seen no flag, and the time of which it asked Redis before is not yet older than D.
        flagged: this client's flag is in MongoDB. passes: D has gone by since, so it may write past Redis.
        passing: such a write may still be committed. owes: what it wrote so is not delivered.
    """

    rev: Any
    incarnation: Any
    born: Any
    is_open: Any
    has_entry: Any
    entry_incarnation: Any
    entry_rev: Any
    has_right: Any
    right_incarnation: Any
    right_token: Any
    leased: Fn
    ended: Fn
    expired: Fn
    writing: Fn
    older: Fn
    written: Fn
    written_rev: Fn
    missed: Fn
    found: Fn
    found_rev: Fn
    shared: Fn
    shared_incarnation: Fn
    rests: Fn
    base_rev: Fn
    started: Fn
    serving: Any
    looked: Fn
    flagged: Fn
    passes: Fn
    passing: Fn
    owes: Fn

    @property
    def is_clean(self) -> Any:
        return every(lambda op: z3.Not(self.owes(op)))

    @property
    def entry_is_ours(self) -> Any:
        """What scripts compare."""
        return z3.And(self.has_entry, self.entry_incarnation == self.incarnation)

    @property
    def right_is_ours(self) -> Any:
        return z3.And(self.has_right, self.right_incarnation == self.incarnation)

    @property
    def entry_is_valid(self) -> Any:
        return z3.And(self.entry_is_ours, self.is_clean)

    @property
    def right_is_valid(self) -> Any:
        return z3.And(self.right_is_ours, self.is_clean)

    def in_flight(self, op: Any) -> Any:
        """A write of this operation may still be committed."""
        return z3.And(self.writing(op), z3.Not(self.expired(op)))

    @property
    def is_quiet(self) -> Any:
        return every(lambda op: z3.Not(self.in_flight(op)))

    @property
    def is_leased(self) -> Any:
        return some(lambda op: z3.And(self.leased(op), z3.Not(self.ended(op))))

    def holds(self, token: Any, incarnation: Any) -> Any:
        """F is the right with this token, of the current incarnation."""
        return z3.And(self.right_is_ours, self.right_token == token, incarnation == self.incarnation)

    def may_fill(self, op: Any) -> Any:
        """A reader's right is still the one in place."""
        reading = z3.Or(self.missed(op), self.found(op))
        return z3.And(reading, self.holds(self.shared(op), self.shared_incarnation(op)), self.is_clean)


INTEGERS = ("rev", "incarnation", "entry_incarnation", "entry_rev", "right_incarnation")
FLAGS = ("born", "is_open", "has_entry", "has_right", "serving")
SETS = (
    "leased", "ended", "expired", "writing", "older", "written", "missed", "found", "rests", "started",
    "looked", "flagged", "passes", "passing", "owes",
)  # fmt: skip
REVISIONS = ("written_rev", "found_rev", "shared_incarnation", "base_rev")


def any_state(prefix: str = "") -> State:
    """A state about which nothing is known."""
    fields: dict[str, Any] = {name: z3.Int(prefix + name) for name in INTEGERS}
    fields |= {name: z3.Bool(prefix + name) for name in FLAGS}
    fields |= {name: z3.Function(prefix + name, Op, z3.BoolSort()) for name in SETS}
    fields |= {name: z3.Function(prefix + name, Op, z3.IntSort()) for name in REVISIONS}
    fields["right_token"] = z3.Const(prefix + "right_token", Op)
    fields["shared"] = z3.Function(prefix + "shared", Op, Op)
    return State(**fields)


def every(claim: Fn, name: str = "op") -> Any:
    op = z3.Const(name, Op)
    return z3.ForAll([op], claim(op))


def some(claim: Fn) -> Any:
    op = z3.Const("op", Op)
    return z3.Exists([op], claim(op))


def implies(condition: Any, claim: Any) -> Any:
    return z3.Implies(condition, claim)


INVARIANTS: Mapping[str, Callable[[State], Any]] = {
    "I1": lambda s: implies(s.entry_is_valid, s.entry_rev == s.rev),
    "I2": lambda s: implies(s.entry_is_valid, s.is_quiet),
    "I3": lambda s: implies(s.is_open, every(lambda op: implies(s.in_flight(op), s.leased(op)))),
    "I3b": lambda s: implies(s.born, every(lambda op: implies(s.in_flight(op), z3.Or(s.leased(op), s.older(op))))),
    "I4": lambda s: implies(s.right_is_valid, every(lambda op: implies(s.in_flight(op), op == s.right_token))),
    "I5a": lambda s: every(lambda op: implies(s.may_fill(op), s.is_quiet)),
    "I5b": lambda s: every(lambda op: implies(z3.And(s.may_fill(op), s.found(op)), s.found_rev(op) == s.rev)),
    "I6": lambda s: z3.And(
        implies(s.right_is_ours, s.started(s.right_token)),
        every(
            lambda op: implies(
                z3.And(z3.Or(s.missed(op), s.found(op)), s.shared_incarnation(op) == s.incarnation),
                s.started(s.shared(op)),
            )
        ),
    ),
    "I7": lambda s: every(
        lambda op: implies(
            z3.And(s.written(op), s.right_is_valid, s.right_token == op),
            z3.And(s.written_rev(op) == s.rev, s.is_quiet),
        )
    ),
    "I8": lambda s: z3.And(
        implies(s.has_entry, s.entry_incarnation <= s.incarnation),
        implies(s.has_right, s.right_incarnation <= s.incarnation),
        every(lambda op: implies(z3.Or(s.missed(op), s.found(op)), s.shared_incarnation(op) <= s.incarnation)),
    ),
    "I9": lambda s: implies(s.is_open, s.born),
    "I10": lambda s: implies(z3.Or(s.entry_is_ours, s.right_is_ours), s.is_open),
    "I11": lambda s: every(
        lambda op: z3.And(
            z3.AtMost(s.writing(op), s.written(op), s.missed(op), s.found(op), 1),
            implies(z3.Or(s.writing(op), s.written(op), s.missed(op), s.found(op)), s.started(op)),
        )
    ),
    "I12": lambda s: every(lambda op: implies(z3.And(s.writing(op), s.ended(op)), s.expired(op))),
    "I13": lambda s: every(
        lambda op: implies(
            z3.And(s.rests(op), s.right_is_valid, s.right_token == op),
            z3.And(
                implies(s.writing(op), s.rev == s.base_rev(op)),
                implies(s.written(op), s.written_rev(op) == s.base_rev(op) + 1),
            ),
        )
    ),
    "I14": lambda s: every(
        lambda op: implies(
            s.passes(op), z3.And(z3.Not(s.serving), every(lambda keeper: z3.Not(s.looked(keeper)), "keeper"))
        )
    ),
    "I15": lambda s: every(
        lambda op: z3.And(
            implies(s.passing(op), s.owes(op)), implies(s.owes(op), s.passes(op)), implies(s.passes(op), s.flagged(op))
        )
    ),
}
