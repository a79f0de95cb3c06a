# SPDX-License-Identifier: Apache-2.0
"""The errors that a person can cause or meet: one line, one hint, one exit status each.

Raised anywhere, caught once (in ``cli``). Must not know who raises them.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_FINDINGS = 1
EXIT_USAGE = 2
EXIT_INCONCLUSIVE = 3
EXIT_UNTRACEABLE = 4
EXIT_COMMAND = 5
"""Of ``check``: nothing was found, but the command failed by itself."""
EXIT_SKIPPED = 77
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class TraceError(Exception):
    """Base: ``str(error)`` says what is wrong, ``hint`` what to do next."""

    status: ClassVar[int] = EXIT_USAGE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class InputError(TraceError):
    """A file or an argument can't be used. Exit status 2."""


class OutputError(TraceError):
    """A result can't be written. Exit status 2."""


class UntraceableError(TraceError):
    """This kernel can't be traced, or not by this user. Exit status 4."""

    status = EXIT_UNTRACEABLE


class CommandNotFoundError(TraceError):
    """The command to record does not exist. Exit status 127, as in a shell."""

    status = EXIT_NOT_FOUND


class CommandNotExecutableError(TraceError):
    """The command to record exists but can't be executed. Exit status 126, as in a shell."""

    status = EXIT_NOT_EXECUTABLE
