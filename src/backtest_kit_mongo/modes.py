"""Which domain is kept where: what `setup(backends=..)` chooses for the process, and the table of modes of a strategy,
changes to it, and its use.

| place | |
|---|---|
| mongo | MongoDB and Redis after `setup()`, before it files below ./dump: whatever the adapter serves |
| files | JSON files in a directory of the run's own |
| memory | this process, for the length of the run |
| jsonl | lines appended to ./dump/log/log.jsonl (log only) |
| dummy | nowhere |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from backtest_kit_mongo import stores
from backtest_kit_mongo.adapters.jsonl import JsonlLog
from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.adapters.registry import Registry
from backtest_kit_mongo.domains.table import BY_NAME, DOMAINS
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import AlreadySetUp, InvalidSetting

__all__ = ["MODES", "PLACES", "backends", "default_modes", "get_modes", "in_mode", "set_modes"]

MODES: Final = ("live", "paper", "backtest")
PLACES: Final = ("mongo", "files", "memory", "jsonl", "dummy")

_OWN_ROWS: Final = (
    "signal",
    "schedule",
    "strategy",
    "risk",
    "partial",
    "breakeven",
    "storage",
    "recent",
    "notification",
)
_REMEMBERED: Final = ("session", "state", "memory", "dictionary")


def _place(domain: str, mode: str) -> str:
    if domain == "log":
        return "jsonl"
    if mode == "backtest" and domain in _OWN_ROWS:
        return "memory"
    return "files" if mode == "backtest" and domain in _REMEMBERED else "mongo"


def default_modes() -> dict[str, dict[str, str]]:
    """By mode and domain, the place."""
    return {mode: _default_places(mode) for mode in MODES}


def _default_places(mode: str) -> dict[str, str]:
    return {domain.name: _place(domain.name, mode) for domain in DOMAINS}


_changes: dict[str, dict[str, str]] = {}
_is_left_alone = False
_backends: dict[str, Any] = {}
"""By domain, what `setup(backends=..)` chose."""
_CHOICES: Final = {"mongo": None, "files": "json", "memory": "memory", "dummy": "dummy"}
"""Words of `setup(backends=..)`, and what an adapter calls the same."""


def backends() -> dict[str, str]:
    """By domain, what serves its adapter in this process now, in words."""
    return {registry.domain.name: registry.serves for registry in REGISTRIES}


def are_chosen(wanted: Mapping[str, Any]) -> bool:
    """Whether `choose_backends` was given exactly these."""
    return dict(wanted) == _backends


def check_backends(wanted: Mapping[str, Any]) -> None:
    """
    Raises:
        InvalidSetting: a domain or place is unknown, a class could not serve, or the adapter was set to use something
            else. Nothing changed.
    """
    for domain, place in wanted.items():
        if domain not in BY_NAME:
            raise InvalidSetting(f"backends: there is no domain {domain!r:.40}; there are {', '.join(BY_NAME)}")
        registry = REGISTRIES.of(BY_NAME[domain])
        is_known = place in _CHOICES if isinstance(place, str) else isinstance(place, Store) or callable(place)
        if not is_known:
            raise InvalidSetting(
                f"backends[{domain!r}]: {', '.join(_CHOICES)}, a class or a Store are possible, not {place!r:.40}"
            )
        if not isinstance(place, str | Store):
            registry.keeps_values(place)
        choice = _CHOICES[place] if isinstance(place, str) else place
        if registry.choice is not None and registry.choice != choice and _backends.get(domain) != place:
            raise InvalidSetting(
                f"backends[{domain!r}] says {place!r:.60}, but {registry!r:.200} was set otherwise before. Say it in "
                "one place only. Nothing was changed."
            )


def choose_backends(wanted: Mapping[str, Any]) -> None:
    """Let adapters use what `check_backends` has allowed."""
    for domain, place in wanted.items():
        _choose(REGISTRIES.of(BY_NAME[domain]), place)
    _backends.update(wanted)


def _choose(registry: Registry, place: Any) -> None:
    words = {
        "mongo": registry.use_default, "files": registry.use_json,
        "memory": registry.use_memory, "dummy": registry.use_dummy,
    }  # fmt: skip
    if isinstance(place, str):
        words[place]()
    else:
        registry.use(place)


def forget() -> None:
    """As if no backend and no mode had been chosen."""
    _backends.clear()
    set_modes({})


def get_modes() -> dict[str, dict[str, str]]:
    """The table in force: by mode and domain, the place."""
    return {mode: _places(mode) for mode in MODES}


def _places(mode: str) -> dict[str, str]:
    return {**_default_places(mode), **_changes.get(mode, {})}


def set_modes(modes: Mapping[str, Mapping[str, str]] | None) -> None:
    """Change places: `{"backtest": {"state": "memory"}}`. Later calls add to earlier ones; an empty table forgets all
    changes.

    None: no adapter is chosen by the mode at all, in any mode; they serve what they were set to.

    Raises:
        InvalidSetting: a mode, domain or place is unknown, or does not fit. Nothing changed.
    """
    global _is_left_alone
    check_modes(modes or {})
    _is_left_alone = modes is None
    if not modes:
        _changes.clear()
    for mode, places in (modes or {}).items():
        _changes.setdefault(mode, {}).update(places)


def check_modes(modes: Mapping[str, Mapping[str, str]]) -> None:
    """Raises as `set_modes`."""
    for mode, places in modes.items():
        _require(mode)
        for domain, place in places.items():
            _check(mode, domain, place)


def are_in_force(modes: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether these changes would change nothing."""
    table = get_modes()
    return not _is_left_alone and all(table[mode].items() >= places.items() for mode, places in modes.items())


