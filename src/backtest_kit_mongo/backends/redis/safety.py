"""Whether a Redis may be trusted with leases and events."""

from __future__ import annotations


def unsafe_reason(memory_info: bytes) -> str:
    """Why a server must not be used, from its INFO MEMORY, with the remedy; empty if it may."""
    fields = dict(line.split(":", 1) for line in memory_info.decode().splitlines() if ":" in line)
    policy = fields.get("maxmemory_policy", "")
    if not policy.startswith("allkeys") or fields.get("maxmemory") == "0":
        return ""
    return (
        f"Redis has maxmemory-policy {policy}: it may evict leases and change events, which must never happen. Set it "
        "to noeviction or a volatile-* policy (CONFIG SET maxmemory-policy volatile-lru); entries carry a TTL for that."
    )
