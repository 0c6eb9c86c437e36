"""Which processes of this host live, and which did when this one began. Only where there is /proc; elsewhere nobody's
death is ever seen, and leases end by themselves.

A process that is dead sends nothing more. Since when it is dead at the latest tells how long its last write can still
be on its way; most of that time a process that follows it spends on imports.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import Final

__all__ = ["HOST", "birth", "dead_since_s", "is_dead"]

MARGIN_S: Final = 1.0
"""Far more than births, which are counted in hundredths of a second, can be wrong by."""


def _host() -> str:
    """This boot and its space of process numbers: names of hosts may coincide, these do not."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return secrets.token_hex(8)


def _numbers() -> frozenset[str]:
    try:
        return frozenset(os.listdir("/proc"))
    except OSError:
        return frozenset()


def _boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else 0.0


HOST: Final = _host()
_began_s, _began_boot_s, _lived_then = time.monotonic(), _boot_s(), _numbers()


def birth(process: int) -> str:
    """When a process began, in ticks since the boot, so that its number's next owner is not taken for it; empty: there
    is none.
    """
    try:
        text = Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[19]


def is_dead(holder: str) -> bool:
    """Whether the holder of a lease was a process of this host that does not live any more."""
    return dead_since_s(holder) is not None


def dead_since_s(holder: str) -> float | None:
    """A moment (`time.monotonic()`) at which the holder of a lease was dead already; None: it lives, or nobody
    knows.
    """
    host, process, born = _parts(holder)
    if host != HOST or birth(int(process)) == born:
        return None
    was_born_before = int(born) / os.sysconf("SC_CLK_TCK") < _began_boot_s - MARGIN_S
    return _began_s if was_born_before and process not in _lived_then else time.monotonic()


def _parts(holder: str) -> tuple[str, str, str]:
    """Host, number and birth of a process; a host that is none for what is no such text."""
    parts = holder.split("/")
    if len(parts) != 5 or not parts[1].isdecimal() or not parts[2].isdecimal():
        return "", "", ""
    return parts[3], parts[1], parts[2]