def _require(mode: str) -> None:
    if mode not in MODES:
        raise InvalidSetting(f"modes: there are {', '.join(MODES)}, not {mode!r:.40}")


def _check(mode: str, domain: str, place: str) -> None:
    if domain not in BY_NAME:
        raise InvalidSetting(f"modes[{mode!r}]: there is no domain {domain!r:.40}; there are {', '.join(BY_NAME)}")
    if place not in PLACES:
        raise InvalidSetting(f"modes[{mode!r}][{domain!r}]: there are {', '.join(PLACES)}, not {place!r:.40}")
    if place == "jsonl" and domain != "log":
        raise InvalidSetting(f"modes[{mode!r}][{domain!r}]: only the log goes to jsonl")


@contextmanager
def in_mode(mode: str, directory: Path) -> Iterator[None]:
    """All adapters of this process as the table says for a mode; after the block as before. One that was set to use
    something (`use_..`) keeps it.

    Args:
        directory: for what is kept in files of the run.
    """
    _require(mode)
    stores.mean_files()
    places = {} if _is_left_alone else _places(mode)
    memory, files = stores.new_memory_store(), stores.new_file_store(directory)
    made = {"memory": memory, "files": files, "dummy": stores.dummy_store()}
    with ExitStack() as stack:
        stack.callback(memory.close)
        stack.callback(files.close)
        for registry in REGISTRIES:
            if registry.choice is not None:
                continue  # Whoever set what an adapter uses means it.
            place = places.get(registry.domain.name, "mongo")
            if place in made:
                stack.enter_context(registry.serving(made[place]))
            elif place == "jsonl":
                stack.enter_context(registry.serving_by(JsonlLog))
        yield


class Choices(NamedTuple):
    """What `setup()` was told of modes and backends; None: nothing."""

    modes: Mapping[str, Mapping[str, str]] | None
    backends: Mapping[str, Any] | None

    def check(self, *, is_set_up: bool) -> None:
        """Raises InvalidSetting or AlreadySetUp, before anything is changed."""
        check_modes(self.modes or {})
        if not is_set_up:
            check_backends(self.backends or {})
            return
        if self.modes is not None and not are_in_force(self.modes):
            raise AlreadySetUp("setup() was called before with other modes. set_modes() changes them.")
        if self.backends is not None and not are_chosen(self.backends):
            raise AlreadySetUp(
                "setup() was called before with other backends, and they are in use. use_..() of an adapter changes "
                "what serves it; shutdown() forgets all."
            )

    def choose(self) -> None:
        if self.modes is not None:
            set_modes(self.modes)
        choose_backends(self.backends or {})
