"""A deterministic simulator of the coherence protocol: `bkm simulate`.

Theory of operation
===================
*What runs* is what is shipped: the plans (`coherence/plans.py`), and the memory backends that the Lua scripts and
MongoDB are compared with. A schedule says in which order their steps happen and what goes wrong in between. After every
action the named invariants are checked, and when an operation returns, that its answer is linearizable: revisions of a
key are totally ordered, so a read is right if it returns no less than what was returned before it began, and what was
stored under that revision.

*Why it is fast enough to be worth it:* plans and backends are pure, so each of their steps is computed once and
remembered (`driver.py`, `states.py`). A situation is then a handful of small integers and places in trees
(`situation.py`), which random schedules walk through by look-up, and exhaustive search can copy and recognise.

*What is modelled and not executed:* how a client notices that Redis is away and comes back (`RedisCache` has its own
tests on a real server), and the network. A write may arrive at MongoDB at any time after it was sent. Deadlines are
taken to lie before their lease's end, leases never to be evicted, and clocks not to jump: outside of that the protocol
promises nothing.

Files, in the order of their use: `actions.py` (what can happen), `states.py` (Redis and MongoDB as tables),
`workload.py` (who does what), `situation.py` and `world.py` (everything at one moment, and what happens next),
`checker.py` (what must hold), `schedules.py` (random ones, and their text), `campaign.py` (many of those),
`exhaustive.py` (all of them), `shrink.py` and `report.py` (a failure, short and explained), `planted.py` (failures on
purpose).

The near cache has a simulator of its own, which plays worlds instead of looking them up, because copies are objects:
`near_process.py` (the parties), `near.py` (what happens, and what must hold), `near_campaign.py` (random schedules),
`near_every.py` (all of them), `near_report.py` and `near_planted.py`.

A change of the protocol is made in the plans and scripts, and in the memory model; a new rule gets a row in
`planted.py` or `near_planted.py`.
"""
