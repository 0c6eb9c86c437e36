"""The named invariants. Tests and run-time checks use these names; the proof shows that every step preserves them.

V(E): an entry of the current incarnation, while nobody owes it something that was written past Redis. V(F): a right, of
the same. In flight: sent to MongoDB, neither
committed nor refused, and its deadline has not passed by MongoDB's clock. A command that has arrived nowhere yet is on
its way for ever; only its deadline keeps it from being in flight for as long.
"""

from __future__ import annotations

from backtest_kit_mongo.errors import InvariantViolation

INVARIANTS = {
    "I1": "an entry of the current incarnation equals MongoDB",
    "I2": "beside an entry of the current incarnation no write is in flight",
    "I3": "once open, every write in flight holds a lease",
    "I3b": "once born, a write in flight holds a lease or is older than the birth",
    "I4": "while a right is valid only its owner can be in flight",
    "I5a": "a live fill right means that nothing is in flight",
    "I5b": "the value read under a live fill right is current",
    "I6": "a right belongs to an operation that was started",
    "I7": "a live writer's right means that its revision is current and nothing is in flight",
    "I8": "no stored incarnation exceeds the current one",
    "I9": "open implies born",
    "I10": "entries and rights of this incarnation exist only when open",
    "I11": "an operation is in one phase",
    "I12": "a command whose lease has ended is refused by MongoDB when it arrives",
    "I13": (
        "between the entry that LEASE reported a writer of and its own write there is no other, while its right is live"
    ),
    "I14": "while anything is served, or may come to be, nobody may write past Redis",
    "I15": "who writes past Redis has a flag, until nothing of it can arrive and all is delivered",
}


def require(name: str, holds: bool, detail: str) -> None:
    """Raise if a named invariant does not hold.

    Raises:
        InvariantViolation: a bug in this package; the message names the invariant.
    """
    if not holds:
        raise InvariantViolation(f"{name} ({INVARIANTS[name]}) does not hold: {detail}")
