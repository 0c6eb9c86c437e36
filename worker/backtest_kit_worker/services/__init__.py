"""Services: work that no stream entry drives. One file each; one process of the whole deployment runs a service at a
time.

The runner holds a lease for each service and repeats `run_once`. A lease can be lost without noticing (a stopped
process, a clock that jumps), so two holders for a moment must do no harm: each service says in its docstring why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Service(Protocol):
    """One kind of background work. A service is a subclass: what has a body here it need not have.

    Attributes:
        name: names its leadership lease, metrics and logs.
        interval_ms: pause after a `run_once` that had nothing to do; after a minute of that up to five times as long.
    """

    name: str
    interval_ms: int

    def open(self) -> None:
        """Prepare (indexes, what a former holder left half done). May be repeated; called whenever this process becomes
        the holder.
        """

    def run_once(self) -> int:
        """Do one bounded piece of work; returns how much was done, 0 when there was nothing.

        Repeating it changes nothing. An exception means that it is called again later.
        """

    def close(self) -> None:
        """Let go of what was opened. May be called in any state."""
        return

    @property
    def counts(self) -> Mapping[str, int]:
        """What it did, by outcome (`metrics.RECOVERY`)."""
        return {}

    @property
    def unjudged_count(self) -> int:
        """What it has taken up and cannot decide yet."""
        return 0

    @property
    def oldest_s(self) -> float:
        """Age of the oldest thing (s) that it has not settled."""
        return 0.0
