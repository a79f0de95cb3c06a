# SPDX-License-Identifier: Apache-2.0
"""Where a verdict goes, and in which formats: ``FORMAT`` to stdout, ``FORMAT=FILE`` to a file.

All that can be refused is refused before anything is run; until a verdict is written, nothing is
left behind. A file appears whole or not at all. Imports neither pandas nor rich before it writes.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import IO, TYPE_CHECKING, Final, NoReturn, Self

from dmabuf_trace.errors import InputError, OutputError

if TYPE_CHECKING:
    from dmabuf_trace.findings import Verdict

SUMMARY_VARIABLE: Final = "GITHUB_STEP_SUMMARY"
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_HINT: Final = "choose another file"


def _json(verdict: Verdict) -> str:
    from dmabuf_trace.render.machine import verdict_json

    return verdict_json(verdict) + "\n"


def _junit(verdict: Verdict) -> str:
    from dmabuf_trace.render.junit import verdict_junit

    return verdict_junit(verdict)


def _ktap(verdict: Verdict) -> str:
    from dmabuf_trace.render.ktap import verdict_ktap

    return verdict_ktap(verdict)


def _sarif(verdict: Verdict) -> str:
    from dmabuf_trace.render.sarif import verdict_sarif

    return verdict_sarif(verdict)


def _github(verdict: Verdict) -> str:
    from dmabuf_trace.render.github import verdict_commands

    return verdict_commands(verdict)


def _text(verdict: Verdict) -> str:
    from io import StringIO

    from dmabuf_trace.render.table import write
    from dmabuf_trace.render.verdict import verdict_parts

    text = StringIO()
    write(verdict_parts(verdict, None), text)
    return text.getvalue()


FORMATS: Final[dict[str, Callable[[Verdict], str]]] = {
    "text": _text,
    "json": _json,
    "junit": _junit,
    "ktap": _ktap,
    "sarif": _sarif,
    "github": _github,
}


@dataclass(frozen=True, slots=True)
class Target:
    """One format, to stdout where it has no ``path``."""

    format: str
    path: Path | None


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where a verdict will go; ``summary`` is the file of the summary of GitHub's step."""

    targets: tuple[Target, ...]
    summary: Path | None
    force: bool

    @classmethod
    def open(cls, specs: Sequence[str], *, force: bool = False, taken: Iterable[Path] = ()) -> Self:
        """Check all that can be, before anything is run; ``taken`` are files in other use.

        Raises:
            InputError: not a format, or two of them to stdout.
            OutputError: a file exists (and not ``force``), can't be made, or is asked for twice.
        """
        targets = tuple(map(_target, specs))
        if sum(target.path is None for target in targets) > 1:
            raise InputError("--to: only one format can go to stdout", "add =FILE to the others")
        summary = _summary() if any(target.format == "github" for target in targets) else None
        seen = {_place(path) for path in (*taken, *([summary] if summary else []))}
        for path in (target.path for target in targets if target.path):
            if _place(path) in seen:
                raise OutputError(f"{path} is in use by this run already", _HINT)
            seen.add(_place(path))
            check_path(path, force=force)
        return cls(targets, summary, force)

    def write(self, verdict: Verdict) -> None:
        """Write all files, then what goes to stdout: text for people, unless a format does.

        Raises:
            OutputError: one can't be written; all others are.
        """
        failed: list[OutputError] = []
        for target in self.targets:
            if target.path:
                try:
                    write_file(target.path, FORMATS[target.format](verdict), force=self.force)
                except OutputError as error:
                    failed.append(error)
        if self.summary:
            try:
                _append(self.summary, verdict)
            except OutputError as error:
                failed.append(error)
        self._print(verdict)
        if failed:
            raise failed[0]

    def _print(self, verdict: Verdict) -> None:
        for target in self.targets:
            if target.path is None and target.format != "text":
                sys.stdout.write(FORMATS[target.format](verdict))
                return
        from dmabuf_trace.render.table import write
        from dmabuf_trace.render.verdict import verdict_parts

        write(verdict_parts(verdict), sys.stdout)


