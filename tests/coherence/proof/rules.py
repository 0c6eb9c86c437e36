"""What can happen, as in the scripts (`backends/redis/lua`), the plans and the faults; and what must not.

A rule takes a state and gives the condition under which it applies and the state after it. `RULES` are those of the
protocol. `DROPPED` are rules with one precaution left out, each with the invariants that it then breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import z3
from tests.coherence.proof.model import Fn, Op, State, any_state, every, some

Rule: TypeAlias = Callable[[State], tuple[Any, State]]

ME = z3.Const("me", Op)
"""The operation that takes the step."""
FORGOTTEN = any_state("forgotten_")
NO = z3.BoolVal(False)
YES = z3.BoolVal(True)


def put(of: Fn, op: Any, value: Any) -> Fn:
    return lambda other: z3.If(other == op, value, of(other))


def both(*conditions: Any) -> Any:
    return z3.And(*conditions)


def seen(s: State) -> State:
    """Every LEASE and READ that is no hit records when this incarnation was first seen."""
    return replace(s, born=YES, older=lambda op: z3.If(s.born, s.older(op), s.in_flight(op)))


# -- writers


def lease(
    s: State,
    *,
    only_sole: bool = True,
    only_open: bool = True,
    deletes_entry: bool = True,
    deletes_right: bool = True,
    tells_valid_only: bool = True,
) -> tuple[Any, State]:
    takes = both(z3.Not(s.is_leased) if only_sole else YES, s.is_open if only_open else YES)
    return z3.Not(s.started(ME)), replace(
        seen(s),
        started=put(s.started, ME, YES),
        leased=put(s.leased, ME, YES),
        writing=put(s.writing, ME, YES),
        ended=put(s.ended, ME, NO),
        expired=put(s.expired, ME, NO),
        rests=put(s.rests, ME, both(s.entry_is_ours if tells_valid_only else s.has_entry, s.serving)),
        base_rev=put(s.base_rev, ME, s.entry_rev),
        has_entry=NO if deletes_entry else s.has_entry,
        has_right=z3.If(takes, YES, NO if deletes_right else s.has_right),
        right_incarnation=z3.If(takes, s.incarnation, s.right_incarnation),
        right_token=z3.If(takes, ME, s.right_token),
    )


def lease_of_nobody(s: State) -> tuple[Any, State]:
    """A late duplicate of LEASE with its own token, or one whose writer died before MongoDB."""
    applies, after = lease(s)
    return applies, replace(after, writing=s.writing)


def lease_again(s: State) -> tuple[Any, State]:
    """A late duplicate of LEASE with the token of a writer that has already stored."""
    takes = both(z3.Not(s.is_leased), s.is_open)
    return s.written(ME), replace(
        seen(s),
        leased=put(s.leased, ME, YES),
        has_entry=NO,
        has_right=takes,
        right_incarnation=z3.If(takes, s.incarnation, s.right_incarnation),
        right_token=z3.If(takes, ME, s.right_token),
    )


def store(s: State, *, in_time: bool = True) -> tuple[Any, State]:
    """The command arrives, however late, and MongoDB compares its own clock with the deadline in the command."""
    return both(s.writing(ME), z3.Not(s.expired(ME)) if in_time else YES), replace(
        s,
        rev=s.rev + 1,
        writing=put(s.writing, ME, NO),
        written=put(s.written, ME, YES),
        written_rev=put(s.written_rev, ME, s.rev + 1),
    )


def store_unanswered(s: State, *, in_time: bool = True) -> tuple[Any, State]:
    """The same, but the client has died or given up, and never sends COMMIT."""
    return s.in_flight(ME) if in_time else s.writing(ME), replace(s, rev=s.rev + 1, writing=put(s.writing, ME, NO))


def store_twice(s: State) -> tuple[Any, State]:
    """The driver has sent the command once more, and MongoDB does not know it again."""
    return both(s.written(ME), z3.Not(s.expired(ME))), replace(s, rev=s.rev + 1)


def refuse_late(s: State) -> tuple[Any, State]:
    """The command arrives after its deadline: nothing is written, and the lease stays."""
    return both(s.writing(ME), s.expired(ME)), replace(s, writing=put(s.writing, ME, NO))


def refuse_late_and_abort(s: State) -> tuple[Any, State]:
    applies, after = refuse_late(s)
    return applies, replace(after, leased=put(s.leased, ME, NO))


def _commit(s: State, may_install: Any) -> State:
    installs = both(s.leased(ME), may_install)
    # Without its lease a writer was late: entry and right go, whoever they belong to.
    deletes = z3.Not(s.leased(ME))
    return replace(
        s,
        leased=put(s.leased, ME, NO),
        has_entry=both(z3.Or(installs, s.has_entry), z3.Not(deletes)),
        entry_incarnation=z3.If(installs, s.incarnation, s.entry_incarnation),
        entry_rev=z3.If(installs, s.written_rev(ME), s.entry_rev),
        has_right=both(s.has_right, z3.Not(installs), z3.Not(deletes)),
    )


def commit(s: State, *, own_incarnation: bool = True) -> tuple[Any, State]:
    holds = both(s.has_right, s.right_token == ME, s.right_incarnation == s.incarnation if own_incarnation else YES)
    return s.written(ME), replace(_commit(s, holds), written=put(s.written, ME, NO))


def commit_without_right(s: State, *, only_newer: bool) -> tuple[Any, State]:
    """The first draft: install whenever no other lease is live, with or without comparing revisions."""
    alone = z3.Not(some(lambda op: both(s.leased(op), z3.Not(s.ended(op)), op != ME)))
    newer = z3.Or(z3.Not(s.entry_is_ours), s.entry_rev < s.written_rev(ME)) if only_newer else YES
    return s.written(ME), replace(_commit(s, both(alone, newer)), written=put(s.written, ME, NO))


def commit_duplicate(s: State) -> tuple[Any, State]:
    """COMMIT is executed, and will be once more."""
    return s.written(ME), _commit(s, s.holds(ME, s.incarnation))


def abort(s: State) -> tuple[Any, State]:
    """MongoDB certainly did not commit, and will not."""
    return s.writing(ME), replace(s, writing=put(s.writing, ME, NO), leased=put(s.leased, ME, NO))


def release_while_unknown(s: State) -> tuple[Any, State]:
    return s.writing(ME), replace(s, leased=put(s.leased, ME, NO))


# -- readers


def read(s: State, *, heeds_leases: bool = True, only_open: bool = True) -> tuple[Any, State]:
    """A miss. (A hit changes nothing.)"""
    gives = both(z3.Not(s.is_leased) if heeds_leases else YES, s.is_open if only_open else YES)
    takes = both(gives, z3.Not(s.right_is_ours))
    token = z3.If(takes, ME, s.right_token)
    return both(z3.Not(s.started(ME)), z3.Not(s.entry_is_ours)), replace(
        seen(s),
        started=put(s.started, ME, YES),
        has_right=z3.Or(takes, s.has_right),
        right_incarnation=z3.If(takes, s.incarnation, s.right_incarnation),
        right_token=token,
        missed=put(s.missed, ME, gives),
        shared=put(s.shared, ME, token),
        shared_incarnation=put(s.shared_incarnation, ME, s.incarnation),
    )


def read_of_nobody(s: State, *, fresh_token: bool = True) -> tuple[Any, State]:
    """A late duplicate of READ: it may take the right, and nobody waits for the answer."""
    takes = both(z3.Not(s.is_leased), s.is_open, z3.Not(s.right_is_ours))
    applies = z3.Not(s.started(ME)) if fresh_token else z3.Or(s.missed(ME), s.found(ME))
    return both(applies, z3.Not(s.entry_is_ours)), replace(
        seen(s),
        started=put(s.started, ME, YES),
        has_right=z3.Or(takes, s.has_right),
        right_incarnation=z3.If(takes, s.incarnation, s.right_incarnation),
        right_token=z3.If(takes, ME, s.right_token),
    )


def find(s: State) -> tuple[Any, State]:
    return s.missed(ME), replace(
        s, missed=put(s.missed, ME, NO), found=put(s.found, ME, YES), found_rev=put(s.found_rev, ME, s.rev)
    )


def fill(s: State, *, needs_right: bool = True, own_incarnation: bool = True, once: bool = True) -> tuple[Any, State]:
    installs = both(
        both(s.has_right, s.right_token == s.shared(ME)) if needs_right else YES,
        both(s.right_incarnation == s.incarnation, s.shared_incarnation(ME) == s.incarnation)
        if needs_right and own_incarnation
        else YES,
    )
    return s.found(ME), replace(
        s,
        found=put(s.found, ME, NO) if once else s.found,
        has_entry=z3.Or(installs, s.has_entry),
        entry_incarnation=z3.If(installs, s.incarnation, s.entry_incarnation),
        entry_rev=z3.If(installs, s.found_rev(ME), s.entry_rev),
        has_right=both(s.has_right, z3.Not(installs)),
    )


# -- time and faults


def command_expires(s: State) -> tuple[Any, State]:
    return YES, replace(s, expired=put(s.expired, ME, YES))


def lease_ends(s: State, *, after_command: bool = True) -> tuple[Any, State]:
    """By the clocks' rates alone: the deadline in the command was chosen to lie before this moment."""
    return s.expired(ME) if after_command else YES, replace(s, ended=put(s.ended, ME, YES))


