# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in the lab, as opposed to in the command that runs in it."""

from __future__ import annotations

from typing import Literal

EXIT_LAB = 125
"""Exit status of the lab's own failures, as `timeout` and container tools use it."""

Kind = Literal["boot", "panic", "hang", "lost"]
"""boot: CMD never began; panic: the kernel died under it; hang: the time limit came first;
lost: the guest went away (power-off, reset) without telling CMD's status."""


class LabError(Exception):
    """The lab could not do its part; the message says what to do next."""


class GuestError(LabError):
    """A guest failed as a machine. `console` is the end of what its kernel printed; `stdout` and
    `stderr` are what the command had written by then."""

    def __init__(
        self, kind: Kind, message: str, console: str, stdout: str = "", stderr: str = ""
    ) -> None:
        super().__init__(f"guest {kind}: {message}")
        self.kind = kind
        self.console = console
        self.stdout = stdout
        self.stderr = stderr

    def __str__(self) -> str:
        head = super().__str__()
        if not self.console:
            return f"{head}\n(the console is empty)"
        return f"{head}\n--- end of the guest's console ---\n{self.console}\n---"
