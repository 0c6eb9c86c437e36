"""Processes with one mistake each; the simulator has to find every one."""

from __future__ import annotations

from itertools import count
from typing import Any, Final

from backtest_kit.effects import Effect, HoldRisk, Order, Plan, ReleaseRisk, Tick
from backtest_kit.held import NO_EXTREME
from backtest_kit.keeping import Keeper
from backtest_kit.lifecycle import Lifecycle
from backtest_kit.rules import Rules
from backtest_kit.state import State
from backtest_kit_verify.engine.process import Process
from backtest_kit_verify.engine.world import CONTEXT, client_order_id

BUGS: Final[dict[str, type[Process]]] = {}
BUGS_OF_REFUSALS: Final[dict[str, type[Process]]] = {}
"""Found only when the broker refuses an order."""
_attempts = count()


def _planted(name: str, bugs: dict[str, type[Process]] = BUGS) -> Any:
    def register(process_class: type[Process]) -> type[Process]:
        bugs[name] = process_class
        return process_class

    return register


class _Careless(Keeper):
    """Leaves out some of what is stored in mid-minute."""

    is_accepted = False

    def save(self, as_of: int | None = None) -> Plan[None]:
        if as_of is not None and (self.state.accepted is not None) == self.is_accepted:
            self.state.as_of = as_of
            return
        yield from super().save(as_of)


class _KeepsNoAcceptance(_Careless):
    is_accepted = True


class _LateSlot(Lifecycle):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.keeper = _Careless(self.state)


class _NoAcceptance(Lifecycle):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.keeper = _KeepsNoAcceptance(self.state)


class _NoResume(Lifecycle):
    def _resume(self) -> Plan[None]:
        return
        yield


class _TwoSignals(Lifecycle):
    def _start(self, held: Any, tick: Tick) -> Plan[bool]:
        done = yield from super()._start(held, tick)
        self.state.schedule = held if held.was_scheduled else None
        return done


@_planted("the slot is not stored before the strategy is asked")
class LateSlot(Process):
    lifecycle_class: type[Lifecycle] = _LateSlot


@_planted("what was accepted is not stored before the broker is asked")
class NoAcceptance(Process):
    lifecycle_class: type[Lifecycle] = _NoAcceptance


@_planted("nothing is done again at a restart")
class NoResume(Process):
    lifecycle_class: type[Lifecycle] = _NoResume


@_planted("the schedule is kept when its signal opens")
class TwoSignals(Process):
    lifecycle_class: type[Lifecycle] = _TwoSignals


@_planted("the broker is not asked before an order is sent")
class SendsBlindly(Process):
    def send(self, order: Order) -> bool:
        if client_order_id(order) in self.world.orders:
            self.world.violations.append(f"L2: {order.action} was sent twice")
        return super().send(order)


@_planted("client order ids name the attempt")
class OrderIdsOfAttempts(Process):
    def send(self, order: Order) -> bool:
        self.world.execute(f"{client_order_id(order)}-{next(_attempts)}", order)
        return True


class _StoredTooEarly(Process):
    """The minute is stored as lived before its effects are done."""

    status = ""

    def store(self, domain: str, key: str, row: Any) -> None:
        if domain == "storage" and row["status"] == self.status:
            self.state.as_of = row["updatedAt"]
            super().store("strategy", "", self.state.to_rows()["strategy"])
        super().store(domain, key, row)


@_planted("the close is stored before it is reported")
class ClosedTooEarly(_StoredTooEarly):
    status = "closed"


@_planted("the opening is stored before it is reported")
class OpenedTooEarly(_StoredTooEarly):
    status = "opened"


@_planted("a cancellation is stored before it is reported")
class CancelledTooEarly(_StoredTooEarly):
    status = "cancelled"


@_planted("a close does not give its place in the risk back")
class KeepsRisk(Process):
    def perform(self, effect: Effect[Any]) -> Any:
        return None if isinstance(effect, ReleaseRisk) else super().perform(effect)


@_planted("an open position takes no stored place in the risk")
class TakesNoRisk(Process):
    def perform(self, effect: Effect[Any]) -> Any:
        return None if isinstance(effect, HoldRisk) and effect.is_open else super().perform(effect)


@_planted("missed minutes are left out")
class LeavesOutMissedMinutes(Process):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.next_index = max(self.next_index, self.now)


@_planted("a minute that was stored is lived again")
class LivesAgain(Process):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.next_index = min(self.next_index, self.now)


@_planted("the rows of the readers are taken for the state")
class ReadsReadersRows(Process):
    def restored(self, rules: Rules) -> State:
        rows = dict(self.world.context_rows())
        if rows.get("strategy"):
            rows["strategy"] = {name: value for name, value in (rows["strategy"] or {}).items() if name != "engine"}
        return State.from_rows(CONTEXT, rows, rules)


class _Forgets(Process):
    """A restart that lacks something."""

    def restored(self, rules: Rules) -> State:
        state = super().restored(rules)
        self.forget(state)
        return state

    def forget(self, state: State) -> None:
        raise NotImplementedError


@_planted("levels that were reported are forgotten")
class ForgetsLevels(_Forgets):
    def forget(self, state: State) -> None:
        if state.signal:
            state.signal.profit_levels, state.signal.loss_levels = set(), set()


@_planted("the peak is forgotten")
class ForgetsPeak(_Forgets):
    def forget(self, state: State) -> None:
        if state.signal:
            state.signal.peak = NO_EXTREME


@_planted("trailing stops are forgotten")
class ForgetsTrailing(_Forgets):
    def forget(self, state: State) -> None:
        if state.signal:
            state.signal.trailing_stop = None


@_planted("a close that was asked for is forgotten")
class ForgetsClosing(_Forgets):
    def forget(self, state: State) -> None:
        state.closing = False


@_planted("orders of callbacks that were not executed yet are forgotten")
class ForgetsCommits(_Forgets):
    def forget(self, state: State) -> None:
        state.commits.clear()


@_planted("orders are numbered from the start again")
class ForgetsNumbers(_Forgets):
    def forget(self, state: State) -> None:
        if state.signal:
            state.signal.order_count = 0


@_planted("a refused close counts as one", BUGS_OF_REFUSALS)
class ClosesRegardless(Process):
    def send(self, order: Order) -> bool:
        return super().send(order) or order.action == "close"


@_planted("what the broker refused stays in the position", BUGS_OF_REFUSALS)
class KeepsWhatWasRefused(Process):
    def send(self, order: Order) -> bool:
        return super().send(order) or order.action in ("average", "partial")


@_planted("a refused opening is held", BUGS_OF_REFUSALS)
class HoldsWhatWasRefused(Process):
    def send(self, order: Order) -> bool:
        return super().send(order) or order.action == "open"


@_planted("a restart takes an order that it finds refused for done", BUGS_OF_REFUSALS)
class TakesFoundForDone(Process):
    def send(self, order: Order) -> bool:
        return client_order_id(order) in self.world.turned_down or super().send(order)
