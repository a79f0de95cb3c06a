# SPDX-License-Identifier: Apache-2.0
"""Recordings by steered recorders, in which each thing done has a window of its own.

They leave DIR with ``NAME.dbt``, and ``windows.json``: for each recording, by what was done, the
window (ns, CLOCK_MONOTONIC) and the inode number of the buffer that it is about.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from dmabuf_trace.remote import RecorderError, RemoteRecorder
from tests.cycle import cycles
from tests.gate.misuse import COUNTED, EVERYTHING, clean_of, fd
from tests.kmod.client import Ref, load
from tests.losses import stalled_reader

MODULE: Final = Path("/opt/kmod/dmabuf_ref.ko")
REFUSE: Final = MODULE.with_name("refuse.ko")
LOCAL: Final = Path("/tmp/gate")  # noqa: S108 - the guest's own: a share is slow and may lag
SMALL: Final = "64K"
TOO_MANY: Final = 300
"""Cycles whose events such a ring does not hold."""

Windows = dict[str, tuple[int, int, int]]


class Steered:
    """A recorder, and the windows of what is done beside it."""

    def __init__(self, name: str, *options: str) -> None:
        self.path = LOCAL / f"{name}.dbt"
        self.recorder = RemoteRecorder(self.path, options)
        (self.pid,) = children()
        self.windows: Windows = {}
        self._since = self.recorder.mark("ready")

    def done(self, what: str, inode: int) -> None:
        """This was done since the last window."""
        until = self.recorder.mark(what)
        self.windows[what] = (self._since, until, inode)
        self._since = until


def children() -> list[int]:
    """Pids of this thread's."""
    own = Path(f"/proc/self/task/{os.getpid()}/children")
    return list(map(int, own.read_text().split()))


@contextmanager
def steered(name: str, windows: dict[str, Windows], *options: str) -> Iterator[Steered]:
    """Within: it records."""
    found = Steered(name, *options)
    yield found
    found.recorder.close()
    windows[name] = found.windows


@contextmanager
def wrong(ref: Ref, **counts: int) -> Iterator[None]:
    """Within: the module counts these misuses, and no others."""
    before = ref.counters()
    yield
    changes = ref.counters() - before
    every = {name for counted in COUNTED.values() for name in counted}
    assert {name: changes[name] for name in every & changes.keys()} == counts


def misused(ref: Ref, windows: dict[str, Windows]) -> None:
    """Everything, first as it should be."""
    with steered("misuse", windows) as recorder:
        for name, do in EVERYTHING.items():
            with wrong(ref):
                recorder.done(clean_of(name), do(ref, clean=True))
            with wrong(ref, **COUNTED.get(name, {})):
                recorder.done(name, do(ref, clean=False))


def lost(ref: Ref, windows: dict[str, Windows]) -> None:
    """The recorder stands still while more happens than its ring holds."""
    with steered("lossy", windows, "--ring", SMALL) as recorder:
        recorder.done("before", fd(ref, clean=True))
        with stalled_reader(recorder.pid):
            cycles(TOO_MANY)
        recorder.done("lost", 0)
        leaked = fd(ref, clean=False)
        with stalled_reader(recorder.pid):
            cycles(TOO_MANY)
        recorder.done("lost, and a leak", leaked)
        recorder.done("after", fd(ref, clean=True))


def unobserved(ref: Ref, windows: dict[str, Windows]) -> None:
    """Of devices nothing was recorded."""
    with steered("partial", windows, "--events", "buffers,fds") as recorder:
        recorder.done("clean", fd(ref, clean=True))
        recorder.done("leak", fd(ref, clean=False))


def refused(ref: Ref, windows: dict[str, Windows]) -> None:
    """The kernel refuses probes on a function."""
    load(REFUSE)
    with steered("refused", windows, "--attach", "kprobe") as recorder:
        recorder.done("clean", fd(ref, clean=True))
        recorder.done("leak", fd(ref, clean=False))
    subprocess.run(["rmmod", REFUSE.stem], check=True)


def killed(ref: Ref, windows: dict[str, Windows]) -> None:
    """The recorder ends by SIGKILL: nobody says what was held then."""
    recorder = Steered("killed")
    recorder.done("clean", fd(ref, clean=True))
    recorder.done("leak", fd(ref, clean=False))
    os.kill(recorder.pid, signal.SIGKILL)
    with suppress(RecorderError):
        recorder.recorder.close()
    windows["killed"] = recorder.windows


def record(out: Path) -> None:
    """All recordings."""
    load(MODULE)
    LOCAL.mkdir()
    windows: dict[str, Windows] = {}
    with Ref() as ref:
        for each in (misused, lost, unobserved, refused, killed):
            each(ref, windows)
    for name in windows:
        shutil.copy(LOCAL / f"{name}.dbt", out)
    (out / "windows.json").write_text(json.dumps(windows))