def _target(spec: str) -> Target:
    name, equals, file = spec.partition("=")
    if name not in FORMATS:
        raise InputError(f"--to: no format {name!r}", f"there are: {', '.join(FORMATS)}")
    if equals and not file:
        raise InputError(f"--to {spec}: no file is named", f"as in: --to {name}=FILE")
    return Target(name, Path(file) if file else None)


def _place(path: Path) -> tuple[Path, str]:
    """The same for two names of one file in one folder."""
    return path.parent.resolve(), path.name


def check_path(
    path: Path, *, force: bool, stdout: str = "without a file it goes to stdout"
) -> None:
    """Whether a file can be written there: one is made beside it, and deleted again.

    ``stdout`` says how to have it there instead.

    Raises:
        OutputError: it can't, or it exists (and not ``force``).
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        pass
    except OSError as error:
        _refuse(path, error)
    else:
        if not stat.S_ISREG(mode):
            raise OutputError(f"{path} is not a regular file", stdout)
        if not force:
            raise OutputError(f"{path} exists", f"{_HINT}, or add --force to replace it")
    try:
        fd, beside = _beside(path)
    except OSError as error:
        _refuse(path, error)
    os.close(fd)
    beside.unlink()


def _refuse(path: Path, error: OSError) -> NoReturn:
    raise OutputError(f"can't write {path}: {error.strerror}", _HINT) from None


def _beside(path: Path) -> tuple[int, Path]:
    """A new file in the same folder, whose name says that it is not whole."""
    beside = path.with_name(f".dmabuf-trace-{token_hex(4)}.part")
    return os.open(beside, _NEW, 0o644), beside


@contextmanager
def whole_file(path: Path, *, force: bool) -> Iterator[IO[bytes]]:
    """Within: a file to be written, which is there afterwards; not where anything fails.

    Raises:
        OutputError: it can't be written.
    """
    try:
        fd, beside = _beside(path)
        try:
            with os.fdopen(fd, "wb") as file:
                yield file
                file.flush()
                os.fsync(fd)
            if not force and os.path.lexists(path):
                raise OutputError(f"{path} was made by others meanwhile, and is kept", _HINT)
            beside.replace(path)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise
    except OSError as error:
        _refuse(path, error)


def write_file(path: Path, text: str, *, force: bool) -> None:
    """The whole file, or none.

    Raises:
        OutputError: it can't be written.
    """
    with whole_file(path, force=force) as file:
        file.write(text.encode(errors="backslashreplace"))


def _summary() -> Path | None:
    """The step's summary, where GitHub named a file for it."""
    named = os.environ.get(SUMMARY_VARIABLE)
    if not named:
        return None
    path = Path(named)
    try:
        # asked first: to open a pipe would wait for its reader
        if not stat.S_ISREG(path.lstat().st_mode):
            _refuse_summary(path, "not a regular file")
        os.close(os.open(path, _APPEND))
    except OSError as error:
        _refuse_summary(path, error.strerror)
    return path


def _refuse_summary(path: Path, why: str | None) -> NoReturn:
    hint = f"unset {SUMMARY_VARIABLE} to go without a summary"
    raise OutputError(f"can't append to {path}, the step's summary: {why}", hint) from None


def _append(path: Path, verdict: Verdict) -> None:
    """The summary, as far as the step's file has room for it."""
    from dmabuf_trace.render.github import SUMMARY_BYTES, verdict_summary

    try:
        fd = os.open(path, _APPEND)
        with os.fdopen(fd, "wb") as file:
            room = SUMMARY_BYTES - os.fstat(fd).st_size
            file.write(verdict_summary(verdict, room).encode(errors="backslashreplace"))
    except OSError as error:
        _refuse_summary(path, error.strerror)
