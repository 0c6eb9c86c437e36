"""A browser without a network: requests straight to the application."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urlencode, urlsplit

from starlette.types import ASGIApp, Message

Headers = Mapping[str, str]


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def scope(method: str, address: str, headers: Headers) -> dict[str, Any]:
    parts, sent = urlsplit(address), {"host": "localhost", **headers}
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": unquote(parts.path), "raw_path": parts.path.encode(), "query_string": parts.query.encode(),
        "root_path": "", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
    }  # fmt: skip


def ask(app: ASGIApp, address: str, headers: Headers | None = None, form: Headers | None = None) -> Answer:
    """One request; with a form it is a POST."""
    sent: list[Message] = []
    messages: Iterator[Message] = iter([{"type": "http.request", "body": urlencode(form or {}).encode()}])

    async def receive() -> Message:
        for message in messages:
            return message
        await asyncio.Event().wait()  # The browser stays.
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(_served(app(scope("GET" if form is None else "POST", address, headers or {}), receive, send)))
    head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], head, b"".join(one.get("body", b"") for one in sent[1:]))


async def _served(answering: Awaitable[None]) -> None:
    async with asyncio.timeout(60):
        await answering


def stream(app: ASGIApp, address: str, then: Callable[[], object], until: str) -> str:
    """A stream's text up to a word; once it has begun, `then` is done."""
    found: list[str] = []

    async def listen() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def receive() -> Message:
            await ended.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            found.append(message.get("body", b"").decode())
            if found[-1].startswith("id:"):
                begun.set()
            if until in found[-1]:
                ended.set()

        serving = asyncio.ensure_future(_served(app(scope("GET", address, {}), receive, send)))
        await asyncio.wait_for(begun.wait(), 60)
        await asyncio.to_thread(then)
        await serving

    asyncio.run(listen())
    return "".join(found)


def close(app: ASGIApp) -> None:
    """What a server does at its end."""
    messages = iter(({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}))

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        assert "failed" not in message["type"]

    asyncio.run(_served(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)))
