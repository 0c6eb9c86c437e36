"""A TCP connection that can be cut and heals late, as a network does: what was sent is held meanwhile and delivered
afterwards, also if the sender has closed its socket or died long ago.
"""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self

__all__ = ["Wire"]

CHUNK_BYTES = 65_536
HELD_BYTES_MAX = 1 << 30
"""Of one connection: the sender must believe that everything was sent."""


class Wire:
    """Listens on a port of an address and passes everything on to another. Thread-safe; lives until `close`.

    Attributes:
        port: where it listens.
    """

    def __init__(self, host: str, port: int, listens_on: str = "127.0.0.1") -> None:
        self._target, self._listens_on = (host, port), listens_on
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self._thread.start()
        self._tasks: set[asyncio.Task[None]] = set()
        self._unwanted = b""
        self.port: int = self._run(self._listen())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> int:
        self._is_whole = asyncio.Event()
        self._is_whole.set()
        self._server = await asyncio.start_server(self._connected, self._listens_on, 0, limit=HELD_BYTES_MAX)
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Hold everything, new connections too. When it returns nothing passes any more."""
        self._run(self._set(False))

    def heal(self) -> None:
        """Deliver what was held."""
        self._run(self._set(True))

    def lose_answer(self, part: bytes) -> None:
        """Close both ends instead of passing on the next answer that contains these bytes."""
        self._unwanted = part

    async def _set(self, is_whole: bool) -> None:
        if is_whole:
            self._is_whole.set()
        else:
            self._is_whole.clear()

    def close(self) -> None:
        """Everything is cut for good."""

        async def end() -> None:
            self._server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._is_whole.wait()
            there, back = await asyncio.open_connection(*self._target, limit=HELD_BYTES_MAX)
            try:
                await asyncio.gather(self._pass(reader, back), self._pass(there, writer, is_answer=True))
            finally:
                back.close()
        except (OSError, asyncio.CancelledError):
            return  # Nobody is there, or this is the end: the sender sees its connection close.
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool = False
    ) -> None:
        """Until the sender has closed and the receiver was given everything."""
        while True:
            try:
                data = await reader.read(CHUNK_BYTES)
            except OSError:
                data = b""  # Reset; what it had sent was read before.
            await self._is_whole.wait()
            if is_answer and self._unwanted and self._unwanted in data:
                self._unwanted = b""
                raise ConnectionResetError
            try:
                if not data:
                    writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()
            except OSError:
                # The receiver is gone. A sender that still waits must learn it, one that is gone must be read to its
                # end.
                writer.close()
                if not data:
                    return
