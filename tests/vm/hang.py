# SPDX-License-Identifier: Apache-2.0
"""Asking a guest that hangs what its tasks are blocked in, before it is stopped."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

ANSWER_SECONDS = 5.0
POLL_SECONDS = 0.05
ASKED = "sysrq: Show Blocked State"
KEYS = ("alt", "sysrq", "w")


def _ask(monitor: Path) -> None:
    """Press the keys that make the kernel print its blocked tasks, through QEMU's monitor."""
    keys = [{"type": "qcode", "data": key} for key in KEYS]
    requests: list[dict[str, Any]] = [
        {"execute": "qmp_capabilities"},
        {"execute": "send-key", "arguments": {"keys": keys}},
    ]
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(ANSWER_SECONDS)
        link.connect(str(monitor))
        with link.makefile("rw") as lines:
            lines.readline()  # QEMU speaks first
            for request in requests:
                lines.write(json.dumps(request) + "\n")
                lines.flush()
                lines.readline()


def print_blocked_tasks(monitor: Path, console: Path) -> None:
    """Have the guest's kernel print its blocked tasks on the console, if it still can.

    Returns when the console stays as it is after the answer, or when there is none."""
    try:
        _ask(monitor)
    except OSError:
        return  # a QEMU that does not answer has nothing to tell
    deadline = time.monotonic() + ANSWER_SECONDS
    size = -1
    while time.monotonic() < deadline:
        text = console.read_bytes()
        if ASKED.encode() in text and len(text) == size:
            return
        size = len(text)
        time.sleep(POLL_SECONDS)
