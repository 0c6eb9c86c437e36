"""Steps: operations that write many keys. The state is one `State` for each key; a rule of `rules.py` happens at a set
of keys at once.

Each key has a Redis of its own here (its own incarnation, birth and content), which is more than partitions can do.
What is proved: at each of its keys a step is what a single write is, so all invariants hold at all keys; and, beyond
one key, `TOGETHER`. "Its command is on its way" (`writing`) means for a step that its transaction may still be
committed, `expired` that the server has ended it, and `ended` that a lease is over: so the rule "a lease ends" says
that leases outlive the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import z3
from tests.coherence.proof.model import INVARIANTS, Op, State, any_state, every
from tests.coherence.proof.rules import (
    ME,
    YES,
    Rule,
    abort,
    commit,
    lease,
    lease_again,
    lease_ends,
    store,
    store_unanswered,
)

Key = z3.DeclareSort("Key")
KeyFn: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True)
class Keys:
    """All keys, and what is true of an operation as a whole.

    Attributes:
        at: the state of a key.
        wants: (operation, key): it writes this key. Fixed when it begins.
        stored: (operation, key): MongoDB has what it wrote there.
        reported: (operation, key): the feed has its event.
    """

    at: Callable[[Any], State]
    wants: Callable[[Any, Any], Any]
    stored: Callable[[Any, Any], Any]
    reported: Callable[[Any, Any], Any]


KeysRule: TypeAlias = Callable[[Keys], tuple[Any, Keys]]


def any_keys() -> Keys:
    """A state about which nothing is known."""
    kept: dict[str, Any] = {}
    pattern = any_state()
    for field in fields(State):
        value = getattr(pattern, field.name)
        if isinstance(value, z3.FuncDeclRef):
            kept[field.name] = z3.Function(f"k_{field.name}", Key, Op, value.range())
        else:
            kept[field.name] = z3.Function(f"k_{field.name}", Key, value.sort())

    def at(key: Any) -> State:
        return State(**{
            name: partial(of, key) if of.arity() == 2 else of(key) for name, of in kept.items()
        })  # fmt: skip

    sets = {name: z3.Function(name, Op, Key, z3.BoolSort()) for name in ("wants", "stored", "reported")}
    return Keys(at, **sets)


def every_key(claim: KeyFn) -> Any:
    key = z3.Const("key", Key)
    return z3.ForAll([key], claim(key))


def together(rule: Rule, s: Keys, where: KeyFn) -> tuple[Any, Keys]:
    """The rule happens at these keys in one step. It must apply at each of them."""

    def at(key: Any) -> State:
        before = s.at(key)
        after = rule(before)[1]
        chosen = {}
        for field in fields(State):
            old, new = getattr(before, field.name), getattr(after, field.name)
            chosen[field.name] = _either(where(key), new, old)
        return State(**chosen)

    applies = every_key(lambda key: z3.Implies(where(key), rule(s.at(key))[0]))
    return applies, Keys(at, s.wants, s.stored, s.reported)


def _either(condition: Any, new: Any, old: Any) -> Any:
    if callable(new) or callable(old):
        return lambda op: z3.If(condition, new(op), old(op))
    return z3.If(condition, new, old)


PART = z3.Function("part", Key, z3.BoolSort())
"""The keys of the partition that a script works on."""


def _mine(s: Keys) -> KeyFn:
    return lambda key: s.wants(ME, key)


def _mine_here(s: Keys) -> KeyFn:
    return lambda key: z3.And(s.wants(ME, key), PART(key))


def _mark(of: Callable[[Any, Any], Any], where: KeyFn) -> Callable[[Any, Any], Any]:
    return lambda op, key: z3.Or(of(op, key), z3.And(op == ME, where(key)))


def lease_all(s: Keys, *, where: Callable[[Keys], KeyFn] = _mine_here) -> tuple[Any, Keys]:
    """LEASE of all keys of a partition, in one script."""
    return together(lease, s, where(s))


def _unbegun(s: Keys) -> Any:
    """Nothing of this operation is stored or reported yet: it sends its transaction once."""
    return every_key(lambda key: z3.And(z3.Not(s.stored(ME, key)), z3.Not(s.reported(ME, key))))


def store_all(s: Keys, *, where: Callable[[Keys], KeyFn] = _mine, all_leased: bool = True) -> tuple[Any, Keys]:
    """The transaction commits: all documents at once, and only if all were leased before it was sent."""

    def stored(key: State) -> tuple[Any, State]:
        applies, after = store(key)
        return applies if all_leased else YES, after

    applies, after = together(stored, s, where(s))
    return z3.And(applies, _unbegun(s) if where is _mine else YES), Keys(
        after.at, s.wants, _mark(s.stored, where(s)), s.reported
    )


def store_all_unheard(s: Keys) -> tuple[Any, Keys]:
    """The same, but the client has died or given up, and never sends COMMIT."""
    applies, after = together(store_unanswered, s, _mine(s))
    return z3.And(applies, _unbegun(s)), Keys(after.at, s.wants, _mark(s.stored, _mine(s)), s.reported)


def commit_all(s: Keys, *, acknowledged: bool = True) -> tuple[Any, Keys]:
    """COMMIT of a partition: leases, entries and events in one script."""

    def committed(key: State) -> tuple[Any, State]:
        applies, after = commit(key)
        return applies if acknowledged else key.writing(ME), after

    applies, after = together(committed, s, _mine_here(s))
    return applies, Keys(after.at, s.wants, s.stored, _mark(s.reported, _mine_here(s)))


def discard_all(s: Keys) -> tuple[Any, Keys]:
    """The transaction was certainly not committed, and the leases of a partition are released; it never will be."""
    applies, after = together(abort, s, _mine_here(s))
    return z3.And(applies, _unbegun(s)), after


def lease_ends_everywhere(s: Keys, *, after_transaction: bool = True) -> tuple[Any, Keys]:
    return together(partial(lease_ends, after_command=after_transaction), s, _mine(s))


def lease_again_all(s: Keys) -> tuple[Any, Keys]:
    """A retry that uses its token once more: its first LEASE is executed late, when the transaction is stored."""
    return together(lease_again, s, _mine_here(s))


TOGETHER: Mapping[str, Callable[[Keys], Any]] = {
    "A1": lambda s: _pairs(lambda op, one, other: z3.Implies(s.stored(op, one), s.stored(op, other)), s),
    "A2": lambda s: _each(lambda op, key: z3.Implies(s.reported(op, key), s.stored(op, key))),
    "A3": lambda s: _each(
        lambda op, key: z3.Implies(z3.Or(s.at(key).written(op), s.stored(op, key)), s.wants(op, key))
    ),
    "A4": lambda s: _each(lambda op, key: z3.Implies(s.at(key).written(op), s.stored(op, key))),
}
"""A1: what a step wrote is in MongoDB at all of its keys or at none. A2: an event reports what is stored. A3: it writes
only what it wants. A4: who knows a revision has stored it.
"""


def _each(claim: Callable[[Any, Any], Any]) -> Any:
    return every_key(lambda key: every(lambda op: claim(op, key)))


def _pairs(claim: Callable[[Any, Any, Any], Any], s: Keys) -> Any:
    other = z3.Const("other", Key)
    return _each(
        lambda op, key: z3.ForAll(
            [other], z3.Implies(z3.And(s.wants(op, key), s.wants(op, other)), claim(op, key, other))
        )
    )


def _at_every_key(claim: Callable[[State], Any]) -> Callable[[Keys], Any]:
    return lambda s: every_key(lambda key: claim(s.at(key)))


ALL: Mapping[str, Callable[[Keys], Any]] = {
    **{name: _at_every_key(claim) for name, claim in INVARIANTS.items()},
    **TOGETHER,
}
"""The invariants at every key, and those of all keys."""

STEPS: Mapping[str, KeysRule] = {
    "LEASE of a partition": lease_all,
    "the transaction": store_all,
    "the transaction, nobody hears": store_all_unheard,
    "COMMIT of a partition": commit_all,
    "discard": discard_all,
    "the leases end": lease_ends_everywhere,
}


class DroppedOfSteps(NamedTuple):
    """A rule without one precaution, and all invariants that it can break in one step."""

    rule: KeysRule
    breaks: str


DROPPED_OF_STEPS: Mapping[str, DroppedOfSteps] = {
    ("all leases are held before the transaction"): DroppedOfSteps(
        partial(store_all, all_leased=False), "I1 I5b I7 I11 I13"
    ),
    "one transaction": DroppedOfSteps(partial(store_all, where=_mine_here), "A1"),
    "COMMIT comes after the acknowledgement": DroppedOfSteps(
        partial(commit_all, acknowledged=False), "I1 I2 I3 I3b A2"
    ),
    "a step's leases outlive its transaction": DroppedOfSteps(
        partial(lease_ends_everywhere, after_transaction=False), "I12"
    ),
    "a retry leases with a fresh token": DroppedOfSteps(lease_again_all, "I5b I7 I13"),
}
