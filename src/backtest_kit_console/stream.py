"""Positions as server-sent events: rows that changed, as HTML that the server has escaped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from . import words
from .live import Change, Live

__all__ = ["streaming"]

STATUS_S: Final = 5.0
"""So often a browser is told that nothing has happened."""
BROWSERS_MAX: Final = 200
RENDERED_MAX: Final = 4_000


def streaming(live: Live, render: Callable[..., str]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint. A row is made once for all browsers."""

    made: dict[int, str | None] = {}

    def row(change: Change) -> str | None:
        if change.version not in made:
            if len(made) >= RENDERED_MAX:
                made.clear()
            made[change.version] = None if change.position is None else render("position.html", one=change.position)
        return made[change.version]

    async def endpoint(request: Request) -> Response:
        epoch, version = _place(request)
        if live.listeners_count >= BROWSERS_MAX:
            return PlainTextResponse(f"{BROWSERS_MAX} browsers are served already", 503)
        first = version if epoch == live.epoch else None
        body = _messages(live, row, first, request.query_params)
        return StreamingResponse(body, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    return endpoint


def _place(request: Request) -> tuple[str, int]:
    """Where a browser has come to: what it says when it connects again wins over what its page was made with."""
    said = request.headers.get("last-event-id") or request.query_params.get("since", "")
    epoch, _, version = said.partition("-")
    return epoch, int(version) if version.isdecimal() else 0


async def _messages(
    live: Live, row: Callable[[Change], str | None], version: int | None, chosen: Mapping[str, str]
) -> AsyncIterator[str]:
    yield "retry: 1000\n\n"
    with live.listening() as news:
        while True:
            news.clear()
            changes = None if version is None else live.since(version)
            if changes is None:
                yield "event: reload\ndata: {}\n\n"
                return
            version = max((change.version for change in changes), default=version)
            rows = [{"id": one.element, "html": row(one)} for one in changes if _is_chosen(one, chosen)]
            yield _message(live, f"{live.epoch}-{version}", rows)
            try:
                await asyncio.wait_for(news.wait(), STATUS_S)
            except TimeoutError:
                continue


def _message(live: Live, place: str, rows: list[dict[str, Any]]) -> str:
    opened, waiting = live.counts()
    told = {"rows": rows, "open": opened, "waiting": waiting, "trouble": live.trouble}
    return f"id: {place}\ndata: {json.dumps({**told, 'read': words.iso(live.read_ms)})}\n\n"


def _is_chosen(change: Change, chosen: Mapping[str, str]) -> bool:
    """Whether a page with this choice has the row."""
    parts = [str(part) for part in change.name[1]]
    wanted = (chosen.get("symbol"), chosen.get("strategy"), chosen.get("exchange"))
    return all(not want or want == part for want, part in zip(wanted, parts, strict=False))
