# SPDX-License-Identifier: Apache-2.0
"""References that an ioctl takes to a buffer by its fd, and never puts; and twins that do.

The first is what iommufd's selftest once did: it took a buffer by dma_buf_get(), found that it was
not one of its own, and returned without putting it.

Runs in a guest: ``python3 -m tests.references record DIR`` leaves ``MODE.dbt`` and ``MODE.json``
(what the module counted meanwhile) by each of some attach modes, and the module itself. Standard
library only.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from tests.cycle import PAGE
from tests.kmod.client import Buffer, Counters, Importer, Ref, load, set_name
from tests.kmod.harness import in_child, refused

MODULE: Final = Path("/opt/kmod/dmabuf_ref.ko")
BALANCED: Final = 5


def looked_at(ref: Ref, buffer: Buffer) -> None:
    """An ioctl takes a reference, finds that the buffer is not one to move, and puts it."""
    with refused(errno.EINVAL):
        ref.move(buffer)


def never_put(ref: Ref, buffer: Buffer) -> None:
    """The same without the put."""
    ref.leak_ref(buffer)


def one_of_many(ref: Ref, buffer: Buffer) -> None:
    """References at several places, many of them, and one of them is never put."""
    for _ in range(BALANCED):
        looked_at(ref, buffer)
    ref.leak_ref(buffer)
    ref.detach(ref.attach(buffer, Importer.IMP64))


def all_put(ref: Ref, buffer: Buffer) -> None:
    """The same without the one."""
    for _ in range(BALANCED):
        looked_at(ref, buffer)
    ref.detach(ref.attach(buffer, Importer.IMP64))


USES: Final[dict[str, Callable[[Ref, Buffer], None]]] = {
    "never-put": never_put,
    "put": looked_at,
    "one-of-many": one_of_many,
    "all-put": all_put,
}
"""By the name of the buffer."""

LEAKED: Final = {"never-put", "one-of-many"}
MODES: Final = ("auto", "fentry")


def use(name: str) -> None:
    """What a process does before it ends: all that it had open is closed by then."""
    with Ref() as ref, ref.export(PAGE) as buffer:
        set_name(buffer.fd, name)
        USES[name](ref, buffer)


def work() -> None:
    """Each in a process of its own."""
    for name in USES:
        _, status = os.waitpid(in_child(partial(use, name)), 0)
        if status:
            raise RuntimeError(f"{name} failed")


def counters() -> Counters:
    """What the module has counted; nobody keeps it open meanwhile."""
    with Ref() as ref:
        return ref.counters()


def record(out: Path, mode: str) -> None:
    """Record :func:`work`, then put what it did not."""
    before = counters()
    with tempfile.TemporaryDirectory() as own:
        recording = Path(own, f"{mode}.dbt")
        recorder = ["dmabuf-trace", "record", "--attach", mode, "-o", str(recording), "--"]
        subprocess.run([*recorder, "python3", "-m", "tests.references", "work"], check=True)
        shutil.copy(recording, out)
    counted = counters() - before
    with Ref() as ref:
        counted["undone"] = ref.undo_leaks()
        counted["live_buffers_then"] = ref.counters().live_buffers
    (out / f"{mode}.json").write_text(json.dumps(counted))


def main() -> None:
    """Work | record DIR."""
    match sys.argv[1:]:
        case ["work"]:
            work()
        case ["record", directory]:
            load(MODULE)
            for mode in MODES:
                record(Path(directory), mode)
            shutil.copy(MODULE, directory)
        case _:
            sys.exit("usage: python3 -m tests.references work | record DIR")


if __name__ == "__main__":
    main()
