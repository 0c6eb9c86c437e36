"""`bkm audit anchor|prove|consistency`: what shows to others, and later, that the log was not rewritten."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from backtest_kit_mongo.audit.anchors import TreeAnchor, make_anchor, read_anchors
from backtest_kit_mongo.audit.findings import Finding
from backtest_kit_mongo.audit.log import AuditLog
from backtest_kit_mongo.audit.proofs import prove_consistency, prove_inclusion
from backtest_kit_mongo.audit.signing import private_key, public_key, signed, unsigned
from backtest_kit_mongo.errors import CallerError, EnvironmentFault, NotFound
from backtest_kit_mongo.terminal import echo, escape

from .audit_opening import ExitCode, KeyText, open_audit_log

__all__ = ["anchor", "consistency", "kept_anchors", "prove"]

COMMAND_BOUND_S: Final = 60


class AnchorNotKept(EnvironmentFault):
    """The anchor was made but could not be handed over. It may or may not have arrived."""


def kept_anchors(path: Path | None, key: Path | None) -> tuple[list[TreeAnchor], list[Finding]]:
    """The anchors of a file, and which of them the key did not sign."""
    if path is None and key is not None:
        raise CallerError("--public-key needs --anchors FILE")
    anchors = [] if path is None else read_anchors(path)
    return anchors, [] if key is None else unsigned(anchors, public_key(key))


def anchor(
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append it here; the anchors that are there are checked first.")
    ] = None,
    command: Annotated[
        str | None, typer.Option(metavar="CMD", help="Run this, with the line on its standard input.")
    ] = None,
    sign: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Sign it with this Ed25519 key; needs the extra `sign`.")
    ] = None,
) -> None:
    """Say in one line what the whole log is now, to be kept where the database's users cannot change it.

    The line is printed, and appended or handed over. It is made even if earlier anchors in FILE do not fit the log:
    then they are reported, and the exit status is 4. One file for one database. What it protects from: docs/audit.md.

    [bold]Examples[/]

    [cyan]bkm audit anchor --to /mnt/other/anchors.jsonl[/]

    [cyan]bkm audit anchor --command 'ssh safe "cat >> anchors.jsonl"' --sign key.pem[/]
    """
    with open_audit_log() as log:
        key = None if sign is None else private_key(sign)
        known = read_anchors(to) if to is not None and to.exists() and to.stat().st_size else []
        made, findings = make_anchor(log.database, known)
        if key is not None:
            made = signed(made, key)
        echo(made.line())
        if to is not None:
            _append(to, made.line())
        if command is not None:
            _hand_over(command, made.line())
    for found in findings:
        Console(stderr=True).print(f"{found.kind.value}: {escape(f'{found.where}: {found.detail}')}", soft_wrap=True)
    if findings:
        raise typer.Exit(ExitCode.TAMPERED)


def _append(path: Path, line: str) -> None:
    """One write, on the disk before it returns; a line cut off by a crash is closed first."""
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        cut = False
        if end:
            file.seek(end - 1)
            cut = file.read(1) != b"\n"
        file.write(b"\n" * cut + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _hand_over(command: str, line: str) -> None:
    try:
        words = shlex.split(command)
        done = subprocess.run(words, input=line + "\n", text=True, timeout=COMMAND_BOUND_S, capture_output=True)
    except (ValueError, IndexError, OSError, subprocess.TimeoutExpired) as cause:
        raise AnchorNotKept(f"--command: {cause}; the anchor may not have been kept, run it again") from cause
    if done.returncode:
        said = done.stderr.strip()[-500:]
        raise AnchorNotKept(f"--command ended with status {done.returncode}: {said}; the anchor may not have been kept")


def prove(
    key: KeyText,
    rev: Annotated[str, typer.Argument(metavar="REV", help="The revision; a foreign change is written rev~n.")],
    anchor: Annotated[int, typer.Option(metavar="N", min=1, help="The anchor: its field `seal`.")],
    document: Annotated[
        str | None, typer.Option(metavar="ID", help="Which, if the key was deleted and made again.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the record itself here, as BSON bytes.")
    ] = None,
) -> None:
    """Prove that a record is under an anchor, to someone who has the anchor and no database.

    Prints the proof, about 2 KB. It is checked offline by docs/check_proof.py.

    [bold]Example[/]

    [cyan]bkm audit prove state/b7c1/levels 3 --anchor 1234 --record levels.bson > levels.proof[/]
    """
    with open_audit_log() as log:
        proof, stored = prove_inclusion(log, _record_id(log, key, rev, document), anchor)
        if record is not None:
            record.write_bytes(stored)
    _print(proof)


def consistency(
    older: Annotated[int, typer.Argument(metavar="OLDER", help="The field `seal` of an anchor.")],
    newer: Annotated[int, typer.Argument(metavar="NEWER", help="The same of a later anchor.")],
) -> None:
    """Prove that between two anchors the log only grew, to someone who has both and no database.

    [bold]Example[/]

    [cyan]bkm audit consistency 1234 5678 > growth.proof[/]
    """
    with open_audit_log() as log:
        proof = prove_consistency(log.database, older, newer)
    _print(proof)


def _print(proof: dict[str, Any]) -> None:
    echo(json.dumps(proof, separators=(",", ":"), ensure_ascii=False))


def _record_id(log: AuditLog, key: str, rev: str, document: str | None) -> str:
    fits = [
        found
        for found in log.timeline(key)
        if found.id.rpartition("/")[2] == rev and document in (None, found.document_id)
    ]
    if not fits:
        raise NotFound(f"the audit log has no revision {rev} of {key}; `bkm audit show` lists what it has")
    if len(fits) > 1:
        names = ", ".join(found.document_id for found in fits[:10])
        raise CallerError(f"{len(fits)} documents of {key} have a revision {rev}; choose with --document: {names}")
    return fits[0].id
