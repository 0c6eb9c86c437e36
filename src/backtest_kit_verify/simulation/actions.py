"""What can happen. An *action* is a verb and whom it concerns, in one small integer: verb * SUBJECTS + subject.

Texts and numbers of the same action are the same to everything that reads schedules.
"""

from __future__ import annotations

from backtest_kit_verify.simulation.states import LEASE_TICKS, SERVE_TICKS, WRITE_TICKS

CLIENTS = "abcdefgh"
"""Names of clients."""

MEANING = {
    # Of an operation.
    "step": "the operation's next step is performed and answered",
    "timeout": "the step was sent to Redis, but no answer came in time; it may be executed later, or never",
    "retry": "the step was sent to Redis on a connection that broke, and will be sent again",
    "unknown": "the write was sent to MongoDB, but no answer came; it may arrive at any later time, or never",
    "refuse": "MongoDB refuses the write",
    "land": (
        "a write whose sender no longer waits arrives at MongoDB, which commits it, or after its deadline refuses it"
    ),
    "leave": "COMMIT is sent and the operation returns; its next step is that Redis executes it and the answer is read",
    "stall": "MongoDB is stopped while it executes the write, and may commit it after its deadline",
    # Of a client.
    "crash": "the client dies",
    "cut": "the client loses Redis, which others keep",
    "heal": "Redis can be reached by the client again, which does not know it yet",
    "return": "the client's timer tries Redis, and delivers what it missed",
    "keep": "the client's keeper goes on: asks Redis for its time, looks for flags, prolongs the token",
    "lower": "the client delivers what it wrote past Redis, and takes its flag away",
    "bury": "another begins an era in place of the dead client's delivery, and takes its flag away",
    # Of the steps that nobody waits for, in the order in which they were sent.
    "deliver": "Redis executes a step whose sender no longer waits",
    # Of the world.
    "tick": (
        f"time passes: a lease lasts {LEASE_TICKS} ticks, its write may land for {WRITE_TICKS}, a token lives for "
        f"{SERVE_TICKS}"
    ),
    "vouch": "a keeper asks, looks and prolongs the token at once",
    "relay": "the recovery worker has seen all changes",
    "save": "what Redis holds now is what a restart will bring back",
    "restart": "Redis restarts, or another takes over, without what happened since it was saved",
    "flush": "FLUSHALL",
    "evict-entry": "Redis evicts the entry",
    "evict-right": "Redis evicts the install right",
    "evict-leases": "Redis evicts leases, which it never should",
    "backup": "what MongoDB holds now is what a restore will bring back",
    "restore": "MongoDB is set back, which begins another era",
}
VERBS = tuple(MEANING)
STEP, TIMEOUT, RETRY, UNKNOWN, REFUSE, LAND, LEAVE, STALL, CRASH, CUT, HEAL, RETURN = range(12)
KEEP, LOWER, BURY, DELIVER = range(12, 16)
TICK, VOUCH, RELAY, SAVE, RESTART, FLUSH = range(16, 22)
EVICT_ENTRY, EVICT_RIGHT, EVICT_LEASES, BACKUP, RESTORE = range(22, 27)
OF_OPERATIONS, OF_CLIENTS, OF_THE_WORLD = range(STALL + 1), range(CRASH, BURY + 1), range(TICK, len(VERBS))

SUBJECTS = 16
TIME_PASSES = TICK * SUBJECTS


def action_text(action: int) -> str:
    verb, subject = divmod(action, SUBJECTS)
    if verb == STEP:
        return str(subject)
    if verb in OF_THE_WORLD:
        return VERBS[verb]
    return f"{VERBS[verb]}:{CLIENTS[subject] if verb in OF_CLIENTS else subject}"


def parse_action(word: str) -> int:
    """Read what `action_text` wrote.

    Raises:
        ValueError: it is no action; the message says why.
    """
    if word.isdigit():
        word = f"step:{word}"
    name, _, whom = word.partition(":")
    if name not in VERBS:
        raise ValueError(f"{word!r} is no action; there are numbers and {', '.join(VERBS[1:])}")
    verb = VERBS.index(name)
    if verb in OF_THE_WORLD and not whom:
        return verb * SUBJECTS
    subject = CLIENTS.find(whom) if verb in OF_CLIENTS else int(whom) if whom.isdigit() else -1
    if verb in OF_THE_WORLD or not whom or not 0 <= subject < len(CLIENTS):
        raise ValueError(f"{word!r} does not say whom it concerns, as in 2, timeout:2, deliver:0, crash:a or tick")
    return verb * SUBJECTS + subject
