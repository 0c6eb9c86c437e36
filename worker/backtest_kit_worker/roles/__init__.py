"""Roles: what is done with change events. One file each; adding a role is adding a file and a line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pymongo.database import Database

from backtest_kit_mongo.coherence.events import Event


class Role(Protocol):
    """One effect on change events. `name` is also its consumer group, so every role sees every event."""

    name: str

    def open(self) -> None:
        """Prepare (indexes). May be repeated."""

    def apply(self, events: Sequence[tuple[str, Event]]) -> int:
        """Apply a batch of (stream entry id, event); returns how many were new.

        Events come at least once and in any order; applying one again must change nothing. An exception means that the
        whole batch is delivered again later.
        """


def build(name: str, database: Database[dict[str, Any]]) -> Role:
    """Make a role by name.

    Raises:
        KeyError: there is no such role.
    """
    from backtest_kit_worker.roles.audit import AuditRole

    roles: dict[str, Callable[[Database[dict[str, Any]]], Role]] = {AuditRole.name: AuditRole}
    return roles[name](database)


NAMES = ("audit",)
"""All roles."""
