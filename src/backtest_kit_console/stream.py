"""Positions as server-sent events: rows that changed, as HTML that the server has escaped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Message, Send

from . import words
from .live import Change, Live

__all__ = ["streaming"]

STATUS_S: Final = 5.0
"""So often a browser is told that nothing has happened."""
GLANCE_S: Final = 0.5
"""So soon a stream notices that the server ends."""
BROWSERS_MAX: Final = 200
ROWS_MAX: Final = 100
"""Of a message. A browser that does not read holds one, so this bounds what it costs."""
RENDERED_MAX: Final = 4_000
MADE_MAX: Final = 100
SLOW_S: Final = 30.0
"""A browser that has not taken a message for so long is left."""
Chosen: TypeAlias = tuple[str, str, str]
"""Symbol, strategy and exchange that a page is reduced to; empty: all."""


class Messages:
    """What changed since a version, as browsers are told; made once for all that have come to the same one."""

    def __init__(self, live: Live, render: Callable[..., str]) -> None:
        self._live, self._render = live, render
        self._rows: dict[int, str | None] = {}
        self._made: dict[tuple[int, Chosen], str] = {}
        self._version = live.version

    def since(self, version: int, chosen: Chosen) -> tuple[str, int] | None:
        """The message, and the version that a browser has come to with it; None: it must load its page anew."""
        changes = self._live.since(version)
        if changes is None:
            return None
        changes = changes[:ROWS_MAX]
        newest = changes[-1].version if changes else version
        if not changes:
            return _message(self._live, newest, []), newest
        if self._live.version != self._version or len(self._made) >= MADE_MAX:
            self._made.clear()
            self._version = self._live.version
        if (version, chosen) not in self._made:
            rows = [{"id": one.element, "html": self._row(one)} for one in changes if _is_chosen(one, chosen)]
            self._made[version, chosen] = _message(self._live, newest, rows)
        return self._made[version, chosen], newest

    def _row(self, change: Change) -> str | None:
        if change.version not in self._rows:
            if len(self._rows) >= RENDERED_MAX:
                self._rows.clear()
            one = change.position
            self._rows[change.version] = None if one is None else self._render("position.html", one=one)
        return self._rows[change.version]


class _Stream(StreamingResponse):
    """Ends when a browser does not take what it is sent: it would keep the place of another."""

    async def stream_response(self, send: Send) -> None:
        async def sending(message: Message) -> None:
            async with asyncio.timeout(SLOW_S):
                await send(message)

        with suppress(TimeoutError):
            await super().stream_response(sending)


def streaming(live: Live, render: Callable[..., str]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint."""
    messages = Messages(live, render)

    async def endpoint(request: Request) -> Response:
        epoch, version = _place(request)
        if live.listeners_count >= BROWSERS_MAX:
            return PlainTextResponse(f"{BROWSERS_MAX} browsers are served already", 503)
        asked = request.query_params
        chosen = asked.get("symbol", ""), asked.get("strategy", ""), asked.get("exchange", "")
        body = _told(live, messages, version if epoch == live.epoch else None, chosen)
        return _Stream(body, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    return endpoint


def _place(request: Request) -> tuple[str, int]:
    """Where a browser has come to: what it says when it connects again wins over what its page was made with."""
    said = request.headers.get("last-event-id") or request.query_params.get("since", "")
    epoch, _, version = said.partition("-")
    return epoch, int(version) if version.isdecimal() and len(version) < 20 else 0


async def _told(live: Live, messages: Messages, version: int | None, chosen: Chosen) -> AsyncIterator[str]:
    yield "retry: 1000\n\n"
    with live.listening() as news:
        while not live.is_ending():
            news.clear()
            found = None if version is None else messages.since(version, chosen)
            if found is None:
                yield "event: reload\ndata: {}\n\n"
                return
            text, version = found
            yield text
            if version == live.version:
                await _wait(live, news)


async def _wait(live: Live, news: asyncio.Event) -> None:
    """Until there is news, it is time to say that there is none, or the server ends."""
    for _ in range(round(STATUS_S / GLANCE_S)):
        with suppress(TimeoutError):
            await asyncio.wait_for(news.wait(), GLANCE_S)
            return
        if live.is_ending():
            return


def _message(live: Live, version: int, rows: list[dict[str, Any]]) -> str:
    opened, waiting = live.counts
    told = {"rows": rows, "open": opened, "waiting": waiting, "trouble": live.trouble}
    return f"id: {live.epoch}-{version}\ndata: {json.dumps({**told, 'read': words.iso(live.read_ms)})}\n\n"


def _is_chosen(change: Change, chosen: Chosen) -> bool:
    """Whether a page with this choice has the row."""
    return all(not want or want == str(part) for want, part in zip(chosen, change.name[1], strict=False))
