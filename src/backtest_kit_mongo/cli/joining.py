"""`bkm join-file`: the settings with which another host joins this deployment."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from backtest_kit_mongo.errors import InvalidSetting, NotFound
from backtest_kit_mongo.settings import Settings, load
from backtest_kit_mongo.terminal import echo, escape

from .opening import told

__all__ = ["join_file", "joining"]

AGREED: Final = ("lease_ms", "cache_mode", "partitions")
"""The same on all hosts, so it is said even where it is the default."""
OF_REDIS: Final = (
    "redis_host", "redis_port", "redis_user", "redis_password", "redis_tls", "redis_tls_ca_file", "redis_tls_cert_file",
    "redis_tls_key_file", "redis_sentinel", "redis_sentinel_service", "redis_sentinel_password", "redis_cluster",
    "on_redis_down", "mongo_timeout_ms",
)  # fmt: skip
"""Said where they are not the default."""
FILES: Final = ("redis_tls_ca_file", "redis_tls_cert_file", "redis_tls_key_file")
LOOPBACK: Final = re.compile(r"localhost|127\.[\d.]+|\[?::1\]?|0\.0\.0\.0", re.IGNORECASE)
NAMED: Final = re.compile(r"\[?[\w.:%-]+\]?")
"""A host: a name, or an address."""
PLACEHOLDER: Final = "PASSWORD"


def join_file(
    address: Annotated[
        str, typer.Option("--address", metavar="NAME", help="What other hosts call the host of servers that are here.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it with its passwords, readable by you alone.")
    ] = None,
) -> None:
    """Print the settings with which another host uses the same MongoDB and Redis.

    They are those of this shell, with the addresses that mean this machine replaced. On the screen passwords are left
    out; a file has them.

    [bold]Examples[/]

    [cyan]bkm join-file --address db.example.net[/]

    [cyan]bkm join-file --address 10.8.0.1 --out second.env[/]     there: set -a; . ./second.env; set +a; bkm doctor

    Exit status: 0 done, 2 when an address is missing or the file is there already.
    """
    with told():
        lines = list(joining(load(), address, with_secrets=out is not None))
        if out is None:
            echo("\n".join(lines))
            return
        try:
            handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise InvalidSetting(f"{out} is there already; nothing was written") from None
        except FileNotFoundError:
            raise NotFound(f"there is no directory {out.absolute().parent}; nothing was written") from None
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    Console(stderr=True).print(f"wrote {escape(str(out))}; it holds passwords: copy it with scp, and delete it here")


def joining(settings: Settings, address: str, *, with_secrets: bool) -> Iterator[str]:
    """The lines of that file.

    Raises:
        InvalidSetting: an address means this machine alone, and none is given to replace it, or one that is no host.
    """
    if address and (not NAMED.fullmatch(address) or LOOPBACK.fullmatch(address)):
        raise InvalidSetting(f"--address: {address!r:.80} is no name or address by which others reach this host")
    if settings.embedded:
        raise InvalidSetting("the private servers of CC_EMBEDDED serve this machine alone: start servers of their own")
    yield "# The same on every host; `bkm doctor` there says what is missing."
    uri = settings.mongo_connection_string.get_secret_value()
    yield _line("mongo_connection_string", _elsewhere(uri if with_secrets else _masked(uri), address))
    for name in AGREED:
        yield _line(name, getattr(settings, name))
    for name in OF_REDIS:
        value = getattr(settings, name)
        if name == "redis_host" and not (settings.redis_sentinel or settings.redis_cluster):
            yield _line(name, _replaced(str(value), address))
        elif value != type(settings).model_fields[name].default and name != "redis_host":
            yield _line(name, _shown(name, value, address, with_secrets))
    paths = [str(getattr(settings, name)) for name in FILES if getattr(settings, name) is not None]
    paths += re.findall(r"(?i)tls(?:CA|CertificateKey)File=([^&;]+)", uri)
    if paths:
        yield f"# Files that must be there, too: {', '.join(dict.fromkeys(paths))}"


def _line(name: str, value: object) -> str:
    return f"CC_{name.upper()}={shlex.quote(str(value))}"


def _shown(name: str, value: object, address: str, with_secrets: bool) -> object:
    if name.endswith("password"):
        return value.get_secret_value() if with_secrets else PLACEHOLDER  # type: ignore[attr-defined]
    if isinstance(value, tuple):
        return ",".join(f"{_bracketed(_replaced(host, address))}:{port}" for host, port in value)
    return int(value) if isinstance(value, bool) else value


def _masked(uri: str) -> str:
    uri = re.sub(r"(://[^:/@]*:)[^@/]*@", rf"\g<1>{PLACEHOLDER}@", uri)
    return re.sub(r"(?i)(password=)[^&;]*", rf"\g<1>{PLACEHOLDER}", uri)


def _elsewhere(uri: str, address: str) -> str:
    """A connection string with the hosts that mean this machine replaced."""
    scheme, _, rest = uri.partition("://")
    hosts, slash, more = rest.partition("/")
    user, at, named = hosts.rpartition("@")
    replaced = []
    for one in named.split(","):
        host, port = re.fullmatch(r"(\[[^]]*\]|[^:]*)(:\d+)?", one).groups("")  # type: ignore[union-attr]
        replaced.append(_bracketed(_replaced(host, address)) + (port or ""))
    return f"{scheme}://{user}{at}{','.join(replaced)}{slash}{more}"


def _replaced(host: str, address: str) -> str:
    if not LOOPBACK.fullmatch(host):
        return host
    if not address:
        raise InvalidSetting(
            f"{host} means another machine there: say with --address by what name other hosts reach this one"
        )
    return address


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
