"""A directory of the file backend into a backup, while it is in use, and back.

Files are replaced, never changed, so each of them is whole whenever it is copied. That all of them are of one moment is
known by looking twice: if nothing is another file than it was when the copy began, the copy is what the directory was
between the two. Only what has changed meanwhile is copied again.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from backtest_kit_mongo.backends.files.disk import make_directory, sync_directory
from backtest_kit_mongo.backends.files.names import TEMPORARY
from backtest_kit_mongo.errors import CorruptData, InvalidSetting, ReadFailed

from .archive import Backup, Draft, Manifest

__all__ = ["dump_files", "load_files"]

FILES: Final = "files"
PASSES_MAX: Final = 50
STAGED: Final = ".bkm-restore"
REPLACED: Final = ".bkm-replaced"
LIST: Final = ".bkm-files"


class _Seen(NamedTuple):
    inode: int
    size: int
    mtime_ns: int


def dump_files(root: Path, draft: Draft, on_files: Callable[[int, int], object] = lambda done, total: None) -> Manifest:
    """Fill a draft with what is below a directory.

    Args:
        on_files: told of the files copied and how many there are.

    Raises:
        InvalidSetting: the backup would be inside of what it is of.
        ReadFailed: files change faster than they can be copied. No backup was made.
        OSError: a disk failed. What was written is an unfinished backup.
    """
    if draft.directory.resolve().is_relative_to(root.resolve()):
        raise InvalidSetting(f"{draft.directory.absolute()} is below {root.absolute()}: give a directory elsewhere")
    copied: dict[str, _Seen] = {}
    with draft.part(FILES, ".tar.gz") as sink, tarfile.open(fileobj=cast("Any", sink.file), mode="w|") as archive:
        for _ in range(PASSES_MAX):
            taken_at, seen = datetime.now(UTC), dict(_seen(root))
            for path, state in seen.items():
                if copied.get(path) != state:
                    with suppress(FileNotFoundError):  # Then the next look shows that it is gone.
                        _add(archive, root, path)
                        copied[path] = state
                    on_files(1, len(seen))
            if dict(_seen(root)) == seen:
                break
            time.sleep(0.01)
        else:
            raise ReadFailed(f"files below {root} change faster than they are copied. No backup was made: run it again")
        # The last member is the list: a file that was removed meanwhile is in the archive, and not in the backup.
        _add_list(archive, draft.directory, sorted(seen))
        sink.documents = len(seen)
    return draft.finish("files", str(root.absolute()), taken_at)


def _add(archive: tarfile.TarFile, root: Path, path: str) -> None:
    with open(root / path, "rb") as file:
        archive.addfile(archive.gettarinfo(arcname=path, fileobj=file), file)


def _add_list(archive: tarfile.TarFile, scratch: Path, paths: list[str]) -> None:
    held = scratch / LIST
    held.write_bytes("\0".join(paths).encode("utf-8", "surrogateescape"))
    archive.add(held, LIST)
    held.unlink()


def _seen(root: Path) -> Iterator[tuple[str, _Seen]]:
    """Each file below, and what tells it from another of its name."""
    for directory, _, names in os.walk(root):
        for name in names:
            if name.startswith(TEMPORARY) or name == LIST:
                continue
            path = os.path.join(directory, name)
            with suppress(FileNotFoundError):
                stat = os.lstat(path)
                yield os.path.relpath(path, root), _Seen(stat.st_ino, stat.st_size, stat.st_mtime_ns)


def load_files(
    backup: Backup,
    root: Path,
    *,
    replace: bool,
    on_files: Callable[[int, int], object] = lambda done, total: None,
) -> None:
    """Put a backup in the place of a directory: all of it or nothing. Stop whoever writes there first.

    Raises:
        InvalidSetting: the directory holds files and `replace` is not given, or the backup is none of files. Nothing
            was restored.
        CorruptData: the backup cannot be read. Nothing was restored.
        OSError: a disk failed; run it again.
    """
    require_room(backup, root, replace=replace)
    root = root.absolute()
    staged, replaced = root.with_name(root.name + STAGED), root.with_name(root.name + REPLACED)
    if replaced.exists() and not root.exists():
        replaced.rename(root)  # Whoever was interrupted between two names.
    for leftover in (staged, replaced):
        if leftover.exists():
            shutil.rmtree(leftover)
    make_directory(str(staged))
    _extract(backup, staged, on_files)
    if root.exists():
        root.rename(replaced)
    staged.rename(root)
    sync_directory(str(root.parent))
    if replaced.exists():
        shutil.rmtree(replaced)


def require_room(backup: Backup, root: Path, *, replace: bool) -> None:
    """
    Raises:
        InvalidSetting: see `load_files`.
    """
    if backup.manifest.kind != "files":
        raise InvalidSetting("this is a backup of a database: leave --at out, or give mongodb://host/database")
    if not replace and root.exists() and any(root.iterdir()):
        raise InvalidSetting(
            f"{root.absolute()} holds files. Nothing was restored: --replace puts the backup in their place. Make a "
            "backup of them first."
        )


def _extract(backup: Backup, staged: Path, on_files: Callable[[int, int], object]) -> None:
    part = backup.manifest.part(FILES)
    if part is None:
        raise CorruptData(f"{backup.directory} has no files. Nothing was restored.")
    try:
        with backup.reading(part) as file, tarfile.open(fileobj=cast("Any", file), mode="r|") as archive:
            for member in archive:
                archive.extract(member, staged, filter="data")
                on_files(1, part.documents)
    except tarfile.TarError as cause:
        raise CorruptData(f"{backup.directory / part.file} cannot be read: {cause}. Nothing was restored.") from cause
    listed = (staged / LIST).read_bytes().decode("utf-8", "surrogateescape")
    (staged / LIST).unlink()
    wanted = set(listed.split("\0")) if listed else set()
    for path in [path for path, _ in _seen(staged) if path not in wanted]:
        (staged / path).unlink()
    for directory, names, files in os.walk(staged):
        for name in (*names, *files):
            descriptor = os.open(os.path.join(directory, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
