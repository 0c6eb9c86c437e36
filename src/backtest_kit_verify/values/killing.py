"""Kill writers of a class of values at random moments, and look at what is there.

Each life of a writer is a process of its own, and so is each look: nothing of one reaches the other but by the store.
The process that kills and judges never opens it.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import backtest_kit_mongo as bk
from backtest_kit_mongo.backends.persist.wrapper import Wrapper

ENTITY: Final = "state/kills"
IDS: Final = 4
PAYLOAD_BYTES: Final = 20_000
SILENT_S: Final = 120.0
"""A process that says nothing for so long hangs."""


class KillsError(Exception):
    """The run itself failed: a writer ended by itself, or hangs."""


@dataclass
class Outcome:
    """What a run found.

    Attributes:
        acknowledged: writes that returned, of all lives.
        unsaid: kills after which a value was there whose write had not returned.
        broken: what was torn, lost, or made up.
    """

    kills: int = 0
    acknowledged: int = 0
    unsaid: int = 0
    broken: list[str] = field(default_factory=list)


def run_kills(
    maker: Any, base_dir: str, settings: Mapping[str, Any], kills: int, seed: str, say: Callable[[str], None]
) -> Outcome:
    """
    Raises:
        KillsError: a process did not do what it was started for.
    """
    draw, outcome, last = random.Random(seed), Outcome(), dict.fromkeys(range(IDS), 0)
    first = 1
    for number in range(1, kills + 1):
        acknowledged = _live_and_die(maker, base_dir, settings, first, draw)
        for done in acknowledged:
            last[done % IDS] = done
        outcome.kills, outcome.acknowledged = number, outcome.acknowledged + len(acknowledged)
        found = _asked(lambda: _look(maker, base_dir), settings)
        for problem in judged(found, last, max(acknowledged) + 1):
            outcome.broken.append(f"kill {number}: {problem}")
        values = [value["n"] for value in found["values"].values() if isinstance(value, dict) and "n" in value]
        outcome.unsaid += max(values, default=0) > max(last.values())
        last = {id: max([last[id], *(n for n in values if n % IDS == id)]) for id in last}  # noqa: A001
        first = max(last.values()) + IDS
        if number % 20 == 0:
            say(f"{number} kills, {outcome.acknowledged} writes acknowledged, {len(outcome.broken)} broken")
    return outcome


def judged(found: Mapping[str, Any], last: Mapping[int, int], next_number: int) -> list[str]:
    """What is wrong with the values that were found.

    Args:
        last: by id, the number that was acknowledged last; 0 for none.
        next_number: what the writer may have been writing when it died.
    """
    problems = list(found["problems"])
    for id, number in last.items():  # noqa: A001 - the contract's name
        value = found["values"].get(str(id))
        if value is None:
            if number:
                problems.append(f"value {number} of id {id} was acknowledged and is not there")
        elif not isinstance(value, dict) or value.get("text") != text_of(value.get("n", 0)):
            problems.append(f"id {id} is torn: {value!r:.80}")
        elif value["n"] not in (number, next_number):
            problems.append(f"id {id} has {value['n']}, but {number} was acknowledged last")
    return problems


def text_of(number: int) -> str:
    """A long text that belongs to a number."""
    return f"{number}." * (PAYLOAD_BYTES // len(f"{number}."))


def _live_and_die(maker: Any, base_dir: str, settings: Mapping[str, Any], first: int, draw: random.Random) -> list[int]:
    """Let a process write from a number on, kill it, and say which writes it had acknowledged."""

    def write(told: int) -> None:
        values = maker(ENTITY, base_dir)
        values.wait_for_init(True)
        number = first
        while True:
            values.write_value(str(number % IDS), {"n": number, "text": text_of(number)})
            os.write(told, number.to_bytes(8, "big"))
            number += 1

    child, heard = _forked(write, settings)
    try:
        said = [_next(heard) for _ in range(draw.randint(2, 6))]
        since_s = time.monotonic()
        said.append(_next(heard))
        time.sleep(draw.uniform(0, 1.5) * (time.monotonic() - since_s))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    while rest := os.read(heard, 8):
        said.append(int.from_bytes(rest, "big"))
    os.close(heard)
    return said


def _next(heard: int) -> int:
    if not select.select([heard], [], [], SILENT_S)[0]:
        raise KillsError("the writer hangs")
    if len(said := os.read(heard, 8)) != 8:
        raise KillsError("the writer ended by itself; what it said is above")
    return int.from_bytes(said, "big")


def _look(maker: Any, base_dir: str) -> dict[str, Any]:
    """All values, in a process of its own; replicas must have the same once their time has come."""
    values = maker(ENTITY, base_dir)
    values.wait_for_init(True)
    found = {str(id): values.read_value(str(id)) for id in range(IDS) if values.has_value(str(id))}  # noqa: A001
    problems = [] if {*values.keys()} == {*found} else [f"keys() gives {[*values.keys()]!r:.80}, not {[*found]}"]
    for replica in maker.parts[1:] if isinstance(maker, Wrapper) else ():
        left = maker.close(SILENT_S)
        copy = replica(ENTITY, base_dir)
        copied = {str(id): copy.read_value(id) for id in copy.keys()}  # noqa: A001, SIM118
        if left or copied != found:
            problems.append(f"a replica has {[(id, one['n']) for id, one in copied.items()]}; {left}")  # noqa: A001
    return {"values": found, "problems": problems}


def _asked(look: Callable[[], dict[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    def answer(told: int) -> None:
        try:
            found = look()
        except Exception as cause:
            found = {"values": {}, "problems": [f"it cannot be read: {cause!r:.200}"]}
        with os.fdopen(told, "w") as pipe:
            json.dump(found, pipe)

    child, heard = _forked(answer, settings)
    with os.fdopen(heard) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    if not said:
        raise KillsError("the reader ended by itself; what it said is above")
    answered: dict[str, Any] = json.loads(said)
    return answered


def _forked(task: Callable[[int], None], settings: Mapping[str, Any]) -> tuple[int, int]:
    """A child that is set up and does a task, and the end of a pipe on which it is heard."""
    heard, told = os.pipe()
    child = os.fork()
    if child:
        os.close(told)
        return child, heard
    status = 1
    try:
        os.close(heard)
        if "mongo_connection_string" in settings:
            bk.set_config(**settings)
            bk.install()
        else:
            bk.set_config(**settings)
        task(told)
        status = 0
    except Exception as cause:
        with suppress(OSError):
            os.write(2, f"{cause!r}\n".encode())
    finally:
        os._exit(status)
