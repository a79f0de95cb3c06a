# SPDX-License-Identifier: Apache-2.0
"""The formats of an export: which there are, what each takes and needs, and where it goes.

All that can be refused is refused before the recording is read. Imports neither pandas nor what a
format needs before that.
"""

from __future__ import annotations

import importlib.util
import io
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfileobj
from typing import IO, TYPE_CHECKING, Final

from dmabuf_trace.errors import InputError, OutputError
from dmabuf_trace.outputs import check_path, whole_file

if TYPE_CHECKING:
    from dmabuf_trace.exports.tables import Opened
    from dmabuf_trace.extent import Window
    from dmabuf_trace.trace import Trace

STDOUT: Final = Path("-")


@dataclass(frozen=True, slots=True)
class Request:
    """What of which recording goes where; texts as on the command line, "" where not given."""

    file: Path
    to: str
    output: Path = STDOUT
    table: str = ""
    by: str = ""
    ftrace: Path | None = None
    window: Window | None = None
    force: bool = False


Files = Mapping[str, IO[bytes]]
"""By table, or one for all."""
Done = tuple["Trace", tuple[str, ...]]
"""The last stretch of the recording, and notes about what was written."""


def _perfetto(request: Request, files: Files) -> Done:
    from dmabuf_trace.exports.perfetto import write

    (file,) = files.values()
    return write(file, request.file, request.window, request.ftrace)


def _folded(request: Request, files: Files) -> Done:
    from dmabuf_trace.exports.folded import write

    (file,) = files.values()
    return write(file, request.file, request.window, request.by or DEFAULTS["by"])


def _tables(opened: Opened, request: Request, files: Files) -> Done:
    from dmabuf_trace.exports.tables import write

    return write(opened, files, request.file, request.window), ()


def _parquet(request: Request, files: Files) -> Done:
    from dmabuf_trace.exports.arrow import parquet

    return _tables(parquet, request, files)


def _arrow(request: Request, files: Files) -> Done:
    from dmabuf_trace.exports.arrow import arrow

    return _tables(arrow, request, files)


def _csv(request: Request, files: Files) -> Done:
    from dmabuf_trace.exports.text import csv

    return _tables(csv, request, files)


def _jsonl(request: Request, files: Files) -> Done:
    from dmabuf_trace.exports.text import jsonl

    return _tables(jsonl, request, files)


@dataclass(frozen=True, slots=True)
class Format:
    """How it is written, the one option that it takes, and the package and extra that it needs.

    Those that need one are binary.
    """

    write: Callable[[Request, Files], Done]
    option: str
    package: str = ""
    extra: str = ""


FORMATS: Final = {
    "perfetto": Format(_perfetto, "ftrace", "perfetto", "perfetto"),
    "folded": Format(_folded, "by"),
    "parquet": Format(_parquet, "table", "pyarrow", "arrow"),
    "arrow": Format(_arrow, "table", "pyarrow", "arrow"),
    "csv": Format(_csv, "table"),
    "jsonl": Format(_jsonl, "table"),
}
DEFAULTS: Final = {"by": "leaked-bytes", "table": "events"}


def export(request: Request) -> Done:
    """Write what is asked for.

    Raises:
        InputError: there is no such format, table or weight, or a file can't be read.
        OutputError: it can't be written there.
    """
    wanted = _format(request)
    if request.table:
        from dmabuf_trace.exports.tables import ALL, tables_of

        names = tables_of(request.table)
        if request.table == ALL:
            with _folder(request, names) as files:
                return wanted.write(request, files)
    if request.by:
        from dmabuf_trace.exports.folded import weight

        weight(request.by)
    name = request.table or DEFAULTS["table"]
    with _file(request, is_binary=bool(wanted.package)) as file:
        return wanted.write(request, {name: file})


def _format(request: Request) -> Format:
    """The format, where it is there and takes the options given."""
    wanted = FORMATS.get(request.to)
    if wanted is None:
        raise InputError(f"--to: no format {request.to!a}", f"there are: {', '.join(FORMATS)}")
    for each in FORMATS.values():
        if each.option != wanted.option and getattr(request, each.option):
            of = ", ".join(name for name, row in FORMATS.items() if row.option == each.option)
            raise InputError(f"--to {request.to} takes no --{each.option}", f"it is for: {of}")
    if wanted.package and importlib.util.find_spec(wanted.package) is None:
        hint = f"pip install 'dmabuf-trace[{wanted.extra}]'"
        raise InputError(f"--to {request.to} needs the package {wanted.package}", hint)
    return wanted


@contextmanager
def _file(request: Request, *, is_binary: bool) -> Iterator[IO[bytes]]:
    """The file, or stdout, which gets what is binary when all of it is there."""
    if request.output != STDOUT:
        _keep_inputs(request, request.output)
        check_path(request.output, force=request.force)
        with whole_file(request.output, force=request.force) as file:
            yield file
    elif not is_binary:
        with _stdout() as file:
            yield file
    elif sys.stdout.isatty():
        raise OutputError(f"--to {request.to} is not for a terminal", "add -o FILE, or a pipe")
    else:
        with tempfile.TemporaryFile() as whole:
            yield whole
            whole.seek(0)
            with _stdout() as file:
                copyfileobj(whole, file)


@contextmanager
def _stdout() -> Iterator[IO[bytes]]:
    """Stdout, which takes all that it is given: with PYTHONUNBUFFERED its own buffer is none."""
    if isinstance(sys.stdout.buffer, io.RawIOBase):
        with open(sys.stdout.fileno(), "wb", closefd=False) as file:
            yield file
    else:
        yield sys.stdout.buffer


@contextmanager
def _folder(request: Request, names: tuple[str, ...]) -> Iterator[Files]:
    """A file per table in a new folder; an old one is taken where that is forced."""
    folder = request.output
    if folder == STDOUT:
        raise OutputError("--table all is a file per table", "add -o FOLDER")
    try:
        folder.mkdir()
        is_new = True
    except FileExistsError:
        is_new = False
        if not request.force or not folder.is_dir():
            raise OutputError(f"{folder} exists", "choose another folder, or add --force") from None
    except OSError as error:
        raise OutputError(f"can't make {folder}: {error.strerror}", "choose another") from None
    try:
        with ExitStack() as stack:
            paths = {name: folder / f"{name}.{request.to}" for name in names}
            for path in paths.values():
                _keep_inputs(request, path)
                check_path(path, force=request.force)
            yield {
                name: stack.enter_context(whole_file(path, force=request.force))
                for name, path in paths.items()
            }
    except BaseException:
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise


def _keep_inputs(request: Request, path: Path) -> None:
    """Nothing is written over what is read."""
    for read in (request.file, request.ftrace):
        if read and path.exists() and read.exists() and path.samefile(read):
            raise OutputError(f"{path} is what is read", "choose another file")
