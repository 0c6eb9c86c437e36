"""Checks proofs of the audit log offline, with Python's standard library alone and no code of the package.

    python check_proof.py ANCHORS PROOF [RECORD.bson]

ANCHORS: the file that `bkm audit anchor` wrote, as you kept it. PROOF: from `bkm audit prove` or
    `bkm audit consistency`.
RECORD.bson: the record; without it you learn that one with this digest was there. How it is hashed: audit.md.
Exit status: 0 proved, 4 not proved, 1 a file cannot be read.
"""

import base64
import json
import sys
from hashlib import sha256


def need(holds: bool, why: str) -> None:
    if not holds:  # Not `assert`, which `python -O` leaves out.
        raise ValueError(why)


def leaf(data: bytes) -> bytes:
    return sha256(b"\0" + data).digest()


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


def hashes(text: str) -> list[bytes]:
    joined = base64.b64decode(text, validate=True)
    need(len(joined) % 32 == 0, "a path is cut off")
    return [joined[at : at + 32] for at in range(0, len(joined), 32)]


def climb(at: int, last: int, path: list[bytes], *roots: bytes) -> tuple[bytes, ...]:
    """The roots over a node, the `at`th of its row, which ends at `last` (RFC 9162, 2.1.3.2 and 2.1.4.2).

    Given two, the first is the root of the older tree, which has nothing to the right.
    """
    need(0 <= at <= last, "the place is outside the tree")
    for each in path:
        need(last > 0, "the path is too long")
        if at % 2 or at == last:
            roots = tuple(node(each, root) for root in roots)
            while at % 2 == 0 and at > 0:
                at, last = at >> 1, last >> 1
        else:
            roots = (*roots[:-1], node(roots[-1], each))
        at, last = at >> 1, last >> 1
    need(last == 0, "the path is too short")
    return roots


def both_roots(older: int, newer: int, path: list[bytes], old_root: bytes) -> tuple[bytes, ...]:
    """The roots of a tree and of its beginning, as the path makes them."""
    need(0 < older <= newer, "the sizes are not those of an older and a newer tree")
    if older == newer:
        return (old_root,) * 2
    path = [old_root, *path] if older & (older - 1) == 0 else path  # A full tree is a node of the newer one.
    need(bool(path), "the path is too short")
    at, last = older - 1, newer - 1
    while at % 2:
        at, last = at >> 1, last >> 1
    return climb(at, last, path[1:], path[0], path[0])


def check(anchors: dict[int, dict], proof: dict, record: bytes | None) -> str:
    if proof["proof"] == "consistency":
        old, new = anchors[proof["older"]], anchors[proof["newer"]]
        roots = both_roots(old["seals"], new["seals"], hashes(proof["path"]), bytes.fromhex(old["root"]))
        need(
            roots == (bytes.fromhex(old["root"]), bytes.fromhex(new["root"])), "the newer anchor is not a growth of it"
        )
        return f"anchor {proof['newer']} holds all that anchor {proof['older']} held, unchanged"
    need(proof["proof"] == "inclusion", f"no such proof: {proof['proof']}")
    anchor, seal, digest = anchors[proof["anchor"]], proof["seal"], bytes.fromhex(proof["digest"])
    need(record is None or sha256(record).digest() == digest, "the record is another one")
    before = bytes.fromhex(proof["before"])
    in_seal = leaf(b"record" + before + sha256(before + digest).digest() + proof["record"].encode())
    (batch,) = climb(seal["index"], seal["count"] - 1, hashes(seal["path"]), in_seal)
    numbers = b"".join(seal[name].to_bytes(8, "big") for name in ("number", "count"))
    in_tree = leaf(b"seal" + numbers + bytes.fromhex(seal["hash"]) + batch)
    (root,) = climb(proof["index"], anchor["seals"] - 1, hashes(proof["path"]), in_tree)
    need(root.hex() == anchor["root"], "it does not lead to the root of the anchor")
    return f"{proof['record']} was in the log at {anchor['time']}{'' if record else ' (its content was not checked)'}"


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as lines, open(sys.argv[2], encoding="utf-8") as text:
        kept, given = {(one := json.loads(line))["seal"]: one for line in lines if line.strip()}, json.load(text)
    stored = open(sys.argv[3], "rb").read() if len(sys.argv) > 3 else None  # noqa: SIM115
    try:
        print("proved:", check(kept, given, stored))
    except (KeyError, ValueError, TypeError, OverflowError) as cause:
        print("NOT PROVED:", repr(cause))
        sys.exit(4)
