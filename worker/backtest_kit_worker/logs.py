"""Logs of the worker: a line of text or a JSON object a message, to standard error."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum

from backtest_kit_mongo.coherence.showing import visible

logger = logging.getLogger("backtest_kit_worker")


class LogFormat(StrEnum):
    """How a message is written."""

    TEXT = "text"
    JSON = "json"


class JsonFormatter(logging.Formatter):
    """One object per line: time (UTC), level, logger, thread, message, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        values = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "thread": record.threadName,
            "message": record.getMessage(),
        }
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return visible(json.dumps(values, ensure_ascii=False))


class TextFormatter(logging.Formatter):
    """One line a message, then the traceback if there is one; names from outside cannot act on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def start_logging(chosen: LogFormat) -> None:
    """Send the logs of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    text = TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if chosen is LogFormat.JSON else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
