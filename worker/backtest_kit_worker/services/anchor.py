"""The anchor service: says in one line what the audit log is, again and again, and hands it to places that the users of
the database cannot change. What that protects from: `docs/audit.md`.

Two at once do no harm: an anchor more is kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pymongo.database import Database

from backtest_kit_mongo.audit.anchors import TreeAnchor, anchor_of
from backtest_kit_mongo.audit.kept import PIECE, KeptTree, kept_tree
from backtest_kit_mongo.audit.signing import private_key, signed
from backtest_kit_mongo.audit.targets import AnchorCommand, AnchorDatabase, AnchorFile, AnchorNotKept, Target
from backtest_kit_mongo.errors import EnvironmentFault
from backtest_kit_mongo.feed.troubles import Notes
from backtest_kit_mongo.settings import invalid
from backtest_kit_worker.deployment import Deployment
from backtest_kit_worker.services import Service

DIFFERS: Final = "anchor-differs"
ADVICE: Final = "keep everything as it is, run `bkm audit verify --anchors ...`, and inform the owner of the audit log"
RETRY_MS: Final = 60_000
logger = logging.getLogger(__name__)


class AnchorSettings(BaseSettings):
    """Each field `name` is the environment variable `CC_ANCHOR_NAME`; an empty one counts as not given."""

    model_config = SettingsConfigDict(env_prefix="CC_ANCHOR_", frozen=True, extra="forbid", env_ignore_empty=True)

    file: Path | None = Field(default=None, description="Append anchors to this file, on a disk that others keep.")
    mongo_connection_string: SecretStr | None = Field(
        default=None, description="Insert them into `audit-anchors` of this other database."
    )
    command: SecretStr | None = Field(
        default=None, description="Run this with each anchor on its standard input: `ssh safe 'cat >> anchors.jsonl'`."
    )
    sign_key: Path | None = Field(default=None, description="PEM file of the Ed25519 key that signs them.")
    interval_ms: int = Field(default=3_600_000, ge=1_000, description="From one anchor to the next.")
    missed_max: int = Field(
        default=3, ge=1, description="A target that got none for so many intervals makes the worker unhealthy."
    )

    def targets(self, deployment: Deployment) -> list[Target]:
        """The places that are configured.

        Raises:
            InvalidSetting: the database is not another one.
        """
        found: list[Target] = [] if self.file is None else [AnchorFile(self.file)]
        if self.mongo_connection_string is not None:
            witnessed = deployment.settings.mongo_address, deployment.settings.database
            found.append(AnchorDatabase(self.mongo_connection_string.get_secret_value(), witnessed))
        return found if self.command is None else [*found, AnchorCommand(self.command.get_secret_value())]


def load_anchors() -> AnchorSettings:
    """From the environment and defaults.

    Raises:
        InvalidSetting: a value does not fit; the message never shows it.
    """
    try:
        return AnchorSettings()
    except ValidationError as cause:
        raise invalid(cause, "CC_ANCHOR_") from None


class AnchorService(Service):
    """Makes an anchor each interval and hands it to each target.

    A target that fails gets one again after a minute. When it has had none for `missed_max` intervals, the service
    fails, and so the worker's health, `check`, the doctor and the alert tell it.

    Args:
        key: signs; None for no signatures.
        directory: where nodes of the tree are kept; default: the user's cache directory.
    """

    name = "anchor"
    interval_ms = 1_000

    def __init__(
        self,
        database: Database[dict[str, Any]],
        targets: Sequence[Target],
        *,
        interval_ms: int = 3_600_000,
        missed_max: int = 3,
        key: Any = None,
        directory: Path | None = None,
    ) -> None:
        self._database, self._targets, self._key, self._directory = database, targets, key, directory
        self._interval_s, self._missed_max = interval_ms / 1000, missed_max
        self._notes = Notes(database)
        self._due_s: dict[str, float] = {}
        """By target, the monotonic time of the next anchor."""
        self._kept_s: dict[str, float] = {}
        """By target, that of the last one, or of the first attempt."""
        self._stack = ExitStack()
        self._tree: KeptTree | None = None

    @classmethod
    def build(cls, deployment: Deployment) -> AnchorService | None:
        """The service as it is configured; None if no target is."""
        settings = load_anchors()
        targets = settings.targets(deployment)
        if not targets:
            return None
        key = None if settings.sign_key is None else private_key(settings.sign_key)
        return cls(
            deployment.database, targets, interval_ms=settings.interval_ms, missed_max=settings.missed_max, key=key
        )

    def open(self) -> None:
        """Nothing is held before the first anchor is due."""

    def close(self) -> None:
        self._tree = None
        self._stack.close()

    def run_once(self) -> int:
        """Hand over what is due; returns how many seals were taken up, while there are many, or anchors kept.

        Raises:
            AnchorNotKept: a target has had none for too long.
            ServerUnreachable, ReadFailed: the log cannot be read.
        """
        now_s = time.monotonic()
        due = [target for target in self._targets if self._due_s.get(target.name, now_s) <= now_s]
        if not due:
            return 0
        if self._tree is None:
            self._tree = self._stack.enter_context(kept_tree(self._database, self._directory))
        if (count := self._tree.grow_by(self._database, PIECE)) == PIECE:
            return count
        kept_count = sum(self._hand_over(target, now_s) for target in due)
        if kept_count and self._tree.path is None and not self._tree.state().seals:
            self.close()  # The log was empty, so its tree had no name yet.
        if late := [name for name, kept_s in self._kept_s.items() if self._is_late(now_s - kept_s)]:
            raise AnchorNotKept(f"no anchor was kept for {self._missed_max} intervals: {', '.join(late)}")
        return kept_count

    def _is_late(self, age_s: float) -> bool:
        return age_s > self._missed_max * self._interval_s

    def _hand_over(self, target: Target, now_s: float) -> bool:
        assert self._tree is not None
        try:
            known = target.known()
            # Restarts do not make a target younger than what it holds.
            self._kept_s.setdefault(target.name, now_s - (_age_s(known[-1]) if known else 0.0))
            made, findings = anchor_of(self._tree, self._database, known)
            target.keep(made if self._key is None else signed(made, self._key))
        except (EnvironmentFault, OSError) as cause:
            self._kept_s.setdefault(target.name, now_s)
            self._due_s[target.name] = now_s + min(RETRY_MS / 1000, self._interval_s)
            logger.warning("%s got no anchor: %s", target.name, cause)
            return False
        for found in findings:
            logger.error("%s: %s: %s", target.name, found.where, found.detail)
            self._notes.note(DIFFERS, f"{target.name}: {found.where}: {found.detail}", advice=ADVICE)
        self._due_s[target.name], self._kept_s[target.name] = now_s + self._interval_s, now_s
        return True


def _age_s(anchor: TreeAnchor) -> float:
    """How old an anchor is, by this host's clock; 0 for a time that is none."""
    try:
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(anchor.time)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
