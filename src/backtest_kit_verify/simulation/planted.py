"""Planted bugs: the protocol with one rule removed, so that it can be seen that the simulator would notice.

Each row names the rule, the invariants or promises that fall with it, and within how many random schedules the
simulator must see one of them fall. Read it as the list of what every rule is for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence import lists
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.errors import WriteOutcomeUnknown
from backtest_kit_verify.simulation.planted_caches import (
    CommitKeepsEarlyEntry,
    CommitWhenNewest,
    CommitWhenNoOtherLease,
    DeferKeepsEntry,
    DeferKeepsRight,
    EntriesOutliveTheirEra,
    EntriesWithoutIncarnation,
    FillWithoutRight,
    FlushKeepsBirth,
    IncarnationReused,
    LeaseKeepsEntry,
    LeaseKeepsRight,
    LeaseTakesRightBeforeOpen,
    LeaseTakesRightBesideOthers,
    ReadGivesRightBeforeOpen,
    ReadIgnoresLeases,
    RestoreBeginsNoEra,
    RightOfAnyIncarnation,
    RightsOutliveTheirEra,
)
from backtest_kit_verify.simulation.workload import DOCUMENT, LIST, Variant

SEED = 2
"""Of the random schedules that `Planted.within` counts."""
EASY, HARD = 500, 20_000
"""How many of them. Hard bugs need several things to go wrong one after the other."""

# -- plans

Mutation = Callable[[fx.Effect[Any]], fx.Effect[Any] | None]


def altered(plan: fx.Plan[Any], change: Mutation) -> fx.Plan[Any]:
    """A plan whose effects are changed on their way; what becomes None is not asked for, and answered with None."""
    step: Callable[[Any], fx.Effect[Any]] = plan.send
    argument: Any = None
    while True:
        try:
            effect = change(step(argument))
        except StopIteration as done:
            return done.value
        try:
            step, argument = plan.send, None if effect is None else (yield effect)
        except BaseException as error:
            step, argument = plan.throw, error


def without_deadline(plan: fx.Plan[Any], _: lists.KnownRows | None) -> fx.Plan[Any]:
    return altered(plan, lambda effect: replace(effect, deadline_s=None) if isinstance(effect, fx.Upsert) else effect)


def without_defer(plan: fx.Plan[Any], _: lists.KnownRows | None) -> fx.Plan[Any]:
    return altered(plan, lambda effect: None if isinstance(effect, fx.Defer) else effect)


def released_on_unknown(plan: fx.Plan[Any], _: lists.KnownRows | None) -> fx.Plan[Any]:
    step: Callable[[Any], fx.Effect[Any]] = plan.send
    argument: Any = None
    leased: fx.Leased | None = None
    while True:
        try:
            effect = step(argument)
        except StopIteration as done:
            return done.value
        try:
            step, argument = plan.send, (yield effect)
            leased = argument if isinstance(effect, fx.Lease) else leased
        except BaseException as error:
            if leased and isinstance(error, WriteOutcomeUnknown):
                with suppress(fx.CacheDown):
                    yield fx.Abort(DOCUMENT, leased.token)
            step, argument = plan.throw, error


def trusting_any_stamp(plan: fx.Plan[Any], snapshot: lists.KnownRows | None) -> fx.Plan[Any]:
    """A merge relies on what its process remembers, whoever wrote the list since."""
    leased = yield plan.send(None)
    if leased and snapshot:
        leased = leased._replace(prior=Record(LIST, id=snapshot.stamp))
    try:
        effect = plan.send(leased)
        while True:
            effect = plan.send((yield effect))
    except StopIteration as done:
        return done.value


def row_trusting_any_stamp(plan: fx.Plan[Any], snapshot: lists.KnownRows | None) -> fx.Plan[Any]:
    """A row's writer goes on from what its process remembers, whoever wrote the list since. Merges do as they
    should.
    """
    return (yield from (trusting_any_stamp if _is_put(plan) else unchanged)(plan, snapshot))


def row_keeps_snapshot(plan: fx.Plan[Any], snapshot: lists.KnownRows | None) -> fx.Plan[Any]:
    """What a process remembers of its own row is not brought up to date by its own write of it."""
    merged = yield from plan
    return replace(merged, seen={}) if _is_put(plan) and merged.extends else merged


def unchanged(plan: fx.Plan[Any], _: lists.KnownRows | None) -> fx.Plan[Any]:
    return (yield from plan)


def _is_put(plan: Any) -> bool:
    return bool(plan.__name__ == "put")


@dataclass(frozen=True)
class Planted:
    """A planted bug.

    Attributes:
        rule: the rule that is dropped, as the protocol states it.
        breaks: names of which at least the first violation must be one.
        within: random schedules that must be enough to see it.
        faults: other things than time and order have to go wrong.
        key: what it is looked for on.
    """

    rule: str
    variant: Variant
    breaks: frozenset[str]
    within: int
    faults: bool = True
    key: Key = DOCUMENT


def without(
    rule: str, breaks: str, *, within: int = EASY, faults: bool = True, key: Key = DOCUMENT, **variant: Any
) -> Planted:
    """A bug by the rule that is dropped, and the part of the variant that drops it."""
    return Planted(rule, Variant(**variant), frozenset(breaks.split()), within, faults, key)


PLANTED: Mapping[str, Planted] = {
    "lease-keeps-entry": without("LEASE deletes E", "I2", faults=False, cache_type=LeaseKeepsEntry),
    "lease-keeps-right": without("LEASE deletes or takes F", "I4 I5a I7", faults=False, cache_type=LeaseKeepsRight),
    "lease-not-sole": without(
        "LEASE takes F only when sole", "I4", faults=False, cache_type=LeaseTakesRightBesideOthers
    ),
    "lease-not-open": without("LEASE takes F only when open", "I4 I10", cache_type=LeaseTakesRightBeforeOpen),
    "read-beside-lease": without(
        "MISS gives no right beside a live lease", "I4 I5a", faults=False, cache_type=ReadIgnoresLeases
    ),
    "read-not-open": without("MISS gives no right before open", "I4 I5a I10", cache_type=ReadGivesRightBeforeOpen),
    "commit-first-draft": without(
        "COMMIT installs only with F (the first draft: newest revision, no other live lease)",
        "I1 I2 I10",
        faults=False,
        cache_type=CommitWhenNewest,
    ),
    "commit-no-other-lease": without(
        "COMMIT installs only with F (whenever no other live lease)",
        "I1 I2 I10",
        faults=False,
        cache_type=CommitWhenNoOtherLease,
    ),
    "fill-without-right": without("FILL installs only with F", "I1 I2 I10", faults=False, cache_type=FillWithoutRight),
    "right-of-any-incarnation": without(
        "COMMIT and FILL install only with F of this incarnation",
        "I1 I2 I10",
        within=HARD,
        cache_type=RightOfAnyIncarnation,
    ),
    "write-after-deadline": without(
        "a command's deadline lies before its lease's end", "I1 I5b I7", faults=False, wrap=without_deadline
    ),
    "late-command": without(
        "the deadline is in the command: MongoDB refuses what arrives after it",
        "I1 I5b I7",
        within=HARD,
        deadline_in_command=False,
    ),
    "released-on-unknown": without(
        "a lease is released only when the outcome is known", "I3 I3b", wrap=released_on_unknown
    ),
    "leases-evicted": without("L is never evicted", "I3 I3b", extra_faults=("evict-leases",)),
    "flush-keeps-birth": without("FLUSHDB also forgets B", "I3 I3b", redis_type=FlushKeepsBirth),
    "incarnation-reused": without(
        "incarnations are never reused", "I1 I2 I3 I4 I5a I5b I7 I10", redis_type=IncarnationReused
    ),
    "entry-without-incarnation": without(
        "entries carry the incarnation", "P1 P2", within=HARD, cache_type=EntriesWithoutIncarnation
    ),
    "restore-without-era": without(
        "a restore begins an era", "I1 I5b I7 P1 P2", within=HARD, redis_type=RestoreBeginsNoEra
    ),
    "entry-without-era": without("READ compares the era", "I1 I10", within=HARD, redis_type=EntriesOutliveTheirEra),
    "right-without-era": without(
        "COMMIT and FILL compare the era", "I5b I7 I10", within=HARD, redis_type=RightsOutliveTheirEra
    ),
    "token-unread": without("READ serves only while the token lives", "P1", within=HARD, reads_token=False),
    "no-wait": without("D is waited before the first write past Redis", "I14 P1", within=HARD, waits=False),
    "asked-after-look": without(
        "a token's end is counted from before the look", "I14 P1", within=HARD, asks_before=False
    ),
    "flag-unseen": without(
        "a look sees every flag (a majority's)", "I14 P1", within=HARD, sees_flag=lambda client: False
    ),
    "flag-of-other-scope": without(
        "a look sees every flag (of its scope)", "I14 P1", within=HARD, sees_flag=lambda client: client % 2 == 0
    ),
    "flag-before-delivery": without("a flag goes after the delivery", "I15 P1", within=HARD, delivers_before=False),
    "flag-while-passing": without(
        "a flag goes when no write past Redis can arrive any more", "I1 I15 P1 P2", within=HARD, lowers_settled=False
    ),
    "buried-in-same-era": without(
        "a dead client's flag goes after another era began",
        "I1 I2 I4 I5a I5b I7 P1 P2",
        within=HARD,
        faults=False,
        buries_in_era=False,
        extra_faults=("cut", "cut", "crash", "crash", "bury"),
    ),
    "no-timer": without("a client comes back without being used", "P6", within=HARD, timer=False),
    "retry-with-same-token": without(
        "fresh token on retry of LEASE / MISS", "I5a I5b I7 I1", within=HARD, fresh_tokens=False
    ),
    "relay-keeps-entry": without("RELAY and the catch-up delete E", "I1 P1 P2", cache_type=DeferKeepsEntry),
    "relay-keeps-right": without(
        "RELAY and the catch-up delete F", "I5b I7 I1", within=HARD, cache_type=DeferKeepsRight
    ),
    "commit-keeps-early-entry": without(
        "COMMIT without a live lease deletes E and F", "I1 I5b I7 P1", within=HARD, cache_type=CommitKeepsEarlyEntry
    ),
    "left-overdue": without(
        "COMMIT is waited for if MongoDB acknowledged after the deadline",
        "I1 I5b I7 P1",
        within=HARD,
        waits_if_overdue=False,
    ),
    "overdue-unshut": without(
        "who loses Redis with a COMMIT that is overdue goes through the door before its write returns",
        "I1 I5b I7 P1",
        within=HARD,
        faults=False,
        shuts_if_overdue=False,
        extra_faults=("stall", "stall", "timeout", "timeout"),
    ),
    "settled-by-another": without(
        "a write past Redis is settled by its own acknowledgement, not by another's COMMIT",
        "I1 I2 I5a I5b I7 I15 P1 P2",
        within=HARD,
        faults=False,
        settles_own=False,
        extra_faults=("timeout", "cut", "unknown", "heal", "return"),
    ),
    "left-forgotten": without("what nobody waits for is kept until its answer", "P8", keeps_left=False),
    "bypass-untold": without("a bypassed write is kept for the catch-up", "P8", within=HARD, wrap=without_defer),
    "stamp-kept": without("LEASE deletes E (a list's stamp)", "I2", faults=False, key=LIST, cache_type=LeaseKeepsEntry),
    "stamp-trusted": without(
        "a list's rows are remembered only under one's own stamp",
        "P5 I7",
        faults=False,
        key=LIST,
        wrap=trusting_any_stamp,
    ),
    "row-stamp-trusted": without(
        "a row's writer goes on from his snapshot only if LEASE gave him its stamp",
        "P5 I7",
        faults=False,
        within=HARD,
        key=LIST,
        wrap=row_trusting_any_stamp,
    ),
    "row-not-remembered": without(
        "what is remembered of a list follows one's own writes of rows",
        "P5",
        faults=False,
        within=HARD,
        key=LIST,
        wrap=row_keeps_snapshot,
    ),
}
