# SPDX-License-Identifier: Apache-2.0
"""One line per slow step on stderr, ticking on a terminal; commands whose output goes to a log."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.vm.errors import LabError

LOG_TAIL_LINES = 25


@contextmanager
def step(what: str) -> Iterator[None]:
    """Show `what` while the body runs, then how long it took."""
    began = time.monotonic()
    done = threading.Event()
    tty = sys.stderr.isatty()

    def show(end: str, state: str) -> None:
        seconds = time.monotonic() - began
        sys.stderr.write(f"{chr(13) if tty else ''}lab: {what} ... {state} {seconds:.0f} s{end}")
        sys.stderr.flush()

    def tick() -> None:
        while not done.wait(1.0):
            show("", "")

    if tty:
        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
    else:
        sys.stderr.write(f"lab: {what} ...\n")
        sys.stderr.flush()
    state = "failed after"
    try:
        yield
        state = "done in"
    finally:
        done.set()
        if tty:
            ticker.join()
        show("\n", state)


def as_root(command: Sequence[str]) -> list[str]:
    """`command` as it must be called to run as root: as it is for root, through sudo for others."""
    return list(command) if os.geteuid() == 0 else ["sudo", "--", *command]


def logged(command: Sequence[str], log: Path) -> str:
    """Run `command` with all its output in `log`; return that output.

    Raises LabError with the end of the log when the command is missing or fails."""
    # Debian keeps depmod and mke2fs out of the PATH of ordinary users.
    env = os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", "LC_ALL": "C"}
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("wb") as out:
            status = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, check=False
            ).returncode
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is not installed; ./dev vm installs what it needs") from error
    text = log.read_text(errors="replace")
    if status:
        tail = "\n".join(text.splitlines()[-LOG_TAIL_LINES:])
        raise LabError(f"{command[0]} failed with status {status}; end of {log}:\n{tail}")
    return text
