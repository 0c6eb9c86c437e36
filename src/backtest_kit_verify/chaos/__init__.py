"""`bkm chaos`: many processes use the store while everything around it is killed; then their histories are checked.

Theory of operation
===================
Writers and readers are processes that call the public registries over the shipped `Store`, against a private mongod and
redis-server. Each appends to a journal of its own: a line before a call, a line after it, both with CLOCK_MONOTONIC,
which is one clock for all processes of a machine. A line is one `write()`, so SIGKILL loses none, and a call without an
answer is known to have begun. Every written value carries a *mark* that no other call ever uses, so a value that is
read names the call that wrote it, and the revision that the store returns orders all of them.

`faults.py` draws faults from a table. Then everything is made whole, the clients go on for longer than a lease, and
stop. What is checked (`checks.py`, pure functions of the histories and of what the servers hold):

- no stale read: a read that begins after a write returned revision r, or after another read returned r, returns at
  least r;
- no value that nobody wrote, no revision with two values, no write that was refused and seen all the same, none applied
  twice;
- no acknowledged write lost, no document twice in MongoDB, no cached entry that differs from MongoDB when all is quiet;
- every change has its event, or the fault that took it is named.

Nothing excuses a read, a cut from Redis alone neither (`docs/adr/0040`). Counted apart are events that no recovery role
has republished yet: of writers that died between MongoDB and Redis, and of the suffix that a killed or flushed Redis
lost.

A client is run by `client.py`, which sees the store through `observed.py`: nothing of the protocol is changed there.
"""

from backtest_kit_verify.chaos.errors import ChaosError

__all__ = ["ChaosError"]