def purge(s: State) -> tuple[Any, State]:
    """A script drops a lease whose deadline has passed."""
    return s.ended(ME), replace(s, leased=put(s.leased, ME, NO))


def wait_ends(s: State) -> tuple[Any, State]:
    """One lease time after the birth: what was in flight then cannot be any more."""
    return both(s.born, every(lambda op: z3.Not(both(s.older(op), s.in_flight(op))))), replace(s, is_open=YES)


def evict_entry(s: State) -> tuple[Any, State]:
    return YES, replace(s, has_entry=NO)


def evict_right(s: State) -> tuple[Any, State]:
    return YES, replace(s, has_right=NO)


def evict_lease(s: State) -> tuple[Any, State]:
    return YES, replace(s, leased=put(s.leased, ME, NO))


def forget(s: State) -> tuple[Any, State]:
    """RELAY, and the catch-up of a client that was cut off: entry and right are deleted without a look at them."""
    return YES, replace(s, has_entry=NO, has_right=NO)


def flush(s: State, *, forgets_birth: bool = True) -> tuple[Any, State]:
    empty = replace(s, has_entry=NO, has_right=NO, leased=lambda op: NO, serving=NO)
    return YES, replace(empty, born=NO, is_open=NO) if forgets_birth else empty


def restart(s: State, *, fresh: bool = True) -> tuple[Any, State]:
    """Restart or failover: another incarnation, and whatever content, which is more than losing a suffix could do."""
    old = FORGOTTEN
    stamps_are_old = both(
        z3.Implies(old.has_entry, old.entry_incarnation <= s.incarnation),
        z3.Implies(old.has_right, old.right_incarnation <= s.incarnation),
    )
    return both(old.incarnation > s.incarnation, stamps_are_old) if fresh else YES, replace(
        s,
        incarnation=old.incarnation,
        born=NO,
        is_open=NO,
        has_entry=old.has_entry,
        entry_incarnation=old.entry_incarnation,
        entry_rev=old.entry_rev,
        has_right=old.has_right,
        right_incarnation=old.right_incarnation,
        right_token=old.right_token,
        leased=old.leased,
        serving=NO,
        looked=lambda op: NO,
    )


