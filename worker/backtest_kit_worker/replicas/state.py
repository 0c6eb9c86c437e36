"""`replica-state` in the source's database: who the source is, how far each copy is, and what was applied last.

| _id            | fields |
|----------------|--------|
| source         | id: names this source in the markers of its replicas |
| copy/<target>  | run, place, marked: whose replica the target is; startedAt, domains.<name>: {after, copied, skipped, done} |
| restored/<target> | over, domains: the restore of the source that the target follows, and how many domains do already |
| feed           | entry, writtenAt, appliedAt of the newest change applied; at most once a second, for people |
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.errors import InvalidSetting
from backtest_kit_mongo.stored import REPLICA_STATE as COLLECTION
from backtest_kit_worker.replicas.naming import RAW
from backtest_kit_worker.replicas.target import Marker, ReplicaUnreachable, Target


@dataclass(frozen=True, slots=True)
class Part:
    """The copy of one domain. `after` is the last `_id` whose copy is durable."""

    after: Any = None
    copied: int = 0
    skipped: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True)
class Copy:
    """The copy to one target. Two runs never mix: what is recorded for an older run is lost."""

    run: str
    place: str
    marked: bool
    started_at: datetime
    parts: Mapping[str, Part] = field(default_factory=dict)

    def part(self, domain: str) -> Part:
        return self.parts.get(domain, Part())

    @property
    def is_complete(self) -> bool:
        """A domain that a new release adds makes the copy incomplete again, and only that domain is copied."""
        return all(self.part(domain.name).done for domain in DOMAINS)

    @property
    def copied(self) -> int:
        return sum(part.copied for part in self.parts.values())

    @property
    def skipped(self) -> int:
        return sum(part.skipped for part in self.parts.values())


class State:
    """Reads and writes the collection; every change is on a majority's disk before it returns."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._documents = database.get_collection(COLLECTION, write_concern=DURABLE)
        self._raw = database.get_collection(COLLECTION, codec_options=RAW)  # For the `_id`s that it remembers.

    def source_id(self) -> str:
        """This source's own name; made once."""
        found = self._documents.find_one({"_id": "source"})
        if found is None:
            try:
                found = {"_id": "source", "id": uuid.uuid4().hex}
                self._documents.insert_one(found)
            except DuplicateKeyError:
                return self.source_id()
        return str(found["id"])

    def copy(self, target: str) -> Copy | None:
        """What is recorded of the copy to a target; None if it was never begun."""
        found = self._raw.find_one({"_id": f"copy/{target}"})
        if found is None:
            return None
        parts = {name: Part(**part) for name, part in found["domains"].items()}
        return Copy(found["run"], found["place"], found["marked"], found["startedAt"], parts)

    def run(self, target: str) -> str | None:
        """The run that counts now."""
        found = self._documents.find_one({"_id": f"copy/{target}"}, {"run": 1})
        return None if found is None else str(found["run"])

    def begin(self, target: Target, *, again: bool) -> None:
        """Record a new run at this place. Without `again`, the first one to begin wins and this does nothing."""
        run = {
            "run": uuid.uuid4().hex,
            "place": target.place,
            "marked": False,
            "startedAt": datetime.now(UTC),
            "domains": {},
        }
        update = {"$set": run} if again else {"$setOnInsert": run}
        self._documents.update_one({"_id": f"copy/{target.name}"}, update, upsert=True)

    def set_marked(self, target: str, run: str) -> None:
        """The target's marker is durable."""
        self._documents.update_one({"_id": f"copy/{target}", "run": run}, {"$set": {"marked": True}})

    def advance(self, target: str, run: str, domain: str, part: Part) -> None:
        """Record the progress of one domain, unless another run was begun meanwhile."""
        value = {"after": part.after, "copied": part.copied, "skipped": part.skipped, "done": part.done}
        self._documents.update_one({"_id": f"copy/{target}", "run": run}, {"$set": {f"domains.{domain}": value}})

    def restored(self, target: str) -> tuple[str, int]:
        """The era of the restore that a target follows (empty: none), and how many domains do."""
        found = self._documents.find_one({"_id": f"restored/{target}"}) or {}
        return str(found.get("over", "")), int(found.get("domains", 0))

    def set_restored(self, target: str, over: str, domains: int) -> None:
        self._documents.replace_one({"_id": f"restored/{target}"}, {"over": over, "domains": domains}, upsert=True)

    def note_applied(self, entry: str, written_ms: int) -> None:
        """Remember the newest change that was applied."""
        written_at = datetime.fromtimestamp(written_ms / 1000, UTC)
        self._documents.update_one(
            {"_id": "feed"},
            {"$set": {"entry": entry, "writtenAt": written_at, "appliedAt": datetime.now(UTC)}},
            upsert=True,
        )

    def applied(self) -> Mapping[str, Any] | None:
        return self._documents.find_one({"_id": "feed"})


def enrol(state: State, target: Target, *, again: bool = False) -> Copy:
    """Make sure that a target is the replica which this source's copy fills; a new one becomes it.

    Args:
        again: begin a new copy, also if the target has changed places.

    Raises:
        InvalidSetting: it holds other data, is another source's, or is not the one that the copy was made to.
        ReplicaFailed: the target failed, or another worker is just enrolling it.
    """
    source = state.source_id()
    marker = target.marker()
    if marker is not None and marker.source != source:
        raise InvalidSetting(
            f"{target.place} is the replica of another source. Nothing was written; name another place."
        )
    if marker is None and not target.is_empty():
        raise InvalidSetting(
            f"{target.place} holds data, but bears no marker of a replica. Nothing was written; name an empty place."
        )
    state.begin(target, again=again)
    copy = state.copy(target.name)
    assert copy is not None  # It was begun just now, and nobody deletes it.
    if not copy.marked:
        _mark(state, target, source, copy)
    elif marker is None or marker.run != copy.run:
        raise InvalidSetting(
            f"{target.place} is not the replica that was filled: that one is {copy.place}. All workers of the replica "
            "role must see the "
            f"same one. To make this the replica: backtest-kit-worker replica rebuild --target {target.name}. Nothing "
            "was written."
        )
    return copy


def _mark(state: State, target: Target, source: str, copy: Copy) -> None:
    if copy.place != target.place:
        raise ReplicaUnreachable(
            f"the replica {copy.place} is being set up by another worker; {target.place} waits. If that worker is "
            "gone for ever: "
            f"backtest-kit-worker replica rebuild --target {target.name}"
        )
    target.mark(Marker(source, copy.run))
    state.set_marked(target.name, copy.run)
