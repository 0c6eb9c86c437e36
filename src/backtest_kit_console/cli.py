"""`bkm console`: a page over what is stored, written and run."""

from __future__ import annotations

import os
import secrets
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from backtest_kit_mongo.cli.opening import told
from backtest_kit_mongo.errors import CallerError, EnvironmentFault, InvalidSetting
from backtest_kit_mongo.settings import Settings, load
from backtest_kit_mongo.setup import resolve
from backtest_kit_mongo.terminal import echo

__all__ = ["console"]

PORT: Final = 8321
EVERYWHERE: Final = ("0.0.0.0", "::")
TOKEN_MIN: Final = 16
"""Characters. A shorter one can be guessed."""
SHUTDOWN_S: Final = 2


def console(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = PORT,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ask for the token in it. Without: one is made where one is needed."),
    ] = None,
    allow_host: Annotated[
        list[str], typer.Option(metavar="NAME", help="A name under which it is reached. Give it once for each.")
    ] = [],  # noqa: B006 # typer copies it
    allow_actions: Annotated[
        bool, typer.Option("--allow-actions", help="Dead letters may be replayed and dropped; asks for a token.")
    ] = False,
    anchors: Annotated[
        str | None,
        typer.Option(metavar="FILE|URI", help="Anchors that the audit log is compared with; else CC_ANCHOR_..."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="PEM", help="Serve TLS with this certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="PEM", help="Its key.")] = None,
) -> None:
    """Serve a page: health, open positions as they change, traces, runs, the audit log, dead letters, candles.

    It reads only. On loopback everybody on this machine may look; on another address, or with --token-file or
    --allow-actions, the page asks for a token, which is printed once. Needs the extra [cyan]console[/].

    [bold]Examples[/]

    [cyan]bkm console[/]

    [cyan]bkm console --host 0.0.0.0 --token-file token --allow-host desk.example --tls-cert c.pem --tls-key k.pem[/]

    [cyan]ssh -L 8321:localhost:8321 desk[/]     then open http://localhost:8321

    Exit status: 0 when it was ended; 1 when the port is taken or the extra is missing; 2 for wrong options or settings.
    """
    with told():
        if (tls_cert is None) != (tls_key is None):
            raise CallerError("--tls-cert and --tls-key belong together. Nothing was started.")
        token = _token(token_file, is_needed=allow_actions or not _is_loopback(host))
        settings = resolve(load())
        is_made = bool(token) and token_file is None
        _serve(
            settings, host, port, token, allow_host, anchors, tls_cert, tls_key, allow_actions=allow_actions,
            is_made=is_made,
        )  # fmt: skip


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _token(file: Path | None, *, is_needed: bool) -> str:
    if file is None:
        return secrets.token_urlsafe(24) if is_needed else ""
    found = file.read_text("utf-8").strip()
    if len(found) < TOKEN_MIN:
        few = f"{file} holds less than {TOKEN_MIN} characters, which can be guessed"
        raise InvalidSetting(f"{few}. Nothing was started.")
    return found


def _serve(
    settings: Settings,
    host: str,
    port: int,
    token: str,
    names: list[str],
    anchors: str | None,
    cert: Path | None,
    key: Path | None,
    *,
    allow_actions: bool,
    is_made: bool,
) -> None:
    """`is_made`: nobody knows the token yet, so it is printed."""
    try:
        import uvicorn

        from .app import make_app
        from .guard import Access, own_names
        from .live import Live
        from .sources import Sources
    except ModuleNotFoundError as cause:
        raise EnvironmentFault(f"bkm console needs {cause.name}: pip install 'backtest-kit-mongo[console]'.") from cause
    hosts = own_names() | {name.lower().rstrip(".") for name in (*names, host)}
    access = Access(token, hosts, allow_actions, is_secure=cert is not None)
    sources = Sources(settings, _targets(anchors, settings))
    live = Live(sources)

    # The access log would hold the token of the first request.
    config = uvicorn.Config(
        make_app(sources, access, live), host, port, log_level="warning", access_log=False, server_header=False,
        proxy_headers=False, ws="none", timeout_graceful_shutdown=SHUTDOWN_S, lifespan="on",
        ssl_certfile=cert, ssl_keyfile=None if key is None else str(key),
    )  # fmt: skip
    server = uvicorn.Server(config)
    live.is_ending = lambda: server.should_exit
    with config.bind_socket() as listening:
        listening.listen()  # Who is told the address may ask at once.
        shown = _address(
            socket.gethostname() if host in EVERYWHERE else host,
            listening.getsockname()[1],
            "http" if cert is None else "https",
        )
        echo(f"{shown}/?token={token}" if is_made else shown)
        if cert is None and not _is_loopback(host):
            echo("It speaks plain HTTP: who sees the network sees the token. Use --tls-cert, or ssh -L.", err=True)
        server.run(sockets=[listening])


def _address(host: str, port: int, scheme: str) -> str:
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _targets(anchors: str | None, settings: Settings) -> list[Any]:
    from backtest_kit_mongo.audit.targets import AnchorDatabase, AnchorFile

    file, uri = os.environ.get("CC_ANCHOR_FILE"), os.environ.get("CC_ANCHOR_MONGO_CONNECTION_STRING")
    if anchors is not None:
        is_uri = anchors.startswith(("mongodb://", "mongodb+srv://"))
        file, uri = (None, anchors) if is_uri else (anchors, None)
    found: list[Any] = [AnchorFile(Path(file))] if file else []
    return found + ([AnchorDatabase(uri, (settings.mongo_address, settings.database))] if uri else [])
