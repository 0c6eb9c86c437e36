"""What every role and service of one worker process works with: the settings, and one client for each server."""

from __future__ import annotations

import os
import secrets
import socket

from backtest_kit_mongo.servers import Servers
from backtest_kit_mongo.settings import Settings


class Deployment(Servers):
    """Clients are thread-safe and shared.

    Attributes:
        consumer: this process's name in consumer groups and leases; no other process, past or present, has it.
    """

    def __init__(self, settings: Settings, *, block_ms: int = 0) -> None:
        super().__init__(settings, "backtest-kit-worker", block_ms=block_ms)
        # Containers share process ids, and with the host's network its name too.
        self.consumer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def connect(settings: Settings, *, block_ms: int = 0) -> Deployment:
    """Both servers; their clients connect on first use.

    Args:
        block_ms: how long a blocking read of the feed may take beyond `redis_timeout_ms`.
    """
    return Deployment(settings, block_ms=block_ms)
