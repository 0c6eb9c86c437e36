"""What `verify` can say."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

from backtest_kit_mongo.errors import InvalidSetting


class Kind(Enum):
    """What is wrong."""

    ALTERED = "altered"
    """The record is not the one that was sealed."""
    MISSING = "missing"
    """A sealed record, or a seal, is gone."""
    DOUBLED = "doubled"
    """A revision has two records."""
    UNKNOWN = "unknown"
    """Neither a seal nor the queue to be sealed knows the record: the worker did not write it."""
    SEAL_ALTERED = "seal altered"
    """The seal does not match its own hash, or is not one."""
    SEAL_MISSING = "seal missing"
    """A seal is gone from the sequence, or from its end."""
    SEAL_MOVED = "seal moved"
    """The seal does not follow the one before it: one of the two was replaced or moved."""
    CHAIN_BROKEN = "chain broken"
    """A document's chain is not continued where it had come to."""
    HEAD_ALTERED = "head altered"
    """A head says something else than the seals."""
    ANCHOR_DIFFERS = "anchor differs"
    """The seal that the anchor names has another hash, or is gone."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `where`: a record's id or "seal N"."""

    kind: Kind
    where: str
    detail: str


@dataclass(frozen=True, slots=True)
class Anchor:
    """A seal as it was once seen, written `number:hash`."""

    number: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.number}:{self.hash.hex()}"

    @staticmethod
    def parse(written: str) -> Anchor:
        """Read `number:hash`.

        Raises:
            InvalidSetting: it is not one.
        """
        number, _, digits = written.partition(":")
        if number.isdecimal() and re.fullmatch("[0-9a-f]{64}", digits):
            return Anchor(int(number), bytes.fromhex(digits))
        raise InvalidSetting(f"not an anchor: {written!r}; expected number:hash as `bkm audit verify` prints it")


@dataclass(slots=True)
class Report:
    """What was verified.

    Attributes:
        findings: in the order of the seals; the first is the first record or seal that is wrong.
        records: sealed records that were compared with their seal.
        unsealed: records that no seal has yet: too new, or waiting behind a hole.
        erased: of `records`, those whose payload was erased.
        restores: what the log says of the newest times that the database went back, newest first.
        last: the last seal, to be kept elsewhere; None if there is none.
    """

    findings: list[Finding] = field(default_factory=list)
    seals: int = 0
    records: int = 0
    unsealed: int = 0
    erased: int = 0
    restores: list[str] = field(default_factory=list)
    last: Anchor | None = None

    @property
    def clean(self) -> bool:
        return not self.findings
