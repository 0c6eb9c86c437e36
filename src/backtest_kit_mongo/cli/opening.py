"""The one way from the CC_ variables to what a command works with; whatever goes wrong is a message and an exit
status.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import redis
import typer
from pymongo.errors import PyMongoError
from rich.console import Console

from backtest_kit_mongo.errors import BacktestKitError, CallerError, NotFound
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.feed.opened import FeedServers, open_servers
from backtest_kit_mongo.settings import Settings, load
from backtest_kit_mongo.setup import resolve
from backtest_kit_mongo.terminal import escape

__all__ = ["connected", "opened", "told"]

T = TypeVar("T")


@contextmanager
def opened(make: Callable[[Settings], AbstractContextManager[T]]) -> Iterator[T]:
    """What a command works with, made from the settings in force and closed after it."""
    where: list[str] = []
    with told(where):
        settings = resolve(load())
        where.append(f"Redis at {settings.redis_address}")
        with make(settings) as made:
            yield made


@contextmanager
def told(where: Sequence[str] = ()) -> Iterator[None]:
    """What goes wrong inside becomes a message and an exit status. `where`: which Redis is asked, once it is known."""
    try:
        yield
    except BrokenPipeError:
        raise  # Nobody reads on, which is no fault.
    except (BacktestKitError, redis.RedisError, PyMongoError, OSError) as error:
        # MongoDB's errors and our own say where; those of Redis' client may not.
        said = f"{''.join(where)}: {error}" if isinstance(error, redis.RedisError) else str(error)
        Console(stderr=True).print(f"[red]Error:[/] {escape(said)}", soft_wrap=True)
        is_wrong = isinstance(error, CallerError) and not isinstance(error, NotFound)
        raise typer.Exit(ExitCode.WRONG_ARGUMENT if is_wrong else ExitCode.FAILED) from error


def connected() -> AbstractContextManager[FeedServers]:
    """Both servers; they connect on first use."""
    return opened(open_servers)
