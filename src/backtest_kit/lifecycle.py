"""The life of one context as a generator: what happens in a minute, in which order.

    idle --market, or price_open already reached-----------------> open -> ... -> closed
    idle --price_open not reached--> scheduled -> ... --its price--> open
                                       +--timeout, price_reject, user--> cancelled

No clock, no I/O, no random number: minutes come by `Next`, everything else leaves by effects. A replay, a live tick
and the crash simulator drive this same generator. A `Watch` tells a driver which minutes may be left out; whether
something happens in a minute is decided here alone.

What a restart relies on (durable contexts only, see `keeping`):
- The slot is stored before the strategy is asked: it is asked at most once per slot.
- What is accepted is stored before the broker is asked, with the minute; that minute goes on with it.
- A minute that reported anything ends with storing all of it. What it does before is repeatable: orders have ids
  that are functions of the signal, rows are replaced, events have ids. A minute that was not stored is lived again.
- Orders of callbacks are stored, with the minute, before the broker is asked.
"""

from __future__ import annotations

from typing import Final

from backtest_kit.effects import (
    AskRisk,
    AskSignal,
    Candidate,
    Emit,
    Gate,
    HoldRisk,
    Next,
    Order,
    Plan,
    ReleaseRisk,
    Tick,
    ask,
)
from backtest_kit.events import Event
from backtest_kit.held import Held
from backtest_kit.identity import MINUTE_MS, signal_id
from backtest_kit.keeping import Keeper
from backtest_kit.levels import breakeven_price, progress, reached
from backtest_kit.operations import Operations
from backtest_kit.rules import Rules
from backtest_kit.signals import Pnl, Proposal
from backtest_kit.state import Commit, State
from backtest_kit.validation import is_due, price_faults, shape_faults
from backtest_kit.watching import watch

BROKER_REFUSED: Final = "the broker refused the order"


