"""One process of the bot: a lifecycle on a world, an effect at a time."""

from __future__ import annotations

from typing import Any

from backtest_kit.effects import AskRisk, AskSignal, Effect, Emit, Gate, HoldRisk, Next, Order, ReleaseRisk, Save
from backtest_kit.events import ACTIONS, EACH_MINUTE
from backtest_kit.identity import MINUTE_MS
from backtest_kit.lifecycle import Lifecycle
from backtest_kit.risk import RiskBook, Risks
from backtest_kit.rules import Rules
from backtest_kit.state import State
from backtest_kit_verify.engine.world import CONTEXT, RISK, Market, World, client_order_id

WANTS = ACTIONS - {"idle"}


class Process:
    """Started at minute `now` on what the world remembers.

    Attributes:
        now: index of the present minute.
        lived: index of the newest minute that was lived to its end.
    """

    lifecycle_class: type[Lifecycle] = Lifecycle

    def __init__(self, world: World, market: Market, rules: Rules, now: int) -> None:
        self.world, self.market, self.now = world, market, now
        self.state = self.restored(rules)
        self.next_index = market.index(self.state.next_minute(market.at(now)))
        self.lived = self.next_index - 1
        book = RiskBook(RISK, [])
        book.restore(world.risk, market.at(now))
        self.risks, self.book = Risks(CONTEXT, [book]), book
        self.plan = self.lifecycle_class(self.state, rules, WANTS, MINUTE_MS).run()
        self.answer: Any = None

    def restored(self, rules: Rules) -> State:
        return State.from_rows(CONTEXT, self.world.context_rows(), rules)

    def step(self) -> Effect[Any]:
        """Perform one effect, and say which."""
        effect: Effect[Any] = self.plan.send(self.answer)
        if not isinstance(effect, Next):
            self.world.version += not (isinstance(effect, Emit) and effect.event.action in EACH_MINUTE)
        self.answer = self.perform(effect)
        return effect

    def live(self, until: int) -> None:
        """Live until minute `until` is over."""
        while self.lived < until:
            self.step()

    def perform(self, effect: Effect[Any]) -> Any:
        match effect:
            case Next():
                return self._next()
            case Emit(event, operations):
                if event.action not in EACH_MINUTE and event.signal is not None:
                    self.world.keep_event(event)
                self.market.act(event, operations)
            case Save(domain, key, row):
                self.store(domain, key, row)
            case AskSignal(at, price):
                return self._ask(at, price)
            case AskRisk(candidate):
                return self.risks.reserve(candidate)
            case HoldRisk(candidate, is_open):
                self.risks.hold(candidate, is_open=is_open)
                self.world.risk = self.book.to_rows()
            case ReleaseRisk():
                self.risks.release()
                self.world.risk = self.book.to_rows()
            case Gate(order):
                return self.send(order)
        return None

    def _next(self) -> Any:
        self.lived = self.next_index - 1
        if self.next_index < self.now and not self.state.is_busy:
            self.lived, self.next_index = self.now - 1, self.now  # Nothing is held: what was missed is over.
        self.now = max(self.now, self.next_index)
        self.next_index += 1
        return self.market.tick(self.next_index - 1)

    def store(self, domain: str, key: str, row: Any) -> None:
        if domain == "storage":
            self.world.kept_rows[key] = row
        else:
            self.world.rows[domain, key] = row

    def send(self, order: Order) -> bool:
        """The broker is asked for the order before it is sent. False: it refuses it."""
        order_id = client_order_id(order)
        if order_id in self.world.refused:
            self.world.turned_down |= {order_id}
            return False
        if order_id not in self.world.orders:
            self.world.execute(order_id, order)
        return True

    def _ask(self, at: int, price: float) -> Any:
        world = self.world
        if at <= world.asked_slot:
            world.violations.append(f"L8: asked again for {at}")
        if self.market.index(at) < self.now:
            world.violations.append(f"L6: asked for the past minute {at}")
        world.asked_slot = max(at, world.asked_slot)
        return self.market.signal(at, price)
