"""`bkm audit anchor|prove|consistency`: what shows to others, and later, that the log was not rewritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from backtest_kit_mongo.audit.anchors import TreeAnchor, make_anchor, read_anchors
from backtest_kit_mongo.audit.findings import Finding
from backtest_kit_mongo.audit.log import AuditLog
from backtest_kit_mongo.audit.proofs import prove_consistency, prove_inclusion
from backtest_kit_mongo.audit.signing import private_key, public_key, signed, unsigned
from backtest_kit_mongo.audit.targets import COLLECTION, AnchorCommand, AnchorDatabase, AnchorFile, Target
from backtest_kit_mongo.errors import CallerError, InvalidSetting, NotFound
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.settings import load
from backtest_kit_mongo.terminal import echo, escape

from .audit_opening import KeyText, open_audit_log

__all__ = ["anchor", "consistency", "kept_anchors", "prove"]


def kept_anchors(where: str | None, key: Path | None) -> tuple[list[TreeAnchor], list[Finding]]:
    """The anchors of a file or of another database, and which of them the key did not sign."""
    if where is None and key is not None:
        raise CallerError("--public-key needs --anchors")
    if where is None:
        return [], []
    if where.startswith(("mongodb://", "mongodb+srv://")):
        target = _other_database(where)
        anchors = target.known()
        if not anchors:
            raise InvalidSetting(f"{target.name} holds no anchor; `bkm audit anchor --database URI` adds one")
    else:
        anchors = read_anchors(Path(where))
    return anchors, [] if key is None else unsigned(anchors, public_key(key))


def _other_database(uri: str) -> AnchorDatabase:
    settings = load()
    return AnchorDatabase(uri, (settings.mongo_address, settings.database))


def anchor(
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append it here; the anchors that are there are checked first.")
    ] = None,
    database: Annotated[
        str | None, typer.Option(metavar="URI", help=f"Insert it into `{COLLECTION}` of another database, the same.")
    ] = None,
    command: Annotated[
        str | None, typer.Option(metavar="CMD", help="Run this, with the line on its standard input.")
    ] = None,
    sign: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Sign it with this Ed25519 key; needs the extra `sign`.")
    ] = None,
) -> None:
    """Say in one line what the whole log is now, to be kept where the database's users cannot change it.

    The line is printed, and appended or handed over. It is made even if earlier anchors there do not fit the log: then
    they are reported, and the exit status is 4. One file for one database. The worker does it by itself with
    CC_ANCHOR_FILE and others. What this host has read before is not read again, it is remembered as it was;
    `bkm audit verify` reads everything. What it protects from: docs/audit.md.

    [bold]Examples[/]

    [cyan]bkm audit anchor --to /mnt/other/anchors.jsonl[/]

    [cyan]bkm audit anchor --command 'ssh safe "cat >> anchors.jsonl"' --sign key.pem[/]
    """
    with open_audit_log() as log:
        key = None if sign is None else private_key(sign)
        targets: list[Target] = [] if to is None else [AnchorFile(to)]
        targets += [] if database is None else [_other_database(database)]
        targets += [] if command is None else [AnchorCommand(command)]
        made, findings = make_anchor(log.database, [each for target in targets for each in target.known()])
        if key is not None:
            made = signed(made, key)
        echo(made.line())
        for target in targets:
            target.keep(made)
    for found in findings:
        Console(stderr=True).print(f"{found.kind.value}: {escape(f'{found.where}: {found.detail}')}", soft_wrap=True)
    if findings:
        raise typer.Exit(ExitCode.DIFFERS)


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