def restore(s: State, *, new_era: bool = True) -> tuple[Any, State]:
    """MongoDB is set back to whatever it was, or replaced by another. That ends the era, which is one half of the
    incarnation (the other is Redis' memory), and Redis keeps all it holds. The rule is one step: that processes learn
    of it later is said in the docs, with a bound, and proved by nothing.
    """
    old = FORGOTTEN
    ended = replace(s, rev=old.rev, incarnation=old.incarnation, born=NO, is_open=NO)
    return (old.incarnation > s.incarnation, ended) if new_era else (YES, replace(s, rev=old.rev))


def era_not_compared(s: State) -> tuple[Any, State]:
    """READ compares the memory and not the era: an entry from before the restore counts as valid."""
    applies, after = restore(s)
    return applies, replace(after, entry_incarnation=carried(s, after, s.entry_incarnation))


def carried(s: State, after: State, incarnation: Any) -> Any:
    """A stamp that goes over into the next era."""
    return z3.If(incarnation == s.incarnation, after.incarnation, incarnation)


def era_not_compared_by_commit(s: State) -> tuple[Any, State]:
    """COMMIT and FILL compare the memory and not the era: a right from before the restore installs."""
    applies, after = restore(s)
    return applies, replace(
        after,
        right_incarnation=carried(s, after, s.right_incarnation),
        shared_incarnation=lambda op: carried(s, after, s.shared_incarnation(op)),
    )


def restart_of_unstamped(s: State) -> tuple[Any, State]:
    """Entries do not carry the incarnation: one that survives counts as valid."""
    applies, after = restart(s)
    return applies, replace(after, entry_incarnation=after.incarnation)