class Lifecycle:
    """Attributes:
    wants: actions that anybody listens to; others are not reported.
    interval_ms: the strategy is asked once per slot of this length.
    """

    def __init__(self, state: State, rules: Rules, wants: frozenset[str], interval_ms: int) -> None:
        self.state, self.rules, self.wants, self.interval_ms = state, rules, wants, interval_ms
        self.keeper = Keeper(state)

    def run(self) -> Plan[None]:
        """Live until there is no next minute."""
        yield from self._resume()
        while (tick := (yield from ask(Next(watch(self.state, self.rules, self.wants))))) is not None:
            yield from self._minute(tick)
            yield from self._end(tick)

    def _resume(self) -> Plan[None]:
        """Do again what a stop may have left half done. Nothing of it, if nothing is stored."""
        state = self.state
        if not state.context.is_durable:
            return
        held = state.held or state.accepted
        if held is None:
            yield from ask(ReleaseRisk(state.as_of))
        else:
            candidate = Candidate(held.view(), held.pending_at or held.scheduled_at, held.price_open)
            yield from ask(HoldRisk(candidate, is_open=state.signal is not None))
        yield from self.keeper.save()
        if state.commits:
            commit = state.commits[0]
            yield from self._commits(Tick(commit.at, commit.price, commit.price, commit.price, commit.price))
            yield from self.keeper.save()

    def _minute(self, tick: Tick) -> Plan[None]:
        state = self.state
        if state.held is None:
            yield from self._idle(tick)
            if not self.rules.sees_running_candle:
                return  # The candle of this minute is seen by the next one.
        if state.signal is not None:
            yield from self._open(state.signal, tick)
        elif state.schedule is not None:
            yield from self._scheduled(state.schedule, tick)

    def _end(self, tick: Tick) -> Plan[None]:
        state = self.state
        state.as_of = tick.at
        yield from self._commits(tick)
        if state.is_changed:
            yield from self.keeper.save()
            self.keeper.is_repeat = False

    # Idle.

    def _idle(self, tick: Tick) -> Plan[None]:
        state = self.state
        if tick.is_over:
            return
        if state.accepted is not None:
            yield from self._go_on(state.accepted, tick)
            return
        slot = tick.at - tick.at % self.interval_ms
        if state.is_paused or (slot == state.served_slot and state.created is None):
            yield from self._emit("idle", tick, tick.price)
            return
        state.served_slot = slot
        queued, state.created = state.created, None  # It waits for no slot, and a refusal costs none.
        proposal = queued
        if proposal is None:
            yield from self.keeper.save(tick.at - MINUTE_MS)
            proposal = tick.proposal if tick.was_asked else (yield from ask(AskSignal(tick.at, tick.price)))
        if proposal is None or not (yield from self._take(proposal, tick)):
            if queued is not None:
                state.served_slot = -1
            yield from self._emit("idle", tick, tick.price)

    def _take(self, proposal: Proposal, tick: Tick) -> Plan[bool]:
        """Schedule or open what was proposed. False: it was refused."""
        state = self.state
        state.is_changed = True
        price = tick.price if proposal.price_open is None else proposal.price_open
        found = self._foreign(proposal) or shape_faults(proposal, price, self.rules)
        if found:
            yield from self._refuse(found, tick)
            return False
        held = self._held(proposal, price, tick)
        rejection = yield from ask(AskRisk(Candidate(held.view(), tick.at, tick.price)))
        if rejection is not None:
            state.served_slot = -1
            yield from self._emit("rejected", tick, tick.price, held, reason=rejection)
            return False
        is_now = is_due(proposal, tick.price)
        found = price_faults(proposal, price, tick.price if is_now else None, self.rules)
        if found:
            yield from ask(ReleaseRisk(tick.at))
            yield from self._refuse(found, tick)
            return False
        held.was_scheduled = not is_now
        state.accepted, state.is_opening = held, is_now
        yield from self.keeper.save(tick.at - MINUTE_MS)
        return (yield from self._go_on(held, tick))

    def _refuse(self, found: list[str], tick: Tick) -> Plan[None]:
        yield from self._emit("invalid", tick, tick.price, reason="; ".join(found))

    def _foreign(self, proposal: Proposal) -> list[str]:
        context = self.state.context
        if proposal.symbol is not None and proposal.symbol != context.symbol:
            return [f"symbol is {proposal.symbol!r}, and this context trades {context.symbol!r}"]
        if proposal.id is not None and proposal.id == self.state.last_id:
            return [f"id {proposal.id!r} is that of the signal before"]
        return []

    def _held(self, proposal: Proposal, price_open: float, tick: Tick) -> Held:
        rules = self.rules
        return Held(
            proposal.id or signal_id(self.state.context, tick.at),
            proposal.position,
            price_open,
            proposal.take_profit,
            proposal.stop_loss,
            int(rules.default_minutes if proposal.minutes is None else proposal.minutes),
            rules.default_cost if proposal.cost is None else proposal.cost,
            proposal.note,
            tick.at,
        )

    def _go_on(self, held: Held, tick: Tick) -> Plan[bool]:
        """With what was accepted. False: the broker refused it."""
        if self.state.is_opening:
            return (yield from self._start(held, tick))
        self.state.schedule, self.state.accepted = held, None
        yield from ask(HoldRisk(Candidate(held.view(), tick.at, tick.price), is_open=False))
        yield from self.keeper.record("scheduled", held, tick.at, tick.price)
        yield from self._emit("scheduled", tick, tick.price, held)
        return True

    def _start(self, held: Held, tick: Tick) -> Plan[bool]:
        """Open a position at its price_open."""
        state = self.state
        is_done = yield from self._gate("open", held, tick, held.price_open, held.cost)
        state.accepted, state.is_opening = None, False
        if not is_done:
            yield from self._emit("rejected", tick, held.price_open, held, reason=BROKER_REFUSED)
            if held.was_scheduled:
                yield from self._cancel(held, tick, "user")
            else:
                yield from ask(ReleaseRisk(tick.at))
            return False
        held.open(tick.at, self.rules)
        state.signal, state.last_id = held, held.id
        yield from ask(HoldRisk(Candidate(held.view(), tick.at, tick.price), is_open=True))
        yield from self.keeper.record("opened", held, tick.at, held.price_open)
        yield from self._emit("opened", tick, held.price_open, held)
        return True

    # Scheduled.

    def _scheduled(self, held: Held, tick: Tick) -> Plan[None]:
        state, at = self.state, tick.at
        if tick.is_over:
            yield from self._cancel(held, tick, "timeout")
        elif state.cancelling:
            yield from self._cancel(held, tick, "user")
        elif state.activating:
            yield from self._activate(held, tick)
        elif at - held.scheduled_at >= self.rules.schedule_timeout_minutes * MINUTE_MS:
            yield from self._cancel(held, tick, "timeout")
        elif self._is_touched(held, tick, held.stop_loss):
            yield from self._cancel(held, tick, "price_reject")
        elif self._is_touched(held, tick, held.price_open):
            yield from self._activate(held, tick)
        else:
            yield from self._emit("schedule_ping", tick, tick.mark, held)

    def _is_touched(self, held: Held, tick: Tick, level: float) -> bool:
        return tick.low <= level if held.sign > 0 else tick.high >= level

    def _activate(self, held: Held, tick: Tick) -> Plan[None]:
        state = self.state
        rejection = yield from ask(AskRisk(Candidate(held.view(), tick.at, held.price_open)))
        if rejection is not None:
            yield from self._emit("rejected", tick, held.price_open, held, reason=rejection)
            yield from self._cancel(held, tick, "user")
            return
        if state.activating:
            yield from self._emit("commit", tick, tick.mark, held, commit="activate-scheduled")
        state.schedule, state.activating, state.cancelling = None, False, False
        state.accepted, state.is_opening = held, True
        yield from self.keeper.save(tick.at - MINUTE_MS)
        yield from self._start(held, tick)

    def _cancel(self, held: Held, tick: Tick, reason: str) -> Plan[None]:
        state = self.state
        state.schedule, state.cancelling, state.activating, state.is_changed = None, False, False, True
        yield from ask(ReleaseRisk(tick.at))
        yield from self.keeper.record("cancelled", held, tick.at, tick.mark)
        if reason == "user":
            yield from self._emit("commit", tick, 0.0, held, commit="cancel-scheduled")
        yield from self._emit("cancelled", tick, tick.mark, held, reason=reason)

    # Open.

    def _open(self, held: Held, tick: Tick) -> Plan[None]:
        if tick.skipped is not None:
            self._fold(held, tick)
        closing = self._why_close(held, tick)
        if closing is not None:
            yield from self._close(held, tick, *closing)
            return
        yield from self._extremes(held, tick)
        entry, take, stop = held.entry, held.take, held.stop  # Levels are those of before the callback.
        yield from self._emit("active_ping", tick, tick.mark, held)
        if not self.state.closing:
            yield from self._levels(held, tick, entry, take, stop)

    def _why_close(self, held: Held, tick: Tick) -> tuple[str, float] | None:
        """Reason and price."""
        if tick.is_over:
            return "time_expired", tick.mark
        if self.state.closing:
            return "closed", tick.mark
        if tick.at - held.pending_at >= held.minutes * MINUTE_MS:
            return "time_expired", tick.mark
        is_touch = self.rules.stop_rule == "touch"
        if is_touch and self._is_touched(held, tick, held.stop):
            return "stop_loss", held.stop
        if held.gain(tick.mark, held.take) >= 0:
            return "take_profit", held.take
        if not is_touch and held.gain(tick.mark, held.stop) <= 0:
            return "stop_loss", held.stop
        return None

    def _close(self, held: Held, tick: Tick, reason: str, price: float) -> Plan[None]:
        state = self.state
        state.is_changed = True
        yield from self._commits(tick)
        if not (yield from self._gate("close", held, tick, price, held.remaining())):
            held.order_count += 1  # The next minute tries again, with an order of its own.
            return
        if reason != "closed":  # As in the original, a close by the strategy leaves peak and fall alone.
            held.end(price, tick.at, self.rules)
        state.signal, state.closing, state.note = None, False, ""
        pnl = held.pnl(price, self.rules)
        yield from ask(ReleaseRisk(tick.at))
        yield from self.keeper.record("closed", held, tick.at, price, reason, pnl)
        if reason == "closed":
            yield from self._emit("commit", tick, 0.0, held, commit="close-pending")
        yield from self._emit("closed", tick, price, held, reason=reason, pnl=pnl)

    def _fold(self, held: Held, tick: Tick) -> None:
        """Minutes that were left out had no event; their prices count for peak and fall."""
        assert tick.skipped is not None
        high, high_at, low, low_at = tick.skipped
        for price, at in ((high, high_at), (low, low_at)):
            held.rise(price, at, self.rules)
            held.sink(price, at, self.rules)

    def _extremes(self, held: Held, tick: Tick) -> Plan[None]:
        if held.rise(tick.mark, tick.at, self.rules):
            yield from self._emit("highest_profit", tick, tick.mark, held, with_pnl=True)
        elif held.sink(tick.mark, tick.at, self.rules):
            yield from self._emit("max_drawdown", tick, tick.mark, held, with_pnl=True)

    def _levels(self, held: Held, tick: Tick, entry: float, take: float, stop: float) -> Plan[None]:
        mark = tick.mark
        if not held.has_broken_even and held.gain(mark, breakeven_price(held.sign, entry, self.rules)) >= 0:
            held.has_broken_even = True
            yield from self._emit("breakeven", tick, mark, held)
        gain = held.gain(mark, entry)
        if gain == 0:
            return
        reported = held.profit_levels if gain > 0 else held.loss_levels
        target = take if gain > 0 else stop
        for level in reached(progress(entry, target, mark), reported):
            reported.add(level)
            yield from self._emit("partial_profit" if gain > 0 else "partial_loss", tick, mark, held, level=level)

    # Effects.

    def _commits(self, tick: Tick) -> Plan[None]:
        """Execute and tell what callbacks did."""
        state, held = self.state, self.state.signal
        while state.commits:
            yield from self.keeper.save()
            commit = state.commits.pop(0)
            if commit.cost and held is not None and not (yield from self._order(commit, held)):
                self._undo(commit, held)
                yield from self._emit("rejected", tick, commit.price, held, reason=BROKER_REFUSED, commit=commit.kind)
                continue
            kind, amount, number = commit.kind, commit.amount, commit.number
            yield from self._emit("commit", tick, commit.price, held, commit=kind, amount=amount, number=number)

    def _undo(self, commit: Commit, held: Held) -> None:
        """Take back what was refused. Parts that are closed after it are percents of what is left then."""
        commits = self.state.commits
        is_buy = commit.kind == "average-buy"
        held.undo(commit.kind, sum(bool(one.cost) and (one.kind == "average-buy") == is_buy for one in commits))
        parts = [index for index, one in enumerate(commits) if one.cost and one.kind != "average-buy"]
        for index, partial in zip(reversed(parts), reversed(held.partials), strict=False):
            commits[index] = commits[index]._replace(cost=partial.cost_basis * partial.percent / 100)

    def _order(self, commit: Commit, held: Held) -> Plan[bool]:
        action = "average" if commit.kind == "average-buy" else "partial"
        order = Order(action, held.view(), commit.number, commit.at, commit.price, commit.cost)
        return (yield from ask(Gate(order)))

    def _gate(self, action: str, held: Held, tick: Tick, price: float, cost: float) -> Plan[bool]:
        return (yield from ask(Gate(Order(action, held.view(), held.order_count, tick.at, price, cost))))

    def _emit(
        self,
        action: str,
        tick: Tick,
        price: float,
        held: Held | None = None,
        *,
        reason: str | None = None,
        level: int | None = None,
        commit: str | None = None,
        amount: float | None = None,
        pnl: Pnl | None = None,
        number: int = 0,
        with_pnl: bool = False,
    ) -> Plan[None]:
        if action not in self.wants:
            return
        if action != "idle":
            self.state.is_changed = True
        if with_pnl and held is not None:
            pnl = held.pnl(price, self.rules)
        view = held.view() if held is not None else None
        repeat = self.keeper.is_repeat
        event = Event(action, tick.at, price, view, reason, level, commit, amount, pnl, number, repeat)
        yield from ask(Emit(event, Operations(self.state, self.rules, tick.at, tick.price)))
