"""The driver of the simulator: it performs one step of one plan at a time, in the order that it is given.

Plans are pure: what a plan asks for next depends on nothing but the answers that it was given. So a plan is a tree, one
branch for each answer, and every node of it is computed once, by running the shipped generator with that history of
answers, and remembered. Millions of interleavings then cost a dictionary look-up a step, and a simulated client is a
place in a tree, which, unlike a generator, can be copied, compared and returned to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from backtest_kit_mongo.coherence import deletion, lists
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.record import Record
from backtest_kit_mongo.errors import BacktestKitError, ServerUnreachable, WriteOutcomeUnknown, WriteRefused

MakePlan: TypeAlias = Callable[[], fx.Plan[Any]]
Content: TypeAlias = tuple[Any, ...]
"""What an answer says, as a value that can be compared and hashed."""

READ, LEASE, COMMIT, FILL, ABORT, PUBLISH, DEFER, LOOK, STORE, DONE, FAILED = range(11)
"""Kinds of steps. Up to DEFER the cache performs them, LOOK and STORE the truth; DONE and FAILED end a plan."""

KINDS: Mapping[type[fx.Effect[Any]], int] = {
    fx.CacheRead: READ,
    fx.Lease: LEASE,
    fx.Commit: COMMIT,
    fx.Fill: FILL,
    fx.Abort: ABORT,
    fx.Publish: PUBLISH,
    fx.Defer: DEFER,
    fx.Find: LOOK,
    lists.Rows: LOOK,
    fx.Upsert: STORE,
    fx.SoftRemove: STORE,
    deletion.Delete: STORE,
    lists.Merge: STORE,
}


class Answer:
    """What a plan is answered. Equal answers of one simulation are the same object, so they are compared by identity.

    Attributes:
        value: sent into the plan, unless `error` is set.
        error: raised in the plan.
        token: the number of the token that the answer carries, -1 for none.
        stamp: the number of the token that is the stamp of the entry that LEASE deleted, -1 for none.
    """

    __slots__ = ("error", "stamp", "token", "value")

    def __init__(self, value: Any = None, error: type[BaseException] | None = None) -> None:
        self.value = value
        self.error = error
        self.token = -1
        self.stamp = -1
        if isinstance(value, fx.Leased | fx.Right) and value.token:
            self.token = int(value.token)
        if isinstance(value, fx.Leased) and value.prior is not None and value.prior.id:
            self.stamp = int(value.prior.id)

    def __repr__(self) -> str:
        return self.error.__name__ if self.error else repr(self.value)


PASSED_BY = Answer(fx.Leased("", 0.0))
NO_RIGHT = Answer(fx.Right(""))
NOTHING = Answer(None)
CACHE_DOWN = Answer(error=fx.CacheDown)
NOT_SENT = Answer(error=ServerUnreachable)
REFUSED = Answer(error=WriteRefused)
OUTCOME_UNKNOWN = Answer(error=WriteOutcomeUnknown)

UNREACHED: Mapping[int, Answer] = {
    READ: NO_RIGHT,
    LEASE: PASSED_BY,
    COMMIT: CACHE_DOWN,
    PUBLISH: CACHE_DOWN,
    FILL: CACHE_DOWN,
    ABORT: CACHE_DOWN,
    DEFER: NOTHING,
}
"""What a client that cannot reach Redis answers its plans under `CC_ON_REDIS_DOWN=bypass`."""


class Step:
    """A place in a plan: what it asks for after a certain history of answers, or how it ended.

    Attributes:
        answers: the history.
        effect: what is asked for; None at the end.
        result: the plan's answer if `kind` is DONE, its error if it is FAILED.
        content: a result that is a record, as a value.
        asked: the effect as text. Equal effects come from many places.
        performed: for whoever performs the effect, to remember by the state that it meets: (new state, answer, the step
            that follows).
    """

    __slots__ = ("_after", "_make", "answers", "asked", "content", "effect", "kind", "performed", "result")

    def __init__(self, make: MakePlan, answers: tuple[Answer, ...] = ()) -> None:
        self._make = make
        self.answers = answers
        self._after: dict[Answer, Step] = {}
        self.performed: dict[int, tuple[int, Answer, Step]] = {}
        self.effect: fx.Effect[Any] | None = None
        self.result: Any = None
        self.content: Content = ()
        try:
            plan = make()
            effect = plan.send(None)
            for answer in answers:
                effect = plan.throw(answer.error()) if answer.error else plan.send(answer.value)
        except StopIteration as done:
            self.kind = DONE
            self.result = done.value
            if isinstance(done.value, Record):
                self.content = content_of(done.value)
        except BacktestKitError as error:
            self.kind = FAILED
            self.result = error
        else:
            self.kind = KINDS[type(effect)]
            self.effect = effect
            self.asked = repr(effect)
            # What a crash does to a plan: it may not ask for anything any more, and Python raises if it does.
            plan.close()

    def follow(self, answer: Answer) -> Step:
        """The step after this one was answered so."""
        found = self._after.get(answer)
        if found is None:
            found = self._after[answer] = Step(self._make, (*self.answers, answer))
        return found


def content_of(record: Record) -> Content:
    """A record as a value."""
    return (record.key, record.rev, record.removed, record.id, pack(record.payload))


class Answers:
    """One object for each different answer."""

    def __init__(self) -> None:
        self._known: dict[Content, Answer] = {}

    def answer(self, value: Any) -> Answer:
        content = _content_of_answer(value)
        found = self._known.get(content)
        if found is None:
            found = self._known[content] = Answer(value)
        return found


def _content_of_answer(value: Any) -> Content:
    if isinstance(value, Record):
        return content_of(value)
    if isinstance(value, fx.Leased):
        return ("lease", value.token, value.deadline_s, value.prior and content_of(value.prior))
    if isinstance(value, fx.Right):
        return ("right", value.token)
    if isinstance(value, Mapping):
        return ("rows", *(content_of(record) for record in value.values()))
    if isinstance(value, tuple):
        return ("written", *(content_of(published.record) for published in value))
    assert value is None, value
    return ("nothing",)