# -- writes past Redis


def look(s: State, *, sees_flags: bool = True) -> tuple[Any, State]:
    """A keeper asks Redis for its time, and then MongoDB's majority for flags. There is none."""
    return every(lambda op: z3.Not(s.flagged(op))) if sees_flags else YES, replace(s, looked=put(s.looked, ME, YES))


def prolong(s: State) -> tuple[Any, State]:
    """The token lives until D after the time that was asked for before the look."""
    return s.looked(ME), replace(s, serving=YES)


def look_ages(s: State) -> tuple[Any, State]:
    """D after that time, nothing is prolonged by it any more."""
    return YES, replace(s, looked=put(s.looked, ME, NO))


def token_ends(s: State) -> tuple[Any, State]:
    return YES, replace(s, serving=NO)


def raise_flag(s: State) -> tuple[Any, State]:
    return YES, replace(s, flagged=put(s.flagged, ME, YES))


def wait_d(s: State, *, tokens_end: bool = True, looks_age: bool = True) -> tuple[Any, State]:
    """D after the flag was acknowledged. Whatever a look found before it is older than D now: so is each token that it
    prolonged, and it prolongs none any more. Looks that came later found the flag.
    """
    no_token = z3.Not(s.serving) if tokens_end else YES
    no_look = every(lambda op: z3.Not(s.looked(op)), "keeper") if looks_age else YES
    return both(s.flagged(ME), no_token, no_look), replace(s, passes=put(s.passes, ME, YES))


def pass_by(s: State, *, behind_flag: bool = True) -> tuple[Any, State]:
    """A write is sent past Redis."""
    return s.passes(ME) if behind_flag else YES, replace(s, passing=put(s.passing, ME, YES), owes=put(s.owes, ME, YES))


def passed(s: State) -> tuple[Any, State]:
    return s.passing(ME), replace(s, rev=s.rev + 1)


def pass_is_over(s: State) -> tuple[Any, State]:
    """Acknowledged, refused, or its deadline has passed by MongoDB's clock."""
    return s.passing(ME), replace(s, passing=put(s.passing, ME, NO))


def deliver(s: State, *, when_over: bool = True) -> tuple[Any, State]:
    """Back at Redis, the client deletes entry and right of what it wrote."""
    over = z3.Not(s.passing(ME)) if when_over else YES
    return both(s.owes(ME), over), replace(s, owes=put(s.owes, ME, NO), has_entry=NO, has_right=NO)


def bury(s: State, *, new_era: bool = True) -> tuple[Any, State]:
    """The client is dead, its last write settled: what the cache holds is made worthless instead of delivered to."""
    applies = both(s.owes(ME), z3.Not(s.passing(ME)))
    after = replace(s, owes=put(s.owes, ME, NO))
    if not new_era:
        return applies, after
    began = FORGOTTEN.incarnation > s.incarnation
    return both(applies, began), replace(after, incarnation=FORGOTTEN.incarnation, born=NO, is_open=NO, serving=NO)


def lower_flag(s: State, *, after_delivery: bool = True) -> tuple[Any, State]:
    """By its client, or by whoever has buried it."""
    delivered = z3.Not(s.owes(ME)) if after_delivery else YES
    return both(s.flagged(ME), delivered), replace(s, flagged=put(s.flagged, ME, NO), passes=put(s.passes, ME, NO))


RULES: Mapping[str, Rule] = {
    "LEASE": lease,
    "LEASE, nobody writes": lease_of_nobody,
    "TRUTH": store,
    "TRUTH, nobody hears": store_unanswered,
    "TRUTH, too late": refuse_late,
    "TRUTH, too late, and ABORT": refuse_late_and_abort,
    "COMMIT": commit,
    "COMMIT, late duplicate": commit_duplicate,
    "ABORT": abort,
    "READ": read,
    "READ, late duplicate": read_of_nobody,
    "FIND": find,
    "FILL": fill,
    "FILL, late duplicate": partial(fill, once=False),
    "RELAY, catch-up": forget,
    "a command's deadline passes": command_expires,
    "a lease ends": lease_ends,
    "an ended lease is purged": purge,
    "the quarantine ends": wait_ends,
    "E is evicted": evict_entry,
    "F is evicted": evict_right,
    "FLUSHALL": flush,
    "restart or failover": restart,
    "MongoDB is restored or replaced": restore,
    "a keeper looks for flags": look,
    "a keeper prolongs the token": prolong,
    "a look is older than D": look_ages,
    "the token ends": token_ends,
    "a flag is raised": raise_flag,
    "D has gone by since": wait_d,
    "a write is sent past Redis": pass_by,
    "a write past Redis is stored": passed,
    "a write past Redis is over": pass_is_over,
    "what was written past Redis is delivered": deliver,
    "a dead client is buried": bury,
    "a flag is taken away": lower_flag,
}


