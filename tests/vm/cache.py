# SPDX-License-Identifier: Apache-2.0
"""Where the lab keeps what it builds. An entry is there whole or not at all.

An entry is a directory named NAME-HASH, the hash being that of its recipe, so a changed recipe
is a new entry. It is built under another name and renamed when it is finished, under a lock
that two builders of one name share."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.vm.progress import as_root

KEEP_UNUSED_SECONDS = 24 * 3600
"""Superseded entries stay this long after their last use: a guest may still run from one."""


def cache_dir() -> Path:
    """The lab's directory: $DMABUF_TRACE_CACHE, or dmabuf-trace in the user's cache."""
    chosen = os.environ.get("DMABUF_TRACE_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dmabuf-trace"


def log_file(name: str) -> Path:
    return cache_dir() / "log" / f"{name}.log"


def digest(recipe: Iterable[str | bytes]) -> str:
    """A short name for a recipe; parts are kept apart, so ("ab", "c") is not ("a", "bc")."""
    summary = hashlib.sha256()
    for part in recipe:
        data = part.encode() if isinstance(part, str) else part
        summary.update(len(data).to_bytes(8, "little") + data)
    return summary.hexdigest()[:12]


def digest_files(top: Path, names: Iterable[str]) -> str:
    """The digest of files and directories below `top`, by path and content.

    What building or running leaves behind (bytecode, objects, caches) does not count."""
    parts: list[str | bytes] = []
    for name in sorted(names):
        path = top / name
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in found:
            if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".o":
                parts += [str(file.relative_to(top)), file.read_bytes()]
    return digest(parts)


def remove_tree(path: Path) -> None:
    """Delete what may belong to root, whole, without crossing into mounted file systems."""
    if path.exists():
        subprocess.run(as_root(["rm", "-rf", "--one-file-system", str(path)]), check=True)


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the one lock called `name`; it ends with the process, however that ends."""
    path = cache_dir() / "lock" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def built(name: str, key: str, build: Callable[[Path], None]) -> Path:
    """The entry `name` of recipe digest `key`, made by `build(directory)` if it is not there."""
    entry = cache_dir() / f"{name}-{key}"
    if not entry.is_dir():
        with lock(name):
            if not entry.is_dir():  # another process may have built it while this one waited
                partial = cache_dir() / f"{name}-{key}.partial"
                remove_tree(partial)
                partial.mkdir(parents=True)
                build(partial)
                partial.rename(entry)
                _remove_superseded(name, entry)
    os.utime(entry)
    return entry


def _remove_superseded(name: str, current: Path) -> None:
    """Delete entries of `name` that no one has used for a while, and builds that were killed."""
    for other in cache_dir().glob(f"{name}-" + "[0-9a-f]" * 12 + "*"):
        age = time.time() - other.stat().st_mtime
        if other != current and age > KEEP_UNUSED_SECONDS:
            remove_tree(other)
