"""A strategy's file, and the `setup_config.py` before it, as modules."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import backtest_kit_mongo as bk
from backtest_kit import declare
from backtest_kit.errors import StrategyFileError, described

__all__ = ["connect", "load_strategy", "prepare_store", "run_config"]

CONFIG: Final = "setup_config.py"


def load_strategy(path: Path) -> None:
    """Run a strategy's file; what it declares is then in `declare`.

    Raises:
        StrategyFileError: it cannot be read, raises, or declares no strategy.
    """
    if not path.is_file():
        raise StrategyFileError(f"there is no strategy file {path}. Nothing was run.")
    _run(path, path.stem)
    if not declare.strategies.list():
        raise StrategyFileError(
            f"{path} declares no strategy. Write `@bt.strategy(interval='15m')` over a function of ctx. Nothing was "
            "run."
        )


def run_config(strategy: Path) -> Path | None:
    """Run `setup_config.py` if there is one (working directory, beside the strategy, config/). It chooses the adapters.

    Returns:
        The configuration that was run.

    Raises:
        StrategyFileError: the configuration raises.
    """
    config = next((place for place in _places(strategy) if place.is_file()), None)
    if config is not None:
        bk.set_modes(None)  # Whoever configures chooses the adapters, unless the file chooses modes.
        _run(config, "setup_config")
    return config


def connect(mode: str) -> None:
    """Without a configuration: connect what the environment names. A backtest without any keeps files below ./dump.

    Raises:
        bk.EnvironmentFault: servers cannot be reached.
    """
    if mode != "backtest" or os.environ.get("CC_MONGO_CONNECTION_STRING") or os.environ.get("CC_EMBEDDED"):
        bk.setup()


def prepare_store(strategy: Path, mode: str) -> None:
    """Run the configuration; without one, connect what the environment names. Raises as both."""
    if run_config(strategy) is None:
        connect(mode)


def _places(strategy: Path) -> Iterator[Path]:
    yield Path.cwd() / CONFIG
    yield strategy.resolve().parent / CONFIG
    yield Path.cwd() / "config" / CONFIG


def _run(path: Path, name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise StrategyFileError(f"{path} is no Python file. Nothing was run.")
    module = importlib.util.module_from_spec(spec)
    beside = str(path.resolve().parent)
    if beside not in sys.path:
        sys.path.insert(0, beside)  # Its neighbours can be imported, as with `python FILE`.
    sys.modules.setdefault(name, module)
    try:
        spec.loader.exec_module(module)
    except bk.BacktestKitError as cause:
        raise type(cause)(f"{path}, {_line(cause, path)}: {cause}") from cause
    except (Exception, SystemExit) as cause:
        raise StrategyFileError(f"{path}, {_line(cause, path)} raises {described(cause)}. Nothing was run.") from cause


def _line(error: BaseException, path: Path) -> str:
    """Where in the file; a syntax error has no frame there."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"line {error.lineno}"
    frames = [
        one for one in traceback.extract_tb(error.__traceback__) if Path(one.filename).resolve() == path.resolve()
    ]
    return f"line {frames[-1].lineno}" if frames else "on import"
