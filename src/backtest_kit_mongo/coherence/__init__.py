"""The sans-IO core: what a document is, the steps that keep its shared cache equal to MongoDB, and the names of all
Redis keys.

Theory of operation
===================
One *key* is one document of one domain. MongoDB is the truth: every write raises the document's revision (`rev`) in the
same atomic operation. Redis holds at most one *entry* per key. The rules below make a read that begins after a write
returned see that write or a newer one, on any host, with no timing assumption except that a write cannot reach MongoDB
after its lease has ended.

    write   LEASE    delete the entry, register (token, deadline); take the *install right* if this writer is alone
            TRUTH    one find_one_and_update with a deadline before the lease's, by MongoDB's own clock: it may arrive
                     at any time, and what arrives later is refused
            COMMIT   one script, which nobody waits for: release the lease; install the entry if the install right is
                     still ours; append the event (of many the last page only: `plans.announce` says why)
    read    READ     the entry of the current incarnation: done, one hop. Otherwise share or take the install right
            FIND     MongoDB primary
            FILL     install what was found if the install right is still ours

*Why a right and not a revision check:* two overlapping writers can commit to the cache in the opposite order of their
commits to MongoDB; when the slot is empty there is no revision to compare with. A right that every later writer revokes
has no such hole.

*Incarnation:* an identity of Redis' memory that changes whenever operations may have been lost (restart, failover), and
the *era* of the database (`eras.py`), which changes whenever MongoDB is not what it was (a restore, another database, a
time in which nobody kept the cache). Both are read inside the script that uses them, and a client that believes in
another era is refused. Entries and rights of another incarnation do not exist. A new incarnation is
*open* (may cache) only after one full lease time, so that a lease swallowed by the lost suffix cannot still be in
flight.

*Token:* a client that cannot reach Redis writes MongoDB past it, while others can. So entries are served only while a
short-lived token lives in Redis, which nobody prolongs who sees that client's *flag* in MongoDB, and the client waits
for its end before its first such write (`bypass.py`).

Files, in the order to read them: `record.py` (what is stored), `effects.py` (what a plan asks for), `plans.py` (the
steps of documents). Then what goes beyond, each with its own effects: `lists.py`, `series.py`, `steps.py` (several keys
at once), `deletion.py` (for good), `near.py` (copies in a process). Below: `eras.py` (to whom Redis belongs), `keys.py`
(Redis names), `codec.py` and `events.py` (bytes), `invariants.py`. LEASE and COMMIT are scripts of many keys of a
partition; a document is one. A change in a plan or in a Lua script must be made in both and re-proved. Nothing here
does I/O, reads a clock or draws a random number: a test greps for it.
"""
