"""Asking Sentinels where the primary is."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import redis
from redis.sentinel import Sentinel


def client_of_primary(
    addresses: Sequence[tuple[str, int]],
    service: str,
    sentinel_options: Mapping[str, Any],
    options: Mapping[str, Any],
) -> redis.Redis:
    """A client whose new connections go to the primary of `service`.

    Args:
        addresses: host and port of each Sentinel.
        sentinel_options, options: the library's, for connections to a Sentinel and to the primary.
    """
    untyped: Any = _Sentinels
    client: redis.Redis = untyped(addresses, sentinel_kwargs=sentinel_options, **options).master_for(service)
    return client


class _Sentinels(Sentinel):
    """The library's Sentinel client, safe for threads.

    It moves the server that answered to the front of its list, in place: two threads that do so at once can put one
    server there twice and lose another, until nobody is left to ask.
    """

    def discover_master(self, service_name: str) -> Any:
        """Host and port of the primary, asked anew.

        Raises:
            redis.ConnectionError: no Sentinel answers, or none knows a primary that is up.
        """
        asking = copy.copy(self)
        asking.sentinels = list(self.sentinels)
        found = super(_Sentinels, asking).discover_master(service_name)  # type: ignore[no-untyped-call]
        self.sentinels = asking.sentinels
        return found
