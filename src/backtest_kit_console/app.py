"""From a request to a page. Pages are plain functions (`pages/`) that run in threads; whatever they raise is a page
too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache, partial
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

import jinja2
import pymongo
import redis
from markupsafe import Markup
from pymongo.errors import PyMongoError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from backtest_kit_mongo.coherence.showing import visible
from backtest_kit_mongo.errors import BacktestKitError, CallerError, EnvironmentFault, NotFound

from . import words
from .actions import act
from .guard import COOKIE, Access, Guard, inside
from .live import Live
from .pages import PAGES, Answer, Asked, Download, Show, overview
from .sources import Sources
from .stream import streaming

__all__ = ["make_app"]

logger = logging.getLogger(__name__)
BODY_MAX: Final = 64 * 1024
PAGE_S: Final = 5.0
"""So long a page waits for MongoDB before it says that it does not answer."""
STATIC: Final = str(files(__package__) / "static")


class Templates:
    """The pages' HTML. Every value is escaped, and what would change the direction of text is made visible."""

    def __init__(self, sources: Sources, access: Access) -> None:
        self._env = jinja2.Environment(
            loader=jinja2.PackageLoader(__package__), autoescape=True, undefined=jinja2.StrictUndefined,
            trim_blocks=True, lstrip_blocks=True, finalize=_shown,
        )  # fmt: skip
        self._env.filters.update(words.FILTERS)
        self._env.globals.update(
            pages=[(path, title) for path, title, _ in PAGES if title],
            link=words.address,
            asset=_asset,
            place=f"database {sources.settings.database} at {sources.settings.mongo_address}",
            allows_actions=access.allow_actions,
            has_token=bool(access.token),
        )

    def make(self) -> None:
        """Compile all, so that the first who asks need not wait for it."""
        for name in self._env.list_templates():
            self._env.get_template(name)

    def render(self, name: str, **values: Any) -> str:
        made: str = self._env.get_template(name).render(**values)
        return made


class Assets(StaticFiles):
    """Files that a browser keeps: their addresses change with them."""

    def file_response(self, *given: Any, **more: Any) -> Response:
        answer = super().file_response(*given, **more)
        answer.headers["cache-control"] = "private, max-age=31536000, immutable"
        return answer


@cache
def _asset(name: str) -> str:
    return f"/static/{name}?v={sha256((Path(STATIC) / name).read_bytes()).hexdigest()[:12]}"


def _shown(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def make_app(sources: Sources, access: Access, live: Live | None = None) -> ASGIApp:
    """The application. It closes the sources at its end.

    Args:
        live: over the same sources, for a server that ends its streams before it waits for them.
    """
    templates = Templates(sources, access)
    templates.make()
    live = live or Live(sources)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        overview.begin(sources)  # Who looks first need not wait for connections.
        live.begin()
        yield
        live.close()
        sources.close()

    entry = _Entry(templates, access)
    routes = [
        *(Route(path, _endpoint(show, sources, live, access, templates)) for path, _, show in PAGES),
        *(
            [Route("/letters/act", _acting(sources, access, templates), methods=["POST"])]
            if access.allow_actions
            else ()
        ),
        Route("/positions/live", streaming(live, templates.render)),
        Route("/login", entry.form, methods=["GET"]),
        Route("/login", entry.let_in, methods=["POST"]),
        Mount("/static", Assets(directory=STATIC)),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={404: entry.nowhere})
    return Guard(app, access, entry.refused)


def _endpoint(
    show: Show, sources: Sources, live: Live, access: Access, templates: Templates
) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        began_s = time.perf_counter()
        cookie = request.cookies.get(COOKIE, "")
        asked = Asked(sources, live, dict(request.query_params), access.form_value(cookie))
        status, rendered = 200, partial(templates.render, path=request.url.path, query=asked.query)
        try:
            with pymongo.timeout(PAGE_S):
                answer = show(asked)
            if isinstance(answer, Download):
                named = f'attachment; filename="{answer.name}"'
                return Response(answer.content, 200, {"content-disposition": named}, answer.kind)
            page = rendered(answer.template, **answer.values)
        except Exception as cause:
            failed = _failed(cause, sources)
            status, page = failed.status, rendered(failed.template, **failed.values)
        took_ms = (time.perf_counter() - began_s) * 1000
        return HTMLResponse(page, status, {"server-timing": f"page;dur={took_ms:.1f}"})

    return endpoint


def _acting(sources: Sources, access: Access, templates: Templates) -> Callable[[Request], Awaitable[Response]]:
    """Replay or drop, from the form of a dead letter's page."""

    async def endpoint(request: Request) -> Response:
        given = await fields(request)
        if not access.is_form_value(given.get("form", ""), request.cookies.get(COOKIE, "")):
            return PlainTextResponse("The form is not of this session: load its page again. Nothing was done.", 403)
        client = request.client.host if request.client is not None else "unknown"
        what, name, why = (given.get(field, "") for field in ("act", "id", "why"))
        try:
            done = await run_in_threadpool(act, sources, what, name, why, client)
        except Exception as cause:
            failed = _failed(cause, sources)
            page = templates.render(failed.template, path="/letters", query={}, **failed.values)
            return HTMLResponse(page, failed.status)
        return RedirectResponse(words.address("/letters", done=done), 303)

    return endpoint


async def fields(request: Request) -> dict[str, str]:
    """The fields of a form, of a name the last; nothing of a body that is no small form."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_MAX:
            return {}
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=20))


def _failed(cause: Exception, sources: Sources) -> Answer:
    """What went wrong, as a page. Errors of this package hold no secrets; those of others are not quoted."""
    if isinstance(cause, CallerError):
        status = 404 if isinstance(cause, NotFound) else 400
        return Answer("error.html", {"title": "That cannot be shown", "said": str(cause)}, status)
    if isinstance(cause, EnvironmentFault | PyMongoError | redis.RedisError | BacktestKitError):
        logger.warning("a page cannot be shown: %s", sources.said(cause))
        values = {"title": "A server does not answer as it should", "said": sources.said(cause), "is_passing": True}
        return Answer("error.html", values, 503)
    logger.error("a page failed", exc_info=cause)
    told = f"{type(cause).__name__}. This is a fault of the console; its log has more. Nothing was changed."
    return Answer("error.html", {"title": "This page failed", "said": told}, 500)


class _Entry:
    """The form for the token, and answers for those who are not let in."""

    def __init__(self, templates: Templates, access: Access) -> None:
        self._templates, self._access = templates, access

    def _page(self, status: int, path: str, said: str = "") -> HTMLResponse:
        page = self._templates.render("login.html", path="/login", query={}, next=inside(path), said=said)
        return HTMLResponse(page, status)

    async def form(self, request: Request) -> Response:
        return self._page(200, request.query_params.get("next", "/"))

    async def let_in(self, request: Request) -> Response:
        given = await fields(request)
        if not self._access.is_token(given.get("token", "")):
            return self._page(401, given.get("next", "/"), "That is not the token.")
        answer = RedirectResponse(inside(given.get("next", "/")), 303)
        Guard.set_cookie(answer, self._access)
        return answer

    async def refused(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        said = "That is not the token." if "token" in request.query_params else ""
        await self._page(401, request.url.path, said)(scope, receive, send)

    async def nowhere(self, request: Request, cause: Exception) -> Response:
        values = {"title": "There is no such page", "said": "The menu has all pages.", "path": "", "query": {}}
        return HTMLResponse(self._templates.render("error.html", **values), 404)
