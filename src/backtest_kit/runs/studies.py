"""Which studies there are, and which runs belong to each."""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final

import backtest_kit_mongo as bk
from backtest_kit.errors import DeclarationError
from backtest_kit.runs.ledger import Ledger
from backtest_kit.runs.packing import pack, unpack
from backtest_kit.runs.plan import Plan
from backtest_kit.runs.rows import Rows, StoredRows
from backtest_kit.runs.study import Study

__all__ = ["Studies", "load"]

INDEX: Final = "studies"
PATIENCE_S: Final = 15.0
"""So long a row is tried again that many write at once."""


class Studies:
    """Rows beside those of runs: one a study with its runs, and one with all titles."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def known(self, plan: Plan) -> frozenset[str]:
        """Ids of the runs that an earlier call of this study has planned.

        Raises:
            DeclarationError: the study is another strategy's, or of other code.
        """
        return frozenset(self._read(plan)[0])

    def note(self, plan: Plan) -> None:
        """Keep the runs of a study; those that an earlier call has planned stay. Raises as `known`."""
        for _ in self._tries(f"study {plan.study!r} is planned", "Nothing was run."):
            known, stored, revision = self._read(plan)
            every = list(dict.fromkeys([*known, *(run.run_id for run in plan.runs)]))
            if len(every) == len(known) or self._wrote(plan, every, stored, revision):
                break
        self._add_title(plan.study)

    def _read(self, plan: Plan) -> tuple[list[str], Mapping[str, Any] | None, int]:
        stored, revision = self._rows.read(_key(plan.study))
        if stored is None:
            return [], None, revision
        if (stored["strategy"], stored["code"]) != (plan.source.strategy, plan.code):
            raise DeclarationError(
                f"study {plan.study!r} holds runs of strategy {stored['strategy']!r} as it was then (code "
                f"{stored['code'][:8]}, now {plan.source.strategy!r}, {plan.code[:8]}). Give this one another name: "
                "study=. Nothing was run."
            )
        return list(unpack(stored["runs"])), stored, revision

    def _wrote(self, plan: Plan, runs: list[str], stored: Mapping[str, Any] | None, revision: int) -> bool:
        row = {
            "study": plan.study, "strategy": plan.source.strategy, "code": plan.code, "exchange": plan.exchange,
            "count": len(runs), "runs": pack(runs),
            "created_at": stored["created_at"] if stored is not None else time.time_ns() // 1_000_000,
        }  # fmt: skip
        return self._tried(_key(plan.study), row, revision)

    def _tried(self, key: str, row: Mapping[str, Any], revision: int) -> bool:
        try:
            self._rows.write(key, row, revision)
        except bk.Conflict:
            return False
        return True

    def _add_title(self, title: str) -> None:
        for _ in self._tries("the list of studies is written", f"Study {title!r} is not in it; nothing was run."):
            titles, revision = self._titles()
            if title in titles or self._tried(INDEX, {"titles": [*titles, title]}, revision):
                return

    @staticmethod
    def _tries(what: str, otherwise: str) -> Iterator[None]:
        """Again and again, with pauses that grow.

        Raises:
            bk.Conflict: others were first for too long.
        """
        until_s, pause_s = time.monotonic() + PATIENCE_S, 0.002
        while True:
            yield
            if time.monotonic() >= until_s:
                raise bk.Conflict(f"{what} by many at once, for {PATIENCE_S:g} s; try again. {otherwise}")
            time.sleep(pause_s * random.uniform(0.5, 1))
            pause_s = min(2 * pause_s, 0.25)

    def _titles(self) -> tuple[list[str], int]:
        stored, revision = self._rows.read(INDEX)
        return ([] if stored is None else list(stored["titles"])), revision

    def list(self) -> list[dict[str, Any]]:
        """All studies in the order of their first call, without their runs."""
        found = (self._rows.read(_key(title))[0] for title in self._titles()[0])
        return [{name: value for name, value in one.items() if name != "runs"} for one in found if one is not None]

    def only_of(self, titles: Collection[str]) -> Sequence[str]:
        """Ids of the runs that these studies have, and no other."""
        others = {run_id for one in self._titles()[0] if one not in titles for run_id in self._runs(one)}
        mine = dict.fromkeys(run_id for title in titles for run_id in self._runs(title))
        return [run_id for run_id in mine if run_id not in others]

    def _runs(self, title: str) -> Sequence[str]:
        found = self.get(title)
        return () if found is None else tuple(found["runs"])

    def delete(self, title: str) -> int:
        """Forget a study and those of its runs that no other study has. A sweep of it that is running goes on; in the
        end the study is there again, and lacks the runs that were gone.

        Returns:
            How many runs are gone.
        """
        if self.get(title) is None:
            return 0
        runs = self.only_of([title])
        for key in (*runs, _key(title)):
            self._rows.remove(key)
        for _ in self._tries("the list of studies is written", f"Study {title!r} is still in it; its runs are gone."):
            titles, revision = self._titles()
            left = [one for one in titles if one != title]
            if left == titles or self._tried(INDEX, {"titles": left}, revision):
                break
        return len(runs)

    def get(self, title: str) -> dict[str, Any] | None:
        """A study with the ids of its runs."""
        stored, _ = self._rows.read(_key(title))
        return None if stored is None else {**stored, "runs": unpack(stored["runs"])}


def load(title: str, rows: Rows | None = None) -> Study:
    """A study from the store: all its runs, of whichever call and host.

    Raises:
        DeclarationError: there is none of that title; the message names a near one.
    """
    rows = rows or StoredRows()
    studies, ledger = Studies(rows), Ledger(rows)
    stored = studies.get(title)
    if stored is None:
        titles = [one["study"] for one in studies.list()]
        near = get_close_matches(title, titles, 1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else f"there {'are ' + ', '.join(titles[:8]) if titles else 'is none yet'}"
        )
        raise DeclarationError(f"there is no study {title!r}; {hint}")
    found = (ledger.read(run_id) for run_id in stored["runs"])
    return Study(title, tuple(row for row in found if row is not None))


def _key(title: str) -> str:
    return f"study:{title}"