class Dropped(NamedTuple):
    """A rule without one precaution, and all invariants that it can break in one step."""

    rule: Rule
    breaks: str


DROPPED: Mapping[str, Dropped] = {
    "LEASE deletes E": Dropped(partial(lease, deletes_entry=False), "I2"),
    "LEASE deletes or takes F": Dropped(partial(lease, deletes_right=False), "I4 I5a I7"),
    "LEASE takes F only when sole": Dropped(partial(lease, only_sole=False), "I4"),
    "LEASE takes F only when open": Dropped(partial(lease, only_open=False), "I4 I10"),
    "LEASE tells only a valid entry": Dropped(partial(lease, tells_valid_only=False), "I13"),
    "MISS gives no right beside a live lease": Dropped(partial(read, heeds_leases=False), "I4 I5a"),
    "MISS gives no right before open": Dropped(partial(read, only_open=False), "I4 I5a I10"),
    "COMMIT installs only with F (newest wins)": Dropped(partial(commit_without_right, only_newer=True), "I1 I2 I10"),
    "COMMIT installs only with F (last wins)": Dropped(partial(commit_without_right, only_newer=False), "I1 I2 I10"),
    "COMMIT installs only with F of this incarnation": Dropped(partial(commit, own_incarnation=False), "I1 I2 I10"),
    "FILL installs only with F": Dropped(partial(fill, needs_right=False), "I1 I2 I10"),
    "FILL installs only with F of this incarnation": Dropped(partial(fill, own_incarnation=False), "I1 I2 I10"),
    "the deadline is in the command": Dropped(partial(store, in_time=False), "I1 I5b I7 I13"),
    "the deadline is in the command (nobody hears)": Dropped(partial(store_unanswered, in_time=False), "I1 I5b I7 I13"),
    "a command's deadline lies before its lease's end": Dropped(partial(lease_ends, after_command=False), "I12"),
    "MongoDB applies the driver's retry once": Dropped(store_twice, "I1 I5b I7 I13"),
    "a lease is released only when the outcome is known": Dropped(release_while_unknown, "I3 I3b"),
    "L is never evicted": Dropped(evict_lease, "I3 I3b"),
    "FLUSHALL also forgets B": Dropped(partial(flush, forgets_birth=False), "I3 I3b"),
    "incarnations are never reused": Dropped(partial(restart, fresh=False), "I1 I2 I4 I5a I5b I6 I7 I8 I10 I13"),
    "entries carry the incarnation": Dropped(restart_of_unstamped, "I1 I2 I10"),
    "a restore begins an era": Dropped(partial(restore, new_era=False), "I1 I5b I7 I13"),
    "READ compares the era": Dropped(era_not_compared, "I1 I10"),
    "COMMIT and FILL compare the era": Dropped(era_not_compared_by_commit, "I5b I7 I10 I13"),
    "a retry of LEASE has a fresh token": Dropped(lease_again, "I5b I7 I13"),
    "a retry of READ has a fresh token": Dropped(partial(read_of_nobody, fresh_token=False), "I5b"),
    "D is waited before the first write past Redis": Dropped(partial(wait_d, tokens_end=False, looks_age=False), "I14"),
    "a token's end is counted from before the look": Dropped(partial(wait_d, looks_age=False), "I14"),
    "a look sees every flag (a majority's, and of its scope)": Dropped(partial(look, sees_flags=False), "I14"),
    "a write goes past Redis only behind a flag": Dropped(partial(pass_by, behind_flag=False), "I15"),
    "a flag goes after the delivery": Dropped(partial(lower_flag, after_delivery=False), "I15"),
    "it is delivered when no write can arrive any more": Dropped(partial(deliver, when_over=False), "I15"),
    "a dead client's flag goes after another era began": Dropped(
        partial(bury, new_era=False), "I1 I2 I4 I5a I5b I7 I13"
    ),
}
