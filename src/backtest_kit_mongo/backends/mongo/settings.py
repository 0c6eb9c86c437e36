"""MongoDB's section of the settings."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from backtest_kit_mongo.backends.settings import Section

DEFAULT_DATABASE = "backtest-kit"
BOUND_MIN_MS = 20
SPARE_MIN_MS = 10
"""Of a lease, beyond the bound on its write: half of it is for a command on its way."""
_SRV = "mongodb+srv://"
_SRV_ONLY = ("srvmaxhosts=", "srvservicename=", "srvallowedhostssuffix=")


class MongoSettings(Section):
    """Where MongoDB is and how long it is waited for."""

    mongo_connection_string: SecretStr = Field(
        SecretStr(f"mongodb://localhost:27017/{DEFAULT_DATABASE}?wtimeoutMS=15000"),
        description="MongoDB; the path names the database. Write concern is majority with journal unless the string "
        "says otherwise. TLS is part of it: tls=true&tlsCAFile=/path/ca.pem, and "
        "tlsCertificateKeyFile=/path/client.pem if the server "
        "asks for a certificate. mongodb+srv needs nothing more: the DNS library comes with the driver.",
    )
    mongo_timeout_ms: int | None = Field(
        None,
        ge=BOUND_MIN_MS,
        description="Bound on each MongoDB operation, retries included; less than `lease_ms`. Default: two thirds of "
        "it. `wtimeoutMS` of the connection string bounds operations too. A command that is on its way for longer "
        "than half of what is left of the lease is refused by MongoDB.",
    )

    @field_validator("mongo_connection_string")
    @classmethod
    def _parsable(cls, value: SecretStr) -> SecretStr:
        _parsed(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _lease_outlives_mongo(self) -> Self:
        if self.lease_ms - self.mongo_bound_ms < SPARE_MIN_MS:
            # MongoDB must not commit after the lease has ended (I1, I5b, I7).
            raise ValueError(
                f"mongo_timeout_ms ({self.mongo_bound_ms}) must be less than lease_ms ({self.lease_ms}), by "
                f"{SPARE_MIN_MS} at least"
            )
        return self

    @property
    def mongo_bound_ms(self) -> int:
        """Bound on each MongoDB operation: the smaller one of `mongo_timeout_ms` and the string's `wtimeoutMS`, which
        the driver alone would not keep beside a timeout.
        """
        own = self.mongo_timeout_ms if self.mongo_timeout_ms is not None else self.lease_ms * 2 // 3
        return min(own, _parsed(self.mongo_connection_string.get_secret_value()).wtimeout_ms or own)

    @property
    def mongo_arrival_ms(self) -> float:
        """How long a command that writes may be on its way to MongoDB; what then remains of the lease is as much."""
        return (self.lease_ms - self.mongo_bound_ms) / 2

    @property
    def database(self) -> str:
        """The database that the connection string names."""
        return _parsed(self.mongo_connection_string.get_secret_value()).database or DEFAULT_DATABASE

    @property
    def mongo_address(self) -> str:
        """Hosts of MongoDB without user and password, for messages."""
        return _parsed(self.mongo_connection_string.get_secret_value()).address


class _Parsed(NamedTuple):
    """What a connection string says without asking DNS."""

    database: str | None
    address: str
    wtimeout_ms: int
    """0: it names none."""


@lru_cache(maxsize=8)
def _parsed(text: str) -> _Parsed:
    """Parse a connection string; `mongodb+srv` too, whose servers the driver asks DNS for when it connects.

    Raises:
        ValueError: what is wrong with it, without a part of it that may be secret.
    """
    is_srv = text.startswith(_SRV)
    head, mark, query = text.replace(_SRV, "mongodb://", 1).partition("?") if is_srv else text.partition("?")
    options = [pair for pair in re.split("[&;]", query) if not is_srv or not pair.lower().startswith(_SRV_ONLY)]
    try:
        found = parse_uri(head + mark + "&".join(options), validate=True, warn=False)
    except (PyMongoError, ValueError):
        # The parser's message may quote a part of the password.
        raise ValueError(_what_is_wrong(head, options)) from None
    except OSError as cause:
        raise ValueError(f"a file that it names cannot be read: {cause.filename}: {cause.strerror}") from None
    wtimeout_ms = next((int(value) for name, value in found["options"].items() if name.lower() == "wtimeoutms"), 0)
    if 0 < wtimeout_ms < BOUND_MIN_MS:
        raise ValueError(f"wtimeoutMS={wtimeout_ms}: no write can be kept below {BOUND_MIN_MS} ms")
    if not is_srv:
        address = ",".join(f"{host}:{port}" if port else host for host, port in found["nodelist"])
        return _Parsed(found["database"], address, wtimeout_ms)
    name = head.rpartition("@")[2].removeprefix("mongodb://").partition("/")[0]
    if ":" in name or "," in name or "." not in name:
        raise ValueError("mongodb+srv takes one name in DNS, with at least one dot, and no port")
    return _Parsed(found["database"], name, wtimeout_ms)


def _what_is_wrong(head: str, options: list[str]) -> str:
    for pair in options:
        try:
            parse_uri(f"mongodb://host/?{pair}", validate=True, warn=False)
        except (PyMongoError, ValueError):
            return (
                f"its option {pair.partition('=')[0]:.40} is unknown or has a value that MongoDB's driver does not take"
            )
    try:
        parse_uri(head, validate=True, warn=False)
    except (PyMongoError, ValueError):
        return (
            "not a MongoDB connection string: expected mongodb://user:password@host:port/database, with special "
            "characters of user and password percent-encoded"
        )
    return f"its options conflict with each other: {', '.join(pair.partition('=')[0] for pair in options)}"
