"""A small HTTP server for what machines ask a process: metrics, health."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, NamedTuple

from backtest_kit_mongo import locks

logger = locks.logger(__name__)


class Page(NamedTuple):
    """An answer: HTTP status, content type and body."""

    status: int
    kind: str
    body: bytes


class PageServer:
    """Serves pages by path, each made when it is asked for, in threads of its own.

    Args:
        port: 0 for any free one; see `port`.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(self, host: str, port: int, pages: Mapping[str, Callable[[], Page]]) -> None:
        kind = _Server6 if ":" in host else _Server
        self._server = kind((host, port), _handler(pages))
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_port

    def _serve(self) -> None:
        self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def abandon(self) -> None:
        """In a forked child: let go of the socket, without the thread, which is not here."""
        self._server.socket.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Two processes must never share a port: a scraper would see the one, then the other.
    allow_reuse_port = False

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks the name service for this host's full name and may wait for it.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        # The base class prints a traceback into the program's output, also for a scraper that did not wait.
        cause = sys.exc_info()[1]
        level = logging.DEBUG if isinstance(cause, OSError) else logging.ERROR
        logger.log(level, "a page could not be served: %s: %s", type(cause).__name__, cause)


class _Server6(_Server):
    address_family = socket.AF_INET6


def _handler(pages: Mapping[str, Callable[[], Page]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # A client that says nothing must not keep a thread for ever.
        timeout = 10

        def do_GET(self) -> None:
            make = pages.get(self.path.partition("?")[0])
            page = make() if make is not None else Page(404, "text/plain", f"{' or '.join(pages)}\n".encode())
            self.send_response(page.status)
            self.send_header("Content-Type", page.kind)
            self.send_header("Content-Length", str(len(page.body)))
            self.end_headers()
            self.wfile.write(page.body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class named it
            """Scrapes are not news."""

    return Handler
