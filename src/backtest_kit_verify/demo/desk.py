"""Where a host reads and writes: the adapters, or memory. The same replay runs against both."""

import inspect
from collections.abc import Callable
from functools import cache, lru_cache
from re import sub
from typing import Any, Protocol

import backtest_kit_mongo as bk
from backtest_kit_mongo.coherence.codec import pack, unpack
from backtest_kit_mongo.coherence.record import Domain, Key, Shape
from backtest_kit_verify.demo.rows import Write

__all__ = ["AdapterDesk", "Desk", "MemoryDesk", "adapter_read", "adapter_write", "same"]


class Desk(Protocol):
    """What the replay needs of a store."""

    def read(self, key: Key, when_ms: int) -> Any: ...

    def write(self, write: Write) -> None: ...


class MemoryDesk:
    """The last value of every key, for comparing: the same replay without any server."""

    def __init__(self) -> None:
        self.last: dict[Key, bytes] = {}

    def read(self, key: Key, when_ms: int) -> Any:
        return unpack(self.last[key]) if key in self.last else key.domain.empty()

    def write(self, write: Write) -> None:
        self.last[write.key] = pack(write.payload)


class AdapterDesk:
    """The public adapters, with every value that is read compared with the last one written here.

    Attributes:
        reads, writes: adapter calls.
        compared: reads of keys that this process has written.
        mismatches: those that gave something else, described.
    """

    def __init__(self) -> None:
        self.reads = self.writes = self.compared = 0
        self.mismatches: list[str] = []
        self._last: dict[Key, bytes] = {}

    def read(self, key: Key, when_ms: int) -> Any:
        found = adapter_read(key, when_ms)
        self.reads += 1
        if key in self._last:
            self.compared += 1
            if not same(found, self._last[key]):
                self.mismatches.append(f"{key.domain.name} {key.parts}: {found!r:.200}")
        return found

    def write(self, write: Write) -> None:
        body = pack(write.payload)
        adapter_write(write)
        self.writes += 1
        # Rows of lists are read together, and only at the end.
        if write.key.domain.cached:
            self._last[write.key] = body


def same(found: Any, body: bytes) -> bool:
    """Whether a value is exactly the packed one: types and order of fields too."""
    return pack(found) == body


def adapter_read(key: Key, when_ms: int) -> Any:
    """Read one document, or the whole list that it stands in, through its public adapter."""
    method, takes_when = _method("read", key.domain)
    return method(**_arguments(key), **({"when": when_ms} if takes_when else {}))


def adapter_write(write: Write) -> None:
    """Write one document through its public adapter."""
    method, takes_when = _method("write", write.key.domain)
    payload = [write.payload] if write.key.domain.shape is Shape.LIST else write.payload
    method(payload, **_arguments(write.key), **({"when": write.when_ms} if takes_when else {}))


@cache
def _method(verb: str, domain: Domain) -> tuple[Callable[..., Any], bool]:
    # The adapters' parameters are the key columns in snake case, so their signatures need no second table here.
    adapter = getattr(bk, f"Persist{domain.name.title()}Adapter")
    method = getattr(adapter, f"{verb}_{'position' if domain.name == 'risk' else domain.name}_data")
    return method, "when" in inspect.signature(method).parameters


@lru_cache(maxsize=4096)
def _arguments(key: Key) -> dict[str, Any]:
    addressed = key.scope if key.domain.shape is Shape.LIST else key
    return {_parameter(column): part for column, part in addressed.query().items()}


def _parameter(column: str) -> str:
    return "key" if column == "entryKey" else sub(r"([A-Z])", r"_\1", column).lower()
