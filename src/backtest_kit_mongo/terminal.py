"""What commands say, on any terminal, pipe or file: the one place that knows what those cannot take.

Names, symbols and messages come from databases that others write too. Their control characters are made visible before
they reach a terminal, which would act on them. What an encoding lacks is written as an escape, and a reader that has
seen enough (`| head`) ends the program quietly.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any, Final

from rich.markup import escape as _escape_markup

from backtest_kit_mongo.coherence.showing import visible
from backtest_kit_mongo.exits import ExitCode

__all__ = ["echo", "escape", "run"]


_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def escape(text: str) -> str:
    """A text from outside for a `rich` console: no markup, no control characters."""
    return _escape_markup(visible(text))


def echo(text: str, *, err: bool = False) -> None:
    """A line to standard output, or to standard error; what may come from outside in it cannot act on a terminal."""
    # Flushed, as whoever reads a pipe expects of a line. Not by typer, which writes UTF-8 where the stream says ASCII.
    print(visible(text), file=sys.stderr if err else sys.stdout, flush=True)


def run(app: Callable[[], Any]) -> None:
    """Run a program of commands with standard streams that take every text."""
    _prepare()
    try:
        app()
    except BrokenPipeError:
        _forget_output()
        raise SystemExit(ExitCode.PIPE_CLOSED) from None
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        _forget_output()
        echo(f"Error: what was to be said could not be written: {error}", err=True)
        raise SystemExit(ExitCode.FAILED) from None
    finally:
        _flush()


def _prepare() -> None:
    """Standard streams that neither lack (a closed one is None) nor fail on a character that their encoding lacks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the program
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _flush() -> None:
    """What is left goes out here, where a closed pipe can be caught; at the interpreter's end it could not."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EINVAL):
                raise
            _forget_output()


def _forget_output() -> None:
    """Nobody reads standard output: what is still buffered goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
