"""Steps in files: the locks of all their directories, and a journal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import NamedTuple

from backtest_kit_mongo.backends.files import disk, journal
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.effects import Published
from backtest_kit_mongo.coherence.record import Change, Key, Record
from backtest_kit_mongo.coherence.steps import Atomic, Drop, ExpectedRows, Guard, Put, Ready, require_rev


class Prepared(NamedTuple):
    """What a write is about to do: files, the changes that they are, and names to remove afterwards."""

    outputs: list[disk.Output]
    published: list[Published]
    moved: list[str]


class Prior(NamedTuple):
    """What a write finds: the record, or that its file is unreadable."""

    record: Record
    is_corrupt: bool = False


class FileSteps:
    """A part of `FileTruth`, which has these methods."""

    _root: Callable[[], str]
    _directory: Callable[[str, Key], str]
    _writing: Callable[[str, Key], AbstractContextManager[None]]
    _prepare: Callable[..., Prepared]
    _find_prior: Callable[[str, Key], Prior]

    def atomic(self, effect: Atomic) -> tuple[tuple[Published, ...], ...]:
        root = self._root()
        with ExitStack() as stack:
            directories = {self._directory(root, write.key): write.key for write in effect.writes}
            for _, key in sorted(directories.items()):
                stack.enter_context(self._writing(root, key))
            each = [self._prepared(root, write) for write in effect.writes]
            outputs = [output for one in each for output in one.outputs]
            written = iter(
                journal.publish(root, outputs, [path for one in each for path in one.moved]) if outputs else ()
            )
            return tuple(tuple(new for new in one.published if next(written)) for one in each)

    def _prepared(self, root: str, write: Ready) -> Prepared:
        if isinstance(write, ExpectedRows):
            return self._prepare(root, [row.change for row in write.rows])
        prior = self._find_prior(root, write.key)
        record = prior.record
        if write.expected_rev is not None:
            require_rev(record, write.expected_rev)
        match write:
            case Put():
                return self._prepare(root, [write.change], [prior])
            case Drop() if record.exists and not record.removed:
                payload = {**(record.payload if isinstance(record.payload, dict) else {}), "removed": True}
                change = Change(write.key, payload, pack(payload), record.when, removed=True)
                return self._prepare(root, [change], [prior])
            case Drop() | Guard():
                return Prepared([], [], [])
        raise AssertionError(write)

    def require_steps(self) -> None:
        return

    def step_lifetime_ms(self) -> int:
        return 0
