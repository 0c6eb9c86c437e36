"""The original's scenarios of live trading, and what a restart begins with."""

from __future__ import annotations

from typing import Any

from backtest_kit.effects import AskRisk, AskSignal, Emit, HoldRisk, Next, ReleaseRisk, Tick
from backtest_kit.events import Event
from backtest_kit.identity import ContextId
from backtest_kit.lifecycle import Lifecycle
from backtest_kit.risk import RiskBook, Risks
from backtest_kit.rules import DEFAULT
from backtest_kit.signals import long
from backtest_kit.state import State
from backtest_kit_verify.engine.process import Process
from backtest_kit_verify.engine.scripted import ScriptedLive
from backtest_kit_verify.engine.world import CONTEXT, Market, World
from tests.engine.support import START_MS, at, flat

MINUTE_MS = 60_000


def vector(*steps: tuple[int, float], plan: list[dict[str, Any]], end: int) -> dict[str, Any]:
    columns = flat(*steps, minutes=end + 5)
    rows = zip(
        columns.timestamp.tolist(),
        *(values.tolist() for values in (columns.open, columns.high, columns.low, columns.close, columns.volume)),
        strict=True,
    )
    return {"frame": {"start": START_MS, "end": at(end)}, "candles": [list(row) for row in rows], "plan": plan}


def proposed(minute: int, **others: Any) -> dict[str, Any]:
    prices = {"priceTakeProfit": 102, "priceStopLoss": 98, "minuteEstimatedTime": 30}
    return {"at": at(minute), "position": "long", "note": f"p{minute}", **prices, **others}


def test_a_live_position_tells_its_levels_and_leaves_nothing_behind() -> None:
    scenario = vector((0, 100), (2, 101), (4, 103), plan=[proposed(0, id="A")], end=8)
    reported = ScriptedLive(scenario, DEFAULT).run().events
    levels: dict[int, list[Any]] = {(row["at"] - START_MS) // MINUTE_MS: [] for row in reported}
    for row in reported:
        levels[(row["at"] - START_MS) // MINUTE_MS].append(row["level"] or row["action"])
    assert levels == {0: ["opened"], 3: [10], 4: [20], 5: ["breakeven", 30, 40, 50], 6: [60, 70], 7: ["closed"]}
    assert (reported[-1]["currentPrice"], round(reported[-1]["pnl"]["pnlPercentage"], 4)) == (102, 1.5944)
    market, world = Market(scenario, DEFAULT), World()
    Process(world, market, DEFAULT, market.start).live(market.end)
    assert world.rows["signal", ""] is None
    assert (world.risk, world.rows["partial", "A"], world.rows["breakeven", "A"]) == ([], {}, {})
    assert [(row["id"], row["status"]) for row in world.kept_rows.values()] == [("A", "closed")]


def test_a_stop_while_opening_leaves_one_position_that_closes_as_if_nothing_had_been() -> None:
    scenario = vector((0, 100), (3, 103), plan=[proposed(minute) for minute in range(7)], end=12)
    market = Market(scenario, DEFAULT)
    for stop in range(1, 60):
        world = World()
        process = Process(world, market, DEFAULT, market.start)
        for _ in range(stop):
            process.step()
        again = Process(world, market, DEFAULT, max(process.next_index - 1, market.start))
        again.live(market.start + 8)
        (row,) = world.kept_rows.values()
        assert (row["status"], row["closeTimestamp"], row["currentPrice"]) == ("closed", at(7), 102)
        assert round(row["pnl"]["pnlPercentage"], 4) == 1.5944
        assert (world.risk, len(world.orders)) == ([], 2)


class Bot:
    """One of several contexts that share a risk, reported minute by minute."""

    def __init__(self, symbol: str, book: RiskBook) -> None:
        context = ContextId(symbol, "strategy", "exchange", "", "paper")
        self.risks, self.events = Risks(context, [book]), list[Event]()
        wants = frozenset({"opened", "closed", "rejected"})
        self.plan = Lifecycle(State(context), DEFAULT, wants, MINUTE_MS).run()
        self.answer: Any = None
        self.live_to_next()

    def tick(self, minute: int, price: float) -> None:
        self.answer = Tick(at(minute), price, price, price, price)
        self.live_to_next()

    def live_to_next(self) -> None:
        while not isinstance(effect := self.plan.send(self.answer), Next):
            self.answer = self.perform(effect)

    def perform(self, effect: Any) -> Any:
        match effect:
            case Emit(event):
                self.events.append(event)
            case AskSignal(_, price):
                return long(take_profit=price * 1.02, stop_loss=price * 0.98, minutes=3)
            case AskRisk(candidate):
                return self.risks.reserve(candidate)
            case HoldRisk(candidate, is_open):
                self.risks.hold(candidate, is_open=is_open)
            case ReleaseRisk():
                self.risks.release()
        return True

    def reported(self) -> list[tuple[str, int]]:
        return [(event.action, (event.at - START_MS) // MINUTE_MS) for event in self.events]


def test_a_risk_of_one_position_lets_the_second_open_in_the_minute_in_which_the_first_closed() -> None:
    book = RiskBook("one", [lambda request: "one is enough" if request.count else None])
    first, second = Bot("BTCUSDT", book), Bot("ETHUSDT", book)
    for minute in range(4):
        for bot in (first, second):
            bot.tick(minute, 100.0)
    assert first.reported() == [("opened", 0), ("closed", 3)]
    assert second.reported() == [("rejected", 0), ("rejected", 1), ("rejected", 2), ("opened", 3)]
    assert [position["symbol"] for _, position in book.to_rows()] == ["ETHUSDT"]


def test_a_position_that_the_original_stored_is_taken_over() -> None:
    scenario = vector((0, 100), (2, 101), (4, 103), plan=[proposed(0, id="A")], end=12)
    market, world = Market(scenario, DEFAULT), World()
    process = Process(world, market, DEFAULT, market.start)
    process.live(market.start + 5)
    rows: dict[str, Any] = dict(world.context_rows())
    rows["strategy"] = {name: value for name, value in rows["strategy"].items() if name != "engine"}
    rows |= {"partial": world.rows["partial", "A"], "breakeven": world.rows["breakeven", "A"]}
    taken = State.from_rows(CONTEXT, rows, DEFAULT)
    assert taken.signal is not None
    assert taken.signal == process.state.signal
    assert taken.as_of == at(5)  # The newest moment that the rows report: here a new peak.
