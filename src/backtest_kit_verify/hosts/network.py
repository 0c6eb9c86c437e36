"""Hosts as network namespaces on one bridge. Whoever is cut from another loses its packets silently, as in a real
network: no error, no end of the connection.

A cut gives the other's address a hardware address that nobody has, so frames go out and reach nobody; no firewall is
needed, and each direction is cut for itself. Names stand in a hosts file that each namespace has for its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["DOMAIN", "Host", "HostsError", "Network", "network", "why_not"]

DOMAIN: Final = "hosts.test"
NETWORKS_MAX: Final = 200
NOBODY: Final = "02:00:00:00:00:ff"
_FILES = Path("/etc/netns")


class HostsError(Exception):
    """The hosts cannot be made, or do not do what they should."""


def why_not() -> str:
    """Why there can be no namespaces here; empty if there can."""
    missing = [name for name in ("ip", "setpriv") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not found: install iproute2 and util-linux"
    return "" if os.geteuid() == 0 else "network namespaces need root"


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise HostsError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass(slots=True)
class Host:
    """One host.

    Attributes:
        number: counts from 2; the last part of its address, and of its hardware address.
        space: the namespace.
    """

    name: str
    space: str
    subnet: str
    number: int

    @property
    def address(self) -> str:
        return f"{self.subnet}.{self.number}"

    @property
    def hardware(self) -> str:
        return f"02:00:00:00:00:{self.number:02x}"

    @property
    def inside(self) -> tuple[str, ...]:
        """What stands before a command that is to run there, and to end with this process."""
        return ("setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.space)


@dataclass(slots=True)
class Network:
    """All hosts by name, and what is cut."""

    hosts: dict[str, Host]
    _moved: int = field(default=0)

    def cut(self, who: str, whom: str, *, there: bool = True, back: bool = True) -> None:
        """From now on what `who` sends reaches `whom` no more (there), nor the other way round (back)."""
        self._direct(who, whom, NOBODY if there else self.hosts[whom].hardware)
        self._direct(whom, who, NOBODY if back else self.hosts[who].hardware)

    def heal(self, who: str, whom: str) -> None:
        self._direct(who, whom, self.hosts[whom].hardware)
        self._direct(whom, who, self.hosts[who].hardware)

    def _direct(self, who: str, whom: str, hardware: str) -> None:
        address = self.hosts[whom].address
        _ip("-n", self.hosts[who].space, "neigh", "replace", address, "lladdr", hardware, "nud", "permanent",
            "dev", "eth0")  # fmt: skip

    def limit(self, who: str, size: int) -> None:
        """Larger packets to this host are dropped without a word; 1,500 is as it should be."""
        host = self.hosts[who]
        _ip("link", "set", f"{host.space}o", "mtu", str(size))

    def move(self, who: str) -> None:
        """The host gets another address, and its name means that from now on."""
        host = self.hosts[who]
        before = host.address
        self._moved += 1
        host.number += 20
        _ip("-n", host.space, "addr", "add", f"{host.address}/24", "dev", "eth0")
        _ip("-n", host.space, "addr", "del", f"{before}/24", "dev", "eth0")
        _ip("-n", host.space, "link", "set", "eth0", "address", host.hardware)
        self.write_names()

    def write_names(self) -> None:
        """In place: the files are mounted over the machine's own."""
        lines = ["127.0.0.1 localhost", *(f"{one.address} {one.name}.{DOMAIN}" for one in self.hosts.values())]
        for host in self.hosts.values():
            (_FILES / host.space / "hosts").write_text("\n".join(lines) + "\n", "utf-8")


@contextmanager
def network(names: Sequence[str]) -> Iterator[Network]:
    """Hosts of these names, all of which reach each other and this process.

    Raises:
        HostsError: there can be none here.
    """
    if reason := why_not():
        raise HostsError(reason)
    with ExitStack() as stack:
        bridge, subnet = _bridge(stack)
        hosts = {name: Host(name, f"{bridge}{name}", subnet, number) for number, name in enumerate(names, 2)}
        for host in hosts.values():
            _join(stack, bridge, host)
        made = Network(hosts)
        made.write_names()
        yield made


def _bridge(stack: ExitStack) -> tuple[str, str]:
    """A bridge of a name that nobody else had: two runs at once have two networks."""
    for number in range(NETWORKS_MAX):
        name, subnet = f"bkm{number}", f"10.98.{number}"
        try:
            _ip("link", "add", name, "type", "bridge")
        except HostsError as error:
            if "exists" not in str(error):
                raise
            continue
        stack.callback(_ip, "link", "del", name)
        _ip("addr", "add", f"{subnet}.1/24", "dev", name)
        _ip("link", "set", name, "up")
        return name, subnet
    raise HostsError(f"there are {NETWORKS_MAX} bridges of former runs: remove them with ip link del bkm0, ...")


def _join(stack: ExitStack, bridge: str, host: Host) -> None:
    space, outer = host.space, f"{host.space}o"
    _ip("netns", "add", space)
    stack.callback(_ip, "netns", "del", space)  # And with it its links.
    (_FILES / space).mkdir(parents=True)
    stack.callback(shutil.rmtree, _FILES / space, ignore_errors=True)
    _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
    _ip("link", "set", outer, "master", bridge, "up")
    _ip("-n", space, "link", "set", "eth0", "address", host.hardware)
    _ip("-n", space, "addr", "add", f"{host.address}/24", "dev", "eth0")
    _ip("-n", space, "link", "set", "eth0", "up")
    _ip("-n", space, "link", "set", "lo", "up")
