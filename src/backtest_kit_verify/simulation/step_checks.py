"""What must hold after every action of the simulator of steps, and when all is quiet."""

from __future__ import annotations

from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_verify.simulation.step_faults import World
from backtest_kit_verify.simulation.step_parties import CLIENTS, KEYS, LIVES_MS, TICK_MS, broken


def check(world: World) -> None:
    """The promises that can be seen at any moment.

    Raises:
        InvariantViolation: one does not hold; the message begins with its name.
    """
    for key in KEYS:
        flying = _flying(world, key)
        _check_entry(world, key, flying)
        _check_leases(world, key, flying)
    for run in world.runs:
        if run.is_step and 0 < (count := world.mongo.committed.get(run.number, 0)) < len(KEYS):
            raise broken("A1", f"{run.op} is stored at {count} of its keys")
    _check_events(world)


def _flying(world: World, key: Key) -> list[str]:
    """Tokens of what may still be committed at this key."""
    now_ms, opened = world.redis.now_ms, {one.run for one in world.mongo.open}
    return [run.leases[key] for run in world.runs if key in run.flying and (run in opened or now_ms <= run.flying[key])]


def _check_entry(world: World, key: Key, flying: list[str]) -> None:
    stamp, record = world.redis.entries.get(key, (0, Record(key)))
    if stamp != world.redis.incarnation:
        return
    history = world.mongo.history[key]
    missing = [rev for rev in range(record.rev + 1, len(history)) if rev not in world.untold[key]]
    if missing or record.rev >= len(history) or history[record.rev].body != pack(record.payload):
        raise broken("I1", f"the entry of {key.item} is revision {record.rev}; MongoDB has {len(history) - 1}")
    if flying:
        raise broken("I2", f"{key.item}: an entry, and in flight are {', '.join(flying)}")


def _check_leases(world: World, key: Key, flying: list[str]) -> None:
    redis = world.redis
    stamp, token = redis.rights.get(key, (0, ""))
    if stamp == redis.incarnation and any(one != token for one in flying):
        raise broken("I4", f"{key.item}: the right is {token}'s, and in flight are {', '.join(flying)}")
    born = redis.born
    if born is None or born[0] != redis.incarnation or redis.now_ms - born[1] <= world.variant.open_ms:
        return
    alive = {token for token, end_ms in redis.leases.get(key, {}).items() if end_ms >= redis.now_ms}
    if not alive.issuperset(flying):
        raise broken("I3", f"{key.item}: in flight without a lease: {', '.join(set(flying) - alive)}")


def _check_events(world: World) -> None:
    stream = world.redis.stream
    for event in stream[world.events_seen :]:
        record = event.record
        history = world.mongo.history[record.key]
        by = history[record.rev].by if record.rev < len(history) else None
        if by is None or history[record.rev].body != event.body:
            raise broken("A2", f"an event reports revision {record.rev} of {record.key.item}")
        name = world.runs[by].name if world.runs[by].is_step else ""
        if event.step != name:
            raise broken("A2", f"an event of {world.runs[by].op} carries {event.step!r} as its step")
    world.events_seen = len(stream)


def check_quiet(world: World) -> None:
    """All operations have ended. Let everything arrive, clients come back and time pass, and see that nothing is left
    behind.

    Raises:
        InvariantViolation: something does not hold.
    """
    while world.settle(0) or world.deliver(0):
        check(world)
    for _ in range(LIVES_MS // TICK_MS + 1):
        world.tick(0)
    while world.land(0):
        check(world)
    for number in range(len(CLIENTS)):
        world.heal(number)
    world.relay(0)
    check(world)
    for key in KEYS:
        for _ in range(2):
            _probe(world, key)
            for _ in range(world.variant.open_ms // TICK_MS + 1):
                world.tick(0)
        if not _probe(world, key):
            _probe(world, key)
        if not _probe(world, key):
            raise broken("P2", f"{key.item}: reads are no hits although all is quiet")


def _probe(world: World, key: Key) -> bool:
    """An undisturbed read; whether it was a hit."""
    cache = world.cache()
    answer = cache.read(fx.CacheRead(key))
    if isinstance(answer, Record):
        if answer != world.mongo.find(key):
            raise broken("P2", f"{key.item}: a read returns revision {answer.rev}; MongoDB has {world.mongo.rev(key)}")
        return True
    cache.fill(fx.Fill(answer.token, world.mongo.find(key)))
    return False
