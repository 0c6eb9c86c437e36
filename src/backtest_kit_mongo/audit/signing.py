"""Signatures of anchors, Ed25519, with `cryptography` (extra `sign`). Keys are PEM files, as
`openssl genpkey -algorithm ed25519` makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from backtest_kit_mongo.audit.anchors import TreeAnchor
from backtest_kit_mongo.audit.findings import Finding, Kind
from backtest_kit_mongo.errors import EnvironmentFault, InvalidSetting


class SigningMissing(EnvironmentFault, ImportError):
    """Signatures need cryptography, which is not installed. Nothing was written."""


def private_key(pem: Path) -> Any:
    """An Ed25519 key that signs.

    Raises:
        SigningMissing, OSError.
        InvalidSetting: the file holds no such key, or asks for a password.
    """
    return _key(pem, lambda module, data: module.load_pem_private_key(data, password=None), "Ed25519PrivateKey")


def public_key(pem: Path) -> Any:
    """An Ed25519 key that checks. Raises as `private_key`."""
    return _key(pem, lambda module, data: module.load_pem_public_key(data), "Ed25519PublicKey")


def _key(pem: Path, load: Any, kind: str) -> Any:
    try:
        serialization = import_module("cryptography.hazmat.primitives.serialization")
        ed25519 = import_module("cryptography.hazmat.primitives.asymmetric.ed25519")
    except ImportError as cause:
        raise SigningMissing(
            "signatures need cryptography, nothing was written: pip install 'backtest-kit-mongo[sign]'"
        ) from cause
    try:
        key = load(serialization, pem.read_bytes())
    except (ValueError, TypeError) as cause:
        key = cause
    if not isinstance(key, getattr(ed25519, kind)):
        # Never the cause: what a parser says of a key may hold some of it.
        raise InvalidSetting(f"{pem} is not an {kind} in PEM without a password; nothing was written")
    return key


def signed(anchor: TreeAnchor, key: Any) -> TreeAnchor:
    """The anchor with a signature."""
    return replace(anchor, signature=key.sign(anchor.signed()).hex())


def unsigned(anchors: Sequence[TreeAnchor], key: Any) -> list[Finding]:
    """The anchors that the owner of the key did not sign as they are."""
    invalid: Any = import_module("cryptography.exceptions").InvalidSignature
    findings = []
    for anchor in anchors:
        try:
            key.verify(bytes.fromhex(anchor.signature), anchor.signed())
        except (invalid, ValueError):
            said = "its signature is not of this key" if anchor.signature else "it is not signed"
            findings.append(Finding(Kind.ANCHOR_DIFFERS, f"anchor of {anchor.time}", said))
    return findings
