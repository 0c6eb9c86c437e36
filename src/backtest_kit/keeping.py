"""When what is stored. A context that is not durable stores nothing, and all of this does nothing."""

from __future__ import annotations

from typing import Any

from backtest_kit.effects import Plan, Save, ask
from backtest_kit.held import Held
from backtest_kit.rows import list_row
from backtest_kit.signals import Pnl
from backtest_kit.state import State, level_rows


class Keeper:
    """Attributes:
    is_repeat: what is reported now may have been reported before a restart.
    """

    def __init__(self, state: State) -> None:
        self.state, self._stored = state, dict[tuple[str, str], Any]()
        self.is_repeat = state.as_of > 0

    def save(self, as_of: int | None = None) -> Plan[None]:
        """Store the state: first the strategy row, which is all of it, then the rows that readers look at.

        Args:
            as_of: the newest minute that is wholly part of it (ms), if that has changed.
        """
        state = self.state
        if not state.context.is_durable:
            return
        if as_of is not None:
            state.as_of = as_of
        state.is_changed = False
        rows = state.to_rows()
        for domain in ("strategy", "schedule", "signal"):
            yield from self._put(domain, "", rows[domain])
        if state.last_id is not None:
            for domain, row in level_rows(state.signal, state.last_id).items():
                yield from self._put(domain, state.last_id, row)

    def _put(self, domain: str, key: str, row: dict[str, Any] | None) -> Plan[None]:
        if (domain, key) in self._stored and self._stored[domain, key] == row:
            return
        yield from ask(Save(domain, key, row, self.state.as_of))
        self._stored[domain, key] = row

    def record(
        self, status: str, held: Held, at: int, price: float, reason: str | None = None, pnl: Pnl | None = None
    ) -> Plan[None]:
        """Store the signal's row of the history, one per signal."""
        if self.state.context.is_durable:
            row = list_row(held.view(), self.state.context, status, at, price, reason, pnl)
            yield from ask(Save("storage", held.id, row, at))
