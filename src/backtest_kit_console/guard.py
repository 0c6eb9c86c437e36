"""Who may ask. Everything here is decided before a page is, by pure functions and one wrapper of the application.

| who | what stops them |
|---|---|
| a web page elsewhere that has its own name point here (DNS rebinding) | the Host header must be known |
| whoever reaches the port | the token, where one is asked for: in a form, or once as `?token=` |
| a form of a web page elsewhere | cookies are SameSite=Strict, Origin must be this one, and forms carry a value |
| | made from the cookie |
| a web page elsewhere that embeds this one | no page may be framed |
| a name or note with HTML in it | templates escape it, and the policy runs no script but `static/console.js` |
"""

from __future__ import annotations

import hmac
import socket
import time
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import ip_address
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["COOKIE", "Access", "Guard", "inside", "own_names"]

COOKIE: Final = "bkm-console"
SESSION_S: Final = 12 * 3600
POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
OPEN: Final = ("/static/", "/login")
"""What everybody may have."""


def own_names() -> frozenset[str]:
    """Names of this host."""
    return frozenset({"localhost", socket.gethostname().lower()})


@dataclass(frozen=True)
class Access:
    """Whom the server lets in.

    Attributes:
        token: empty: whoever reaches the port.
        hosts: names under which it is known. An address needs no name: only names can be pointed elsewhere.
        allow_actions: whether dead letters may be replayed and dropped.
        is_secure: browsers speak TLS to it, so the cookie must not travel without.
    """

    token: str = field(default="", repr=False)
    hosts: frozenset[str] = frozenset({"localhost"})
    allow_actions: bool = False
    is_secure: bool = False

    def knows_host(self, header: str) -> bool:
        try:
            name = (urlsplit(f"//{header}").hostname or "").rstrip(".")
        except ValueError:
            return False
        try:
            ip_address(name)
        except ValueError:
            return name in self.hosts
        return True

    def is_token(self, given: str) -> bool:
        return bool(self.token) and hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())

    def session(self, now_s: float) -> str:
        """A cookie that says until when it is good. It survives a restart with the same token."""
        until = f"{now_s + SESSION_S:.0f}"
        return f"{until}.{self._signed('session', until)}"

    def is_session(self, cookie: str, now_s: float) -> bool:
        if not self.token:
            return True
        until, _, mac = cookie.partition(".")
        is_ours = hmac.compare_digest(mac.encode("utf-8", "replace"), self._signed("session", until).encode())
        return is_ours and float(until) > now_s

    def form_value(self, cookie: str) -> str:
        """What a form of this session carries; no other page can read it."""
        return self._signed("form", cookie)

    def is_form_value(self, given: str, cookie: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.form_value(cookie).encode())

    def _signed(self, what: str, text: str) -> str:
        secret = sha256(self.token.encode()).digest()
        return hmac.new(secret, f"{what}\n{text}".encode("utf-8", "replace"), sha256).hexdigest()


class Guard:
    """The application behind what everybody must pass."""

    def __init__(self, app: ASGIApp, access: Access, refused: ASGIApp) -> None:
        self._app, self._access, self._refused = app, access, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        chosen = self._judged(Request(scope)) or self._app
        await chosen(scope, receive, sending)

    def _judged(self, request: Request) -> ASGIApp | None:
        """What answers in the place of the application; None: nothing is against it."""
        host = request.headers.get("host", "")
        if not self._access.knows_host(host):
            named = "This server is not known under that name (Host header). Start it with --allow-host NAME."
            return PlainTextResponse(named, 421)
        if request.method not in ("GET", "HEAD") and not _is_from_here(request.headers, host):
            return PlainTextResponse("The request was sent by a page of another site. Nothing was done.", 403)
        if request.url.path.startswith(OPEN):
            return None
        given = request.query_params.get("token")
        if given is not None and request.method == "GET":
            return self._let_in(request) if self._access.is_token(given) else self._refused
        if self._access.is_session(request.cookies.get(COOKIE, ""), time.time()):
            return None
        return self._refused

    def _let_in(self, request: Request) -> Response:
        """The same page without the token, which would stay in the browser's history."""
        left = [(name, value) for name, value in parse_qsl(request.url.query) if name != "token"]
        answer = RedirectResponse(inside(f"{request.url.path}{f'?{urlencode(left)}' if left else ''}"), 303)
        self.set_cookie(answer, self._access)
        return answer

    @staticmethod
    def set_cookie(answer: Response, access: Access) -> None:
        answer.set_cookie(
            COOKIE, access.session(time.time()), SESSION_S, httponly=True, samesite="strict", secure=access.is_secure
        )


def inside(path: str) -> str:
    """A path of this server: two slashes at its beginning, or a backslash, would name another one."""
    return f"/{path.lstrip('/')}" if "\\" not in path and path.isprintable() else "/"


def _is_from_here(headers: Headers, host: str) -> bool:
    """Whether a browser says that this site sent it, or it is no browser."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    return origin is None or urlsplit(origin).netloc == host
