"""`bkm backup` and `bkm restore`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from backtest_kit_mongo.backends.redis.cluster import link_over
from backtest_kit_mongo.caches import identity_document, identity_of
from backtest_kit_mongo.errors import InvalidSetting, NotFound
from backtest_kit_mongo.operate.backup.archive import CHANGES, Backup, Draft, Manifest, open_backup
from backtest_kit_mongo.operate.backup.dumping import Dump
from backtest_kit_mongo.operate.backup.files import dump_files, load_files, require_room
from backtest_kit_mongo.operate.backup.loading import Load
from backtest_kit_mongo.operate.segments import AUDIT
from backtest_kit_mongo.servers import Servers
from backtest_kit_mongo.settings import Settings, load
from backtest_kit_mongo.terminal import echo

from .bars import bar
from .opening import opened, told
from .places import At, is_directory

__all__ = ["backup", "restore"]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def backup(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Absent or empty: one for each backup.")],
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Copy everything that a database, or a directory of files, holds into DIR, as it is at one moment. Strategies and
    workers go on.

    All collections of the database are in it, the audit log with its seals, candles and your own collections; not what
    belongs to running processes (leases, places in MongoDB's log) and nothing of Redis, of which nothing is needed. DIR
    gets a manifest with the SHA-256 of each file. What an interrupted backup left in DIR is replaced.

    [bold]Examples[/]

    [cyan]bkm backup /backups/$(date +%F)[/]

    [cyan]bkm backup /backups/files --at ./dump[/]

    Exit status: 0; 1 when a server or disk failed (run it again), 2 when DIR is not empty or an argument is wrong.
    """
    if at is not None and is_directory(at):
        with told():
            root = Path(at)
            if not root.is_dir():
                raise NotFound(f"There is no directory {root.absolute()}.")
            draft = _draft(directory)
            with _bars() as step:
                manifest = dump_files(root, draft, lambda count, total: step("files", count, total))
    else:
        with _servers(at) as servers:
            draft = _draft(directory)
            with _bars() as step:
                manifest = Dump(servers.database, step).into(draft)
    _report(manifest, directory, "is in", as_json=as_json)


def restore(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What `bkm backup` has made.")],
    at: At = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="The database, or directory, holds something: the backup replaces it.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the backup and say what is in it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a backup in force. Stop the strategies first; workers go on, and Redis need not be flushed.

    Each file is compared with its checksum before anything is changed. A database is loaded beside the one in force and
    then put in its place in about a second; from then on nothing is served that any Redis holds of before, the feed
    informs of nothing that is gone, a worker records the restore in the audit log and compares all documents, and
    replicas follow. If it is interrupted, run it again.

    [bold]Examples[/]

    [cyan]bkm restore /backups/2026-11-30 --dry-run[/]

    [cyan]bkm restore /backups/2026-11-30[/]                    into the empty database of the CC_ variables

    [cyan]bkm restore /backups/2026-11-30 --replace[/]          what is there goes

    [cyan]bkm restore /backups/files --at ./dump[/]

    Exit status: 0; 1 when the backup is damaged, or a server or disk failed (run it again); 2 when there is something
    and --replace is not given, or an argument is wrong.
    """
    with told():
        found = open_backup(directory)
        if found.manifest.kind == AUDIT:
            raise InvalidSetting(f"{directory} is a segment of the audit log, not a backup. Nothing was restored.")
        if dry_run:
            _check(found)
    if dry_run:
        _report(found.manifest, directory, "is whole in", as_json=as_json)
        return
    if at is not None and is_directory(at):
        with told():
            require_room(found, Path(at), replace=replace)
            _check(found)
            with _bars() as step:
                load_files(found, Path(at), replace=replace, on_files=lambda count, total: step("files", count, total))
        where = at
    else:
        with _servers(at) as servers:
            _load(found, servers, replace=replace)
            where = servers.settings.database
    _report(found.manifest, directory, f"was put in force at {where}, from", as_json=as_json)


def _load(found: Backup, servers: Servers, *, replace: bool) -> None:
    settings = servers.settings
    document = identity_document(settings, lambda: servers.mongo)
    identity = identity_of(settings, lambda: servers.mongo, link_over(servers.redis))
    with _bars() as step:
        plan = Load(found, servers.database, identity, document, servers.redis, replace, step)
        plan.require_room()
        _check(found)
        plan.run()


@contextmanager
def _servers(at: str | None) -> Iterator[Servers]:
    def make(settings: Settings) -> Servers:
        if at is not None:
            named = load(mongo_connection_string=at).mongo_connection_string
            settings = settings.model_copy(update={"mongo_connection_string": named})
        return Servers(settings, "backtest-kit-mongo backup")

    with opened(make) as servers:
        yield servers


def _draft(directory: Path) -> Draft:
    draft = Draft(directory)
    if draft.has_replaced_unfinished:
        echo(f"{directory}: what an interrupted backup left there was removed", err=True)
    return draft


def _check(found: Backup) -> None:
    with bar(Console(stderr=True), "checking", found.manifest.size_bytes) as (progress, task):
        found.check(lambda count: progress.advance(task, count))


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], object]]:
    """One bar after the other, by name."""
    with bar(Console(stderr=True), "", None) as (progress, task):
        yield _Stepper(progress, task)


class _Stepper:
    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress, self._task, self._name, self._done = progress, task, "", 0

    def __call__(self, name: str, count: int, total: int) -> None:
        if name != self._name:
            self._name, self._done = name, 0
        self._done += count
        self._progress.update(self._task, description=name, completed=self._done, total=total)


def _report(manifest: Manifest, directory: Path, became: str, *, as_json: bool) -> None:
    held = {part.name: part.documents for part in manifest.parts if part.name != CHANGES}
    if as_json:
        about = {
            "name": manifest.name, "kind": manifest.kind, "source": manifest.source,
            "takenAt": manifest.taken_at.isoformat(), "bytes": manifest.size_bytes, "documents": held,
        }  # fmt: skip
        echo(json.dumps(about))
        return
    what = "files" if manifest.kind == "files" else f"documents of {len(held)} collections"
    echo(
        f"{manifest.source} as of {manifest.taken_at:%Y-%m-%d %H:%M:%S} UTC ({manifest.documents:,} {what}, "
        f"{manifest.size_bytes / 1e6:,.1f} MB) {became} {directory}"
    )
