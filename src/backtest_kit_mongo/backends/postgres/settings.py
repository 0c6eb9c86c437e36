"""PostgreSQL's section of the settings. Only `PostgresPersist` asks for it."""

from __future__ import annotations

from pydantic import Field, SecretStr

from backtest_kit_mongo.backends.settings import Section


class PostgresSettings(Section):
    """Where PostgreSQL is and how long it is waited for."""

    postgres_connection_string: SecretStr = Field(
        SecretStr(""),
        description="PostgreSQL, for `PostgresPersist`: "
        "postgresql://user:password@host:5432/database?sslmode=verify-full, "
        "several hosts separated by commas: the one that takes writes is used. Empty: what libpq's own variables "
        "(PGHOST, PGSERVICE, ..) say.",
    )
    postgres_timeout_ms: int = Field(
        10_000,
        ge=100,
        description="Bound on connecting to PostgreSQL, on waiting for a free connection and on each statement.",
    )
    postgres_connections_max: int = Field(
        8, ge=1, le=1_000, description="Connections to PostgreSQL that a process opens at most."
    )
