"""Planted bugs of steps: one rule removed each, so that it can be seen that the simulator would notice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from backtest_kit_mongo.backends.memory_cache import MemoryCache
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence import steps as st
from backtest_kit_mongo.errors import WriteOutcomeUnknown
from backtest_kit_verify.simulation.planted import altered
from backtest_kit_verify.simulation.step_parties import LEASE_MS, Variant

SEED, WITHIN = 21, 4_000
"""Each bug is found within so many random schedules of this seed."""


class OnlyFirstEntryDeleted(MemoryCache):
    def lease_all(self, effect: st.LeaseAll) -> fx.Leased | None:
        kept = {key: self._redis.entries[key] for key in effect.keys[1:] if key in self._redis.entries}
        leased = super().lease_all(effect)
        self._redis.entries.update(kept)
        return leased


class InstallsWithoutRight(MemoryCache):
    def commit_all(self, effect: st.CommitAll) -> None:
        for one in effect.done:
            self._redis.rights[one.key] = (self._redis.incarnation, effect.token)
        super().commit_all(effect)


Change = Callable[[Any], Any]


def _wrapped(change: Change) -> Callable[[fx.Plan[Any]], fx.Plan[Any]]:
    return lambda plan: altered(plan, change)


def _first_key_only(effect: Any) -> Any:
    return replace(effect, keys=effect.keys[:1]) if isinstance(effect, st.LeaseAll) else effect


def _without_abort(effect: Any) -> Any:
    return None if isinstance(effect, st.AbortAll) else effect


def _without_defer(effect: Any) -> Any:
    return None if isinstance(effect, fx.Defer) else effect


def _without_name(effect: Any) -> Any:
    if not isinstance(effect, st.CommitAll):
        return effect
    return replace(
        effect,
        done=tuple(one._replace(published=tuple(e._replace(step="") for e in one.published)) for one in effect.done),
    )


def _released_on_unknown(plan: fx.Plan[Any]) -> fx.Plan[Any]:
    resume: Callable[[Any], Any] = plan.send
    argument: Any = None
    held: list[st.AbortAll] = []
    while True:
        try:
            effect = resume(argument)
        except StopIteration as done:
            return done.value
        try:
            resume, argument = plan.send, (yield effect)
            if isinstance(effect, st.LeaseAll) and argument is not None:
                held.append(st.AbortAll(effect.keys, argument.token))
        except BaseException as error:
            if isinstance(error, WriteOutcomeUnknown):
                for release in held:
                    with suppress(fx.CacheDown):
                        yield release
            resume, argument = plan.throw, error


@dataclass(frozen=True)
class StepPlanted:
    """A planted bug: the rule that is dropped, and names of which the first violation must be one."""

    rule: str
    breaks: frozenset[str]
    variant: Variant


def _without(rule: str, breaks: str, **variant: Any) -> StepPlanted:
    return StepPlanted(rule, frozenset(breaks.split()), Variant(**variant))


STEP_PLANTED: Mapping[str, StepPlanted] = {
    "not-all-leased": _without(
        "all keys are leased before the transaction", "I1 I2 I3", wrap=_wrapped(_first_key_only)
    ),
    "one-entry-deleted": _without("LEASE deletes the entries of all keys", "I2", cache_type=OnlyFirstEntryDeleted),
    "installs-early": _without("COMMIT comes after the acknowledgement", "I1 I2 I3 A2 P1", commits_early=True),
    "installs-without-right": _without("COMMIT installs only with F", "I1 I2 I4 I10", cache_type=InstallsWithoutRight),
    "written-one-by-one": _without("one transaction writes all documents", "A1", one_by_one=True),
    "discard-keeps-lease": _without("a step that is given up releases its leases", "A3", wrap=_wrapped(_without_abort)),
    "released-on-unknown": _without("leases are kept while the outcome is unknown", "I3", wrap=_released_on_unknown),
    "short-lease": _without("leases outlive the transaction", "I1 I2 I3 I4", lifetime_ms=0),
    "short-quarantine": _without("a new incarnation is closed as long as any lease", "I1 I2 I3 I4", open_ms=LEASE_MS),
    "retry-with-same-token": _without("a retry leases with a fresh token", "I1 I2 I3 I4 A3", same_token=True),
    "events-without-step": _without("events carry their step", "A2", wrap=_wrapped(_without_name)),
    "bypass-untold": _without(
        "what was written past Redis is informed to it", "P1 P2 I1", wrap=_wrapped(_without_defer)
    ),
    "expectation-ignored": _without("the transaction compares revisions", "A4", ignores_expected=True),
}
